"""Which predicted pixels are certain enough to be trained on: a threshold per class, found over all frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vss.core.codec import Planes
from vss.core.label_space import ignore_index

_BINS = 1000  # of certainty, 0..1


def certainty(planes: Planes, measure: str) -> np.ndarray:
    """Returns the certainty of a prediction per pixel [H, W] float32, 0..1.

    Args:
        planes: the class probabilities.
        measure: "confidence": the probability of the labelled class; "entropy": 1 - entropy / log C.
    """
    if measure == "confidence":
        return np.maximum(planes.planes.max(axis=0), planes.rest)
    rest = planes.rest * (planes.num_classes - len(planes.classes) > 0)
    entropy = -_times_log(planes.planes).sum(axis=0) - (planes.num_classes - len(planes.classes)) * _times_log(rest)
    highest = np.log(max(planes.num_classes, 2))  # of a single class everything is certain
    return np.clip(1 - entropy / highest, 0, 1).astype(np.float32)


def _times_log(p: np.ndarray) -> np.ndarray:
    return p * np.log(np.maximum(p, np.float32(1e-12)))


class Thresholds:
    """Counts certainties by class, and then decides which pixels are kept.

    Args:
        num_classes: C.
        keep: share 0..1 of each class's pixels that is kept, the most certain first, by train id.
        least: certainty below which nothing is kept.
        max_share: of all that is kept, the share that one class may have at most; 1 = any.
    """

    def __init__(self, num_classes: int, *, keep: Sequence[float], least: float, max_share: float) -> None:
        self._counts = np.zeros((num_classes, _BINS), np.int64)
        self._keep, self._least, self._max_share = np.asarray(keep), least, max_share
        self._bins: np.ndarray | None = None

    def count(self, labels: np.ndarray, sure: np.ndarray) -> None:
        """Adds a frame's pixels; labels [H, W] with the ignore index = not to be kept."""
        labelled = labels != ignore_index(labels.dtype)
        places = labels[labelled].astype(np.int64) * _BINS + _bin_of(sure[labelled])
        self._counts += np.bincount(places, minlength=self._counts.size).reshape(self._counts.shape)

    def close(self) -> dict[str, list[float]]:
        """Sets the thresholds; returns by class the pixels counted and kept, and the least certainty kept.

        Bins of certainty are kept or dropped whole; the bin in which the share is reached is kept.
        """
        total = self._counts.sum(axis=1)
        allowed = np.where(np.arange(_BINS) >= _bin_of(np.asarray(self._least)), self._counts, 0)
        bins = _first_bins(allowed, self._keep * total)
        if self._max_share < 1:
            limit = _largest_within(_kept(allowed, bins), self._max_share)
            bins = np.maximum(bins, _first_bins(allowed, limit, beyond=False))
        self._bins = bins
        return {
            "pixels": total.tolist(),
            "kept": _kept(allowed, bins).tolist(),
            "least": (bins / _BINS).tolist(),
        }

    def chosen(self, labels: np.ndarray, sure: np.ndarray) -> np.ndarray:
        """Returns the labels [H, W] with the ignore index at the pixels that are not kept."""
        assert self._bins is not None, "close() comes first"
        least = np.append(self._bins, _BINS)[np.minimum(labels, len(self._bins))]
        return np.where(_bin_of(sure) >= least, labels, labels.dtype.type(ignore_index(labels.dtype)))


def _bin_of(sure: np.ndarray) -> np.ndarray:
    return np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)


def _first_bins(counts: np.ndarray, requested: np.ndarray, *, beyond: bool = True) -> np.ndarray:
    """Returns by class the lowest bin from which on at least (or, not `beyond`, at most) `requested` pixels lie."""
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # [C, bins]: pixels in this bin and those above
    if not beyond:
        within = above <= requested[:, None]
        return np.where(within.any(axis=1), within.argmax(axis=1), len(above[0]))
    reached = above >= np.minimum(requested, above[:, 0])[:, None]
    return np.where(requested > 0, len(above[0]) - 1 - reached[:, ::-1].argmax(axis=1), len(above[0]))


def _kept(counts: np.ndarray, bins: np.ndarray) -> np.ndarray:
    return np.where(np.arange(counts.shape[1]) >= bins[:, None], counts, 0).sum(axis=1)


def _largest_within(kept: np.ndarray, max_share: float) -> np.ndarray:
    """Returns counts [C], none more than `max_share` of their sum, by lowering the largest; all, if that cannot be."""
    limited = kept.astype(np.float64)
    for _ in range(len(kept)):
        over = limited > max_share * limited.sum() + 1e-9
        if not over.any() or over.sum() * max_share >= 1:
            break
        others = limited[~over].sum()
        limited[over] = max_share * others / (1 - over.sum() * max_share)
    return limited


def shares_by_class(keep: float, of_classes: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """Returns the share that is kept of every class, by train id."""
    return [of_classes.get(name, keep) for name in classes]
