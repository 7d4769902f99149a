"""The pixels of every class in every frame, counted once while masks are checked and kept next to the index."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vss.core.files import atomic_path, canonical_json
from vss.core.index import Card, read_dataset, read_index
from vss.core.log import log, track
from vss.core.masks import train_ids
from vss.prepare.checks import CheckedFrame
from vss.prepare.parallel import map_in_order

NAME = "class_counts.npz"
_FORMAT, _VERSION = "vss-class-counts", 1
# As of a full check, of which decoding masks is the smaller half.
_FRAMES_WORTH_PROCESSES = 2000


@dataclass(frozen=True)
class ClassPixels:
    """How many pixels of which class the frames of a split have; one entry for each class of each frame.

    Attributes:
        num_frames: N: the frames with a mask, in the order of the index.
        frame: [K] int64, 0..N-1, ascending.
        train_id: [K] int64; ignored pixels are not counted.
        pixels: [K] int64, at least 1.
    """

    num_frames: int
    frame: np.ndarray
    train_id: np.ndarray
    pixels: np.ndarray


class FrameCounts:
    """Pixels of every raw id in every frame, collected while masks are checked."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str, str], int] = {}
        self._ends, self._raw, self._pixels = array("Q", [0]), array("H"), array("I")
        self._whole = True

    def add(self, item: CheckedFrame) -> None:
        """Takes a checked frame."""
        frame = item.frame
        self._whole &= bool(item.values) or not frame.mask or not item.height
        self._at[frame.split, frame.video, frame.frame] = len(self._ends) - 1
        for raw, pixels in item.values:
            self._raw.append(raw)
            self._pixels.append(pixels)
        self._ends.append(len(self._raw))

    def write(self, index: str | os.PathLike, *, sha256: str, content: Mapping[str, str]) -> None:
        """Writes the counts next to an index, or removes earlier ones where masks were not decoded (`checks: fast`).

        Args:
            index: the dataset index, which is there; its frames are those that are written.
            sha256: of the index.
            content: by split, the digest of the files that were counted (`dataset_content`).
        """
        path = Path(index).with_name(NAME)
        if not self._whole:
            path.unlink(missing_ok=True)
            return
        rows = read_index(index)
        at = np.array([self._at[key] for key in zip(rows["split"], rows["video"], rows["frame"], strict=True)], int)
        ends, raw, pixels = np.array(self._ends, np.int64), np.array(self._raw), np.array(self._pixels)
        lengths = np.diff(ends)[at]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        # Entry k of frame n stands at ends[at[n]] + (k - starts[n]).
        taken = np.arange(starts[-1]) + np.repeat(ends[at] - starts[:-1], lengths)
        about = {"format": _FORMAT, "version": _VERSION, "index_sha256": sha256, "content": dict(content)}
        with atomic_path(path) as aside, open(aside, "wb") as file:
            np.savez_compressed(
                file,
                about=np.frombuffer(canonical_json(about).encode(), np.uint8),
                starts=starts,
                raw=raw[taken].astype(np.uint16),
                pixels=pixels[taken].astype(np.uint32),
            )


def class_pixels(
    index: str | os.PathLike, card: str | os.PathLike, *, split: str, content: Mapping[str, str], what: str
) -> ClassPixels:
    """Returns the pixels of every class in the frames of a split that have a mask.

    Those that `prepare` counted, or where it did not (`checks: fast`), or masks have changed since, counted now.

    Args:
        index, card: the prepared dataset.
        split: split of the dataset.
        content: digest of the files as they are now, by split; empty for a drawn dataset.
        what: starts the line of progress.
    """
    rows, dataset = read_dataset(index, card)
    chosen = np.flatnonzero((rows["split"] == split) & (rows["mask"] != ""))
    stored = _stored(Path(index).with_name(NAME), dataset, split, content)
    if stored is None:
        masks = [str(mask) for mask in rows["mask"].to_numpy()[chosen]]
        log(f"{what}: the pixels of each class are not known, counting them in {len(masks)} masks")
        counted = map_in_order(partial(_count, dataset=dataset), masks, worth=_FRAMES_WORTH_PROCESSES)
        found = list(track(counted, what=f"{what}: count classes", total=len(masks)))
        lengths = np.array([len(raw) for raw, _ in found], np.int64)
        raw, pixels = (_joined([each[part] for each in found]) for part in (0, 1))
    else:
        starts, all_raw, all_pixels = stored
        lengths = np.diff(starts)[chosen]
        taken = [slice(starts[n], starts[n + 1]) for n in chosen]
        raw, pixels = _joined([all_raw[part] for part in taken]), _joined([all_pixels[part] for part in taken])
    return _by_class(lengths, raw, pixels, dataset)


def _stored(
    path: Path, dataset: Card, split: str, content: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns (starts, raw, pixels) of a counts file, None where it is not of these files."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            counts = tuple(file[name] for name in ("starts", "raw", "pixels"))
        found = (about["format"], about["version"], about["index_sha256"], about["content"].get(split))
    except Exception:  # absent or damaged: numpy and zipfile raise many types; it is counted again
        return None
    return counts if found == (_FORMAT, _VERSION, dataset.sha256, content.get(split)) else None


def _count(mask: str, *, dataset: Card) -> tuple[np.ndarray, np.ndarray]:
    """Returns the raw ids of a mask and the pixels of each."""
    counts = np.bincount(dataset.read_raw_mask(mask).ravel())
    raw = np.flatnonzero(counts)
    return raw, counts[raw]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _by_class(lengths: np.ndarray, raw: np.ndarray, pixels: np.ndarray, dataset: Card) -> ClassPixels:
    """Returns counts by raw id as counts by class: several raw ids may be one class."""
    frame = np.repeat(np.arange(len(lengths)), lengths)
    train = train_ids(raw.astype(np.uint16), dataset.raw_to_train).astype(np.int64)
    num_classes = len(dataset.classes)
    counted = train < num_classes
    keys, place = np.unique(frame[counted] * num_classes + train[counted], return_inverse=True)
    summed = np.bincount(place, weights=pixels[counted], minlength=len(keys)).astype(np.int64)
    return ClassPixels(len(lengths), keys // num_classes, keys % num_classes, summed)
