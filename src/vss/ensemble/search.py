"""Choosing an ensemble's temperatures and weights on a labelled split, from stored class scores.

Temperatures first, each member alone: the T with the lowest negative log likelihood of the truth. Then the weights, by
coordinate ascent on the mean IoU of the summed confusion. Where all members agree no weights can change the label, so
only pixels on which they differ are kept in memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.errors import UserError
from vss.core.files import JsonObject, write_json
from vss.core.index import Card, read_dataset
from vss.core.label_space import label_dtype
from vss.core.log import log, track
from vss.ensemble.members import Member, MemberScores, open_members, read_settings, tempered

# Neighbouring frames of a video are nearly equal: more of them cost time and hardly change what is chosen.
MAX_FRAMES = 2000
MAX_PIXELS = 60_000_000  # over all members, so that memory does not grow with their number
_PIXELS_AT_ONCE = 1 << 16  # that are dense, over all classes
_CANDIDATES = 8  # classes kept per pixel: those most probable in any member
_TEMPERATURES = np.geomspace(0.25, 4, 33)
_FACTORS = (0.0, 0.5, 0.8, 1.25, 2.0)
_LEAST_GAIN = 1e-5  # of mIoU: less is not worth leaving the given weights
_MAX_ROUNDS = 20


def search(
    *,
    settings: JsonObject,
    scores: Sequence[Sequence[str | os.PathLike]],
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shards: int,
    out: str | os.PathLike,
) -> None:
    """Chooses weights and temperatures on a labelled split and writes them with the record of how they were chosen.

    Args:
        settings: `ensemble_job` of the schema.
        scores: for each member the `*.scores.h5` of all shards of the split.
        index, card: the prepared dataset.
        split: "val" or "train".
        shards: how many shards the split has; recorded only, frames are found by their key.
        out: JSON that `ensemble(chosen=...)` reads: members; what it was chosen on; mIoU (0..1) of the given and of
            the chosen weights, of each member alone, and without each member.

    Raises:
        UserError: the split is "test", has no masks, or a mistake in the settings or scores.
    """
    if split not in ("val", "train"):
        raise UserError(f"split: is {split!r}, weights may be chosen on 'val' or 'train' only")
    options = read_settings(settings)
    members: Sequence[Member] = options.members
    if by_class := [member.name for member in members if member.class_weights]:
        raise UserError(f"members.{by_class[0]}.class_weights: cannot be searched; leave them out or set the weights")

    table, dataset = read_dataset(index, card)
    rows = _sampled_rows(table, split)
    what = f"search {options.prediction or 'weights'} {split}"
    log(f"{what}: {len(rows)} frames, {len(members)} members, on the CPU")

    # Read the class scores: once for the temperatures, and once, tempered, for the pixels that weights can change.
    nll = None
    with contextlib.ExitStack() as stack:
        opened = open_members(stack, members, scores)
        if opened[0].classes != dataset.classes:
            raise UserError(f"{card}: the dataset's classes are not those of the scores")
        pixels = PixelSource(rows, opened, dataset, what)
        if options.fit_temperature:
            members, nll = fit_temperatures(members, pixels)
        contest = pixels.contest(members)
    if not contest.record()["pixels"]:
        raise UserError(f"split {split!r}: no mask has a labelled pixel to choose weights on")

    # Climb from the given weights; without files, as the contest is in memory.
    given = np.array([member.weight for member in members])
    weights, trace = _ascend(contest, given) if options.search_weights else (given, [])

    report = {
        "prediction": options.prediction,
        "members": [
            {"name": member.name, "weight": float(weight), "temperature": member.temperature}
            for member, weight in zip(members, weights, strict=True)
        ],
        "chosen_on": {
            "dataset": dataset.name,
            "split": split,
            "shards": shards,
            "index_sha256": dataset.sha256,
            "frames": len(rows),
            **contest.record(),
        },
        "settings": dict(settings),
        "miou": {"given": contest.miou(given), "chosen": contest.miou(weights)},
        **_report_on_members(members, weights, contest),
        "trace": trace,
        **({} if nll is None else {"nll": nll}),
    }
    write_json(Path(out), report)
    log(f"{what}: mIoU {100 * report['miou']['given']:.2f} -> {100 * report['miou']['chosen']:.2f}")


def _sampled_rows(index: pd.DataFrame, split: str) -> pd.DataFrame:
    """Returns at most `MAX_FRAMES` labelled rows of a split, evenly spaced in index order."""
    rows = index[(index["split"] == split) & (index["mask"] != "")]
    if rows.empty:
        raise UserError(f"split {split!r}: has no frames with masks to choose weights on")
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_FRAMES)).round().astype(int))]


def _report_on_members(members: Sequence[Member], weights: np.ndarray, contest: Contest) -> dict[str, Any]:
    """Returns the mIoU of each member alone, and of the others without it (None where none would be left)."""
    alone, without = {}, {}
    for m, member in enumerate(members):
        only = np.zeros(len(members))
        only[m] = 1
        rest = np.where(only, 0, weights)
        alone[member.name] = contest.miou(only)
        without[member.name] = contest.miou(rest) if rest.any() else None
    return {"alone": alone, "without": without}


# ---- pixels


class PixelSource:
    """The labelled pixels of the sampled frames, with every member's probabilities there, frame by frame.

    Where a frame has more labelled pixels than its and a member's share of `MAX_PIXELS`, every n-th is taken.
    """

    def __init__(self, rows: pd.DataFrame, opened: Sequence[MemberScores], dataset: Card, what: str) -> None:
        self._rows, self._opened, self._dataset, self._what = rows, opened, dataset, what
        self._quota = max(MAX_PIXELS // (len(rows) * len(opened)), 1)
        self.num_classes = len(dataset.classes)

    def frames(self, temperatures: Sequence[float], doing: str) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Yields (truth [P], one [C, P] float32 for each member), a large frame in parts."""
        for row in track(self._rows.itertuples(index=False), what=f"{self._what}: {doing}", total=len(self)):
            # The labelled pixels, every n-th of them where there are more than the quota.
            mask = self._dataset.read_mask(row.mask)
            if mask.shape != (row.height, row.width):
                path = Path(self._dataset.root) / row.mask
                raise UserError(f"{path}: is {mask.shape}, the index says {(row.height, row.width)}")
            at = np.flatnonzero(mask != self._dataset.ignore_index)
            at = at[:: -(-len(at) // self._quota)] if len(at) else at

            # Every member's class scores there, tempered; other pixels never become dense.
            each = []
            for scores, temperature in zip(self._opened, temperatures, strict=True):
                planes = scores.read(row.video, row.frame, size=mask.shape)
                each.append(tempered(planes.at(at), temperature))

            truth = mask.reshape(-1)[at]
            for start in range(0, max(len(at), 1), _PIXELS_AT_ONCE):
                part = np.arange(start, min(start + _PIXELS_AT_ONCE, len(at)))
                yield truth[part], [planes.at(part).dense() for planes in each]

    def __len__(self) -> int:
        return len(self._rows)

    def contest(self, members: Sequence[Member]) -> Contest:
        """Returns what weights can change: the pixels on which the members differ."""
        agreed = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        truths, candidates, probabilities = [], [], []
        for truth, each in self.frames([member.temperature for member in members], "compare"):
            # Where all members agree the label is settled, whatever the weights: only its confusion is kept.
            labels = np.stack([dense.argmax(axis=0) for dense in each])
            differ = (labels != labels[0]).any(axis=0)
            agreed += confusion_matrix(
                labels[0][~differ].astype(label_dtype(self.num_classes)), truth[~differ], self.num_classes
            )

            # Elsewhere keep the classes that may win: those most probable in any member.
            stack = np.stack([dense[:, differ] for dense in each])  # [M, C, P]
            keep = min(_CANDIDATES, self.num_classes)
            best = np.argpartition(-stack.max(axis=0), keep - 1, axis=0)[:keep]
            best.sort(axis=0)  # a tie goes to the lower class
            truths.append(truth[differ])
            candidates.append(best.astype(label_dtype(self.num_classes)))
            probabilities.append(np.take_along_axis(stack, best[None], axis=1).astype(np.float16))
        return Contest(
            agreed=agreed,
            truth=np.concatenate(truths),
            candidates=np.concatenate(candidates, axis=1),
            probabilities=np.concatenate(probabilities, axis=2),
        )


@dataclass(frozen=True)
class Contest:
    """What is needed to score an ensemble for any weights.

    Attributes:
        agreed: confusion of the pixels on which all members agree [C, C + 1].
        truth: true class of the P other pixels [P].
        candidates: classes that may win there [K, P], ascending.
        probabilities: the M members' probabilities of them [M, K, P] float16.
    """

    agreed: np.ndarray
    truth: np.ndarray
    candidates: np.ndarray
    probabilities: np.ndarray

    def miou(self, weights: np.ndarray) -> float:
        """Returns the mean IoU (VSPW convention, 0..1) of the weighted mean; weights [M]."""
        confusion = self.agreed.copy()
        scale = (weights / weights.sum()).astype(np.float32)
        for start in range(0, len(self.truth), 1 << 18):
            part = slice(start, start + (1 << 18))
            # The weighted mean of the candidates' probabilities; members of weight 0 are not read.
            mean = sum(w * p.astype(np.float32) for w, p in zip(scale, self.probabilities[..., part], strict=True) if w)
            winner = np.take_along_axis(self.candidates[:, part], mean.argmax(axis=0)[None], 0)[0]
            confusion += confusion_matrix(winner, self.truth[part], len(confusion))
        return mean_iou(confusion)

    def record(self) -> dict[str, int]:
        """Returns how many pixels were looked at."""
        return {"pixels": int(self.agreed.sum()) + len(self.truth), "pixels_differing": len(self.truth)}


def _ascend(contest: Contest, given: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns weights (largest 1) no single change of which is better by `_LEAST_GAIN`, and the steps taken.

    One member after the other gets the best of a few weights, until a round brings nothing.
    """
    # Only ratios of weights matter, so that the largest is kept at 1.
    weights, best = given / given.max(), contest.miou(given)
    trace: list[dict[str, Any]] = []
    for _ in range(_MAX_ROUNDS):
        before = best
        for m in range(len(weights)):
            # A weight at 0 comes back as a part of the largest.
            tried = [factor * weights[m] for factor in _FACTORS] if weights[m] else [0.1, 0.3, 1.0]
            attempts = [np.where(np.arange(len(weights)) == m, value, weights) for value in tried]
            scored = [(contest.miou(attempt), attempt) for attempt in attempts if attempt.any()]
            found, attempt = max(scored, key=lambda pair: pair[0])
            if found > best + _LEAST_GAIN:
                weights, best = attempt / attempt.max(), found
                trace.append({"weights": weights.tolist(), "miou": best})
        if best == before:
            break
    return weights, trace


# ---- temperatures


def fit_temperatures(
    members: Sequence[Member], pixels: PixelSource
) -> tuple[tuple[Member, ...], dict[str, dict[str, float]]]:
    """Fits each member's temperature: the lowest mean negative log likelihood of the true class over the pixels.

    Returns:
        the members with their temperatures, and what these gained: {member: {"given": nats per pixel, "fitted": ...}}.
    """
    # Add up the negative log likelihood of every temperature of a grid, the given one among them.
    tried = [np.union1d(_TEMPERATURES, [member.temperature]) for member in members]
    total, count = [np.zeros(len(grid)) for grid in tried], 0
    for truth, each in pixels.frames([1.0] * len(members), "fit temperatures"):
        count += len(truth)
        for grid, sums, dense in zip(tried, total, each, strict=True):
            # A class of probability 0 has no logarithm; scores are stored in steps of about 1/255, shared dust below.
            log_p = np.log(np.maximum(dense, 1e-6))
            true = np.take_along_axis(log_p, truth[None].astype(np.intp), 0)[0]
            for t, temperature in enumerate(grid):
                normaliser = np.log(np.exp(log_p / np.float32(temperature)).sum(axis=0))
                sums[t] += (normaliser - true / temperature).sum()

    # Take the best of each grid.
    fitted, nll = [], {}
    for member, grid, sums in zip(members, tried, total, strict=True):
        at = int(np.argmin(sums))
        fitted.append(replace(member, temperature=float(grid[at])))
        given = sums[np.flatnonzero(grid == member.temperature)[0]]
        nll[member.name] = {"given": float(given / max(count, 1)), "fitted": float(sums[at] / max(count, 1))}
    return tuple(fitted), nll
