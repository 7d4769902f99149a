"""Mask proposals: class-agnostic masks of frames, and the interfaces of everything that makes them.

A proposer sees frames only, never a prediction; its proposals are stored once (`proposals_file.py`) and serve every
prediction that is refined. They come in two forms: label maps for partitions (superpixels), run lengths for masks that
may overlap (SAM). Masks of objects that are followed through a video (SAM 2) carry the objects' ids: tubes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Proposals(Protocol):
    """The masks of one frame, numbered 0..M-1."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame."""

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the row-major flat indices of every mask's pixels, one mask after another, and [M] their numbers."""


class Proposer(Protocol):
    """Makes proposals for one frame.

    Attributes:
        device: what it runs on, for the message.
    """

    device: str

    def propose(self, image: np.ndarray) -> Proposals:
        """Returns the proposals of `image` [H, W, 3] uint8 RGB."""


class VideoProposer(Protocol):
    """Makes proposals for the frames of a video.

    Attributes:
        device: what it runs on, for the message.
    """

    device: str

    def propose_video(self, images: Iterable[np.ndarray]) -> Iterator[Proposals]:
        """Yields the proposals of every frame [H, W, 3] uint8 RGB in the order of time; it may look at frames ahead."""

    def start_of(self, position: int) -> int:
        """Returns the position in a video from which on it has to see frames, so that the one at `position` comes out
        as it does where the whole video is seen.
        """


@dataclass(frozen=True)
class Partitions:
    """One or more partitions of the frame into segments.

    Attributes:
        maps: [S, H, W] uint16, or uint32 where a map has more than 65,536 segments; in each map the segments are
            numbered 0..n-1 without gaps.
    """

    maps: np.ndarray

    @classmethod
    def from_label_maps(cls, maps: Sequence[np.ndarray]) -> Partitions:
        """Numbers the segments of each label map [H, W] (any integers) without gaps."""
        numbered = [np.unique(m, return_inverse=True)[1].reshape(m.shape) for m in maps]
        largest = max(int(np.max(m)) for m in numbered)  # a photograph of 8 megapixels has 76,000 superpixels
        return cls(np.stack(numbered).astype(np.uint16 if largest < 1 << 16 else np.uint32))

    @property
    def size(self) -> tuple[int, int]:
        return self.maps.shape[1:]

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns flat indices and counts; masks are numbered map by map."""
        flat = self.maps.reshape(len(self.maps), -1)
        indices = [np.argsort(m, kind="stable") for m in flat]
        return np.concatenate(indices), np.concatenate([np.bincount(m) for m in flat])


@dataclass(frozen=True)
class RunLengths:
    """Masks that may overlap, as COCO's uncompressed run lengths.

    Attributes:
        size: height and width.
        runs: uint32, all masks' run lengths one after another: column-major, beginning with a run of zeros (which may
            be of length 0), alternating, summing to H * W per mask.
        lengths: [M] number of runs of each mask.
        ids: [M] int64 the objects that the masks are of, each with one number in all frames of a video, and none twice
            in a frame; None where masks of different frames have nothing to do with each other.
    """

    size: tuple[int, int]
    runs: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray | None = None

    @classmethod
    def from_coco(
        cls, size: tuple[int, int], counts: Iterable[Sequence[int] | np.ndarray], ids: np.ndarray | None = None
    ) -> RunLengths:
        """Joins the `counts` of uncompressed COCO RLE records."""
        counts = [np.asarray(c, np.uint32) for c in counts]
        runs = np.concatenate(counts) if counts else np.zeros(0, np.uint32)
        return cls(tuple(size), runs, np.array([len(c) for c in counts], np.int64), ids)

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns row-major flat indices (column by column within a mask) and counts."""
        height, width = self.size
        ends = np.cumsum(self.runs, dtype=np.int64)
        first = np.cumsum(self.lengths) - self.lengths
        place = np.arange(len(self.runs)) - np.repeat(first, self.lengths)
        mask = np.repeat(np.arange(len(self.lengths)), self.lengths)
        ones = place % 2 == 1
        length = self.runs[ones].astype(np.int64)
        start = ends[ones] - length - mask[ones] * (height * width)
        stop = np.cumsum(length)
        column_major = np.arange(int(stop[-1]) if len(stop) else 0) - np.repeat(stop - length - start, length)
        x, y = np.divmod(column_major, height)
        counts = np.bincount(mask[ones], weights=length, minlength=len(self.lengths)).astype(np.int64)
        return y * width + x, counts


def runs_of(column_major: np.ndarray) -> np.ndarray:
    """Returns the run lengths of a mask [W * H] bool whose pixels are column after column; see `RunLengths`."""
    edges = np.flatnonzero(column_major[1:] != column_major[:-1]) + 1
    runs = np.diff(edges, prepend=0, append=len(column_major))
    return np.concatenate([[0], runs]) if column_major[0] else runs
