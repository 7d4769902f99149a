"""Proposals of key frames alone, whose masks optical flow carries to the frames between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from vss.flow.run import open_method
from vss.refine.follow import found_again
from vss.refine.proposals import Proposals, Proposer, RunLengths, runs_of


class KeyFrames:
    """Makes proposals for every `interval`-th frame of a video; those between have the masks of the one before them.

    A pixel belongs to the masks of the pixel of the key frame that optical flow (OpenCV's DIS) between the two frames
    maps it to, and to none where it is not found there. A frame of another size than its key frame is a key frame too.

    Args:
        proposer: of one frame.
        interval: 1 makes every frame a key frame, which needs no flow. Otherwise the proposer has to give run lengths.
    """

    def __init__(self, proposer: Proposer, interval: int) -> None:
        self.device, self._proposer, self._interval = proposer.device, proposer, interval

    def start_of(self, position: int) -> int:
        """Returns the position of the key frame."""
        return position - position % self._interval

    def propose_video(self, images: Iterable[np.ndarray]) -> Iterator[Proposals]:
        """Yields the proposals of every frame [H, W, 3] uint8 RGB, the first of which is a key frame."""
        flow = open_method("dis", weights=None, device="cpu")
        key: np.ndarray | None = None
        for position, image in enumerate(images):
            if position % self._interval == 0 or key is None or image.shape != key.shape:
                key, masks = image, self._proposer.propose(image)
                yield masks
                continue
            assert isinstance(masks, RunLengths), type(masks)
            here, there = flow.prepare(image), flow.prepare(key)
            yield _carried(masks, *found_again(flow.between(here, there), flow.between(there, here)))


def _carried(masks: RunLengths, found: np.ndarray, source: np.ndarray) -> RunLengths:
    """Returns the masks of a frame whose pixels `found` are those of `source` in the frame of `masks`."""
    height, width = masks.size
    at = np.full(height * width, height * width)  # the pixel beyond the last is in no mask
    at[found] = source
    at = at.reshape(height, width).T.ravel()  # column by column, as run lengths are
    pixels, counts = masks.pixels()
    mask, runs = np.zeros(height * width + 1, bool), []
    for own in np.split(pixels, np.cumsum(counts)[:-1]) if len(counts) else ():
        mask[own] = True
        runs.append(runs_of(mask.take(at)))
        mask[own] = False
    return RunLengths.from_coco(masks.size, runs)
