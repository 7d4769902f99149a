"""Choosing the settings of the vote over time on a labelled split, from stored label maps and optical flow.

Coordinate ascent on the mean IoU of the summed confusion, as of an ensemble's weights: one setting after the other gets
the next smaller or larger value that is tried, until a round brings no gain.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from vss.configs.schema import read_section
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.errors import UserError
from vss.core.files import JsonObject, write_json
from vss.core.frames_file import FrameFiles
from vss.core.images import read_image
from vss.core.index import Card, read_dataset
from vss.core.labels_file import LabelsReader
from vss.core.log import log, track
from vss.core.scores_file import ScoresReader
from vss.flow.flow_file import FlowReader
from vss.infer.stream import load_ahead
from vss.refine.soft_labels import read_soft_labels
from vss.refine.temporal import PredictedFrame, TemporalSettings, smooth

MOST_FRAMES_TRIED = 1000  # about a minute of one core for each trial at 480x853
# Neighbours of a value are tried; what is given may lie between them.
_TRIED: dict[str, tuple[float, ...]] = {
    "window": (1, 2, 3, 5, 8, 11, 15, 20, 30),
    "decay": (0.8, 0.9, 0.93, 0.96, 0.98, 1.0),
    "consistency": (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0),
    "photometric": (5.0, 8.0, 11.0, 15.0, 20.0, 30.0, 60.0),
    "least_overlap": (0.1, 0.3, 0.5, 0.7),
    "thin_weight": (1.0, 2.0, 3.0, 5.0),
}
_LEAST_GAIN = 1e-4  # of mIoU: less is not worth leaving the given settings
_MAX_ROUNDS = 5


def search_refiner(
    *,
    settings: JsonObject,
    labels: Sequence[str | os.PathLike],
    flow: Sequence[str | os.PathLike],
    scores: Sequence[str | os.PathLike] | None = None,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shards: int,
    out: str | os.PathLike,
) -> None:
    """Chooses window, decay and thresholds on a labelled split and writes them with the record of how.

    Args:
        settings: `temporal` of the schema, with which the search begins.
        labels, flow: the prediction's label maps and the optical flow of all shards of the split.
        scores: its class scores, which vote unless `votes` is labels; None where labels vote.
        index, card: the prepared dataset.
        split: "val" or "train".
        shards: how many shards the split has; recorded only, frames are found by their key.
        out: JSON that `refine(chosen=...)` reads: the settings given and chosen; what they were chosen on; mIoU (0..1)
            without the refinement, with the given and with the chosen settings; the steps taken.

    Raises:
        UserError: the split is "test", has no masks, or a mistake in the settings or files.
    """
    if split not in ("val", "train"):
        raise UserError(f"split: is {split!r}, settings may be chosen on 'val' or 'train' only")
    given = read_section(TemporalSettings, "temporal", settings, where="refine temporal")
    table, dataset = read_dataset(index, card)
    rows = _sampled_rows(table, split)
    what = f"search temporal {split}"
    log(f"{what}: {len(rows)} frames, on the CPU")
    with contextlib.ExitStack() as stack:
        clips = _Clips(
            rows,
            dataset,
            stack.enter_context(FrameFiles(LabelsReader, labels)),
            stack.enter_context(FrameFiles(FlowReader, flow)),
            None
            if scores is None or given.votes == "labels"
            else stack.enter_context(FrameFiles(ScoresReader, scores)),
            what,
        )
        unrefined = clips.miou(None)
        chosen, miou, trace = _ascend(clips, given)
    report = {
        "given": asdict(given),
        "settings": asdict(chosen),
        "chosen_on": {
            "dataset": dataset.name,
            "split": split,
            "shards": shards,
            "index_sha256": dataset.sha256,
            "videos": rows["video"].nunique(),
            "frames": len(rows),
        },
        "miou": {"unrefined": unrefined, "given": miou[given], "chosen": miou[chosen]},
        "trace": trace,
    }
    write_json(Path(out), report)
    log(f"{what}: mIoU {100 * unrefined:.2f}, {100 * miou[given]:.2f} as given -> {100 * miou[chosen]:.2f}")


def _sampled_rows(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Returns all frames of labelled videos, evenly spaced ones where all have more than `MOST_FRAMES_TRIED`."""
    rows = table[table["split"] == split]
    labelled = rows.loc[rows["mask"] != "", "video"].unique()
    if not len(labelled):
        raise UserError(f"split {split!r}: has no frames with masks to choose settings on")
    rows = rows[rows["video"].isin(labelled)]
    count = max(1, min(len(labelled), len(labelled) * MOST_FRAMES_TRIED // len(rows)))
    taken = labelled[np.linspace(0, len(labelled) - 1, count).round().astype(int)]
    return rows[rows["video"].isin(taken)]


class _Clips:
    """Videos with a prediction and its optical flow, read again for every trial: memory does not grow with them."""

    def __init__(
        self,
        rows: pd.DataFrame,
        dataset: Card,
        labels: FrameFiles[LabelsReader],
        flow: FrameFiles[FlowReader],
        scores: FrameFiles[ScoresReader] | None,
        what: str,
    ) -> None:
        self._rows, self._dataset, self._what = rows, dataset, what
        self._labels, self._flow, self._scores = labels, flow, scores
        for reader in labels.readers:
            if reader.classes != dataset.classes:
                raise UserError(f"{reader.path}: predicts {len(reader.classes)} classes that are not the dataset's")

    def miou(self, settings: TemporalSettings | None) -> float:
        """Returns the mean IoU (VSPW convention, 0..1) of the labels after the vote; None: as they are."""
        frames = load_ahead(self._rows.itertuples(), self._read, workers=1, ahead=4)
        predicted: Iterator[PredictedFrame] = (frame for _, frame in frames)
        found = (frame.labels for frame in predicted) if settings is None else smooth(predicted, settings)
        num_classes = len(self._dataset.classes)
        confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        doing = self._what if settings is None else f"{self._what}: window {settings.window}"
        for row, refined in track(zip(self._rows.itertuples(), found, strict=True), what=doing, total=len(self._rows)):
            if row.mask:
                confusion += confusion_matrix(refined, self._dataset.read_mask(row.mask), num_classes)
        return mean_iou(confusion)

    def _read(self, row: Any) -> PredictedFrame:
        key = (row.video, row.frame)
        reader, flows = self._labels.get(*key), self._flow.get(*key)
        if reader is None:
            raise UserError(f"search temporal: no label map of frame {row.frame!r} of video {row.video!r}")
        labels, soft = reader.read(*key), None
        if labels.shape != (row.height, row.width):
            raise UserError(
                f"{reader.path}: frame {row.frame!r} of video {row.video!r} is {labels.shape[0]}x{labels.shape[1]}, "
                f"the index says {row.height}x{row.width}"
            )
        if self._scores is not None:
            scores = self._scores.get(*key)
            if scores is None:
                raise UserError(f"search temporal: no class scores of frame {row.frame!r} of video {row.video!r}")
            soft = read_soft_labels(scores, *key, labels)
        image = cv2.cvtColor(read_image(os.path.join(self._dataset.root, row.image)), cv2.COLOR_RGB2GRAY)
        return PredictedFrame(row.video, labels, image, None if flows is None else flows.read(*key), soft)


def _ascend(
    clips: _Clips, given: TemporalSettings
) -> tuple[TemporalSettings, dict[TemporalSettings, float], list[dict[str, Any]]]:
    """Returns settings no step from which is better by `_LEAST_GAIN`, the mIoU of all that was tried, and the steps."""
    best, miou = given, {given: clips.miou(given)}
    trace: list[dict[str, Any]] = []
    for _ in range(_MAX_ROUNDS):
        before = best
        for key in _TRIED:
            attempts = [replace(best, **{key: value}) for value in _next_to(key, getattr(best, key))]
            miou |= {attempt: clips.miou(attempt) for attempt in attempts if attempt not in miou}
            found = max(attempts, key=miou.__getitem__)
            if miou[found] > miou[best] + _LEAST_GAIN:
                best = found
                trace.append({"settings": asdict(best), "miou": miou[best]})
        if best == before:
            break
    return best, miou, trace


def _next_to(key: str, value: float) -> list[float]:
    """Returns the next smaller and the next larger value that are tried of a setting."""
    tried = _TRIED[key]
    return [*tried[: bisect_left(tried, value)][-1:], *tried[bisect_right(tried, value) :][:1]]
