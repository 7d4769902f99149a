"""Counts one shard of a prediction against the masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from vss.core.confusion import MOST_COUNTED_CLASSES
from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.index import Card, read_dataset, shard_rows
from vss.core.label_space import ignore_index
from vss.core.labels_file import LabelsReader
from vss.core.log import track
from vss.core.masks import train_ids
from vss.core.scores_file import ScoresReader
from vss.score.calibration import BINS, calibration_counts
from vss.score.counts import CHANGED_COLUMNS, TABLES, TRIMAP_COLUMNS, Counts, cells_of, save_counts
from vss.score.temporal import Flow, open_flow, pair_confusion, visible_confusion
from vss.score.video import VideoCounter

LabelsOfFrame = Callable[[str, str], np.ndarray]  # (video, frame) -> [H, W] uint8 of train ids


def score_shard(
    *,
    labels: str | os.PathLike,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    out: str | os.PathLike,
    flow: str | None = None,
    flow_weights: str | os.PathLike | None = None,
    scores: str | os.PathLike | None = None,
    refines: str | os.PathLike | None = None,
) -> None:
    """Counts a shard's label maps against its masks and writes the counts (`Counts`, npz).

    Prediction and mask are paired by (video, frame), never by position. Frames without a mask are not scored, and
    windows of frames in a row do not reach over them.

    Args:
        labels: `*.labels.h5` of this shard.
        index, card: the prepared dataset.
        split: split of the dataset; some of its frames need masks.
        shard, shards: which shard, of how many.
        out: npz file to write.
        flow: "dis" or "raft" also counts temporal consistency along that optical flow (reads the images as well).
        flow_weights: of torchvision's `raft_large`, for "raft".
        scores: `*.scores.h5` of this shard, to count how well calibrated the prediction is.
        refines: `*.labels.h5` of this shard of what the prediction refines, to count which pixels that changed.

    Raises:
        UserError: a frame with a mask has no prediction, or one of another size; no frame has a mask; the prediction
            was made for other classes.
    """
    motion = None if flow is None else open_flow(flow, flow_weights)
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    if not (table["mask"][table["split"] == split] != "").any():
        raise UserError(f"{index}: split {split!r} has no mask to score against")
    with LabelsReader(labels) as predictions, ExitStack() as opened:
        probabilities = None if scores is None else opened.enter_context(closing(ScoresReader(scores)))
        unrefined = None if refines is None else opened.enter_context(LabelsReader(refines))
        if predictions.classes != dataset.classes:
            raise UserError(f"{labels}: predicts {len(predictions.classes)} classes that are not the dataset's")
        videos = [(name, of_video) for name, of_video in rows.groupby("video", sort=True) if of_video["mask"].any()]
        counts = count_videos(
            track(videos, what=f"score {split} shard {shard}", unit="video"),
            predictions.read,
            predictions.path,
            dataset=dataset,
            split=split,
            shard=shard,
            shards=shards,
            flow=flow,
            motion=motion,
            probabilities=probabilities,
            unrefined=None if unrefined is None else unrefined.read,
        )
        counts = replace(counts, unrefined=len(predictions.unrefined()))
    save_counts(out, counts)


def count_videos(
    videos: Iterable[tuple[str, pd.DataFrame]],
    read: LabelsOfFrame,
    source: Path,
    *,
    dataset: Card,
    split: str,
    shard: int,
    shards: int,
    flow: str | None = None,
    motion: Flow | None = None,
    probabilities: ScoresReader | None = None,
    unrefined: LabelsOfFrame | None = None,
) -> Counts:
    """Counts videos against their masks.

    Args:
        videos: id and index rows of each, frames in order.
        read: gives the label map [H, W] uint8 of (video, frame).
        source: where the label maps are, for messages.
        dataset: that the rows are of.
        split, shard, shards, flow: see `score_shard`.
        motion: the optical flow of that name.
        probabilities: the class scores, to count calibration.
        unrefined: gives the label map that was refined, to count what that changed.

    Raises:
        UserError: see `score_shard`.
    """
    if len(dataset.classes) > MOST_COUNTED_CLASSES:
        raise UserError(
            f"{dataset.name}: has {len(dataset.classes)} classes, at most {MOST_COUNTED_CLASSES} can be scored; merge"
            " some by train_name in its class table"
        )
    counted = [
        (
            video,
            rows["frame"][rows["mask"] != ""],
            _count_video(number, rows, read, source, dataset, motion, probabilities, unrefined),
        )
        for number, (video, rows) in enumerate(videos)
    ]
    nothing = np.zeros(len(CHANGED_COLUMNS), np.int64)
    return Counts(
        split=split,
        shards=shards,
        members=(shard,),
        classes=tuple(dataset.classes),
        flow=flow,
        videos=tuple(video for video, _, _ in counted),
        frames=np.array([len(frames) for _, frames, _ in counted], np.int64),
        frame_names=tuple(tuple(frames) for _, frames, _ in counted),
        # A shard may have no video: its tables have no rows, and their columns.
        **{
            name: np.concatenate([np.zeros((0, len(names)), np.int64), *(tables[name] for _, _, tables in counted)])
            for name, names in (TABLES | {"trimap": TRIMAP_COLUMNS}).items()
        },
        changed=() if unrefined is None else tuple(sum((each["changed"] for *_, each in counted), nothing).tolist()),
    )


def _count_video(
    number: int,
    rows: pd.DataFrame,
    read: LabelsOfFrame,
    source: Path,
    dataset: Card,
    motion: Flow | None,
    probabilities: ScoresReader | None,
    unrefined: LabelsOfFrame | None,
) -> dict[str, np.ndarray]:
    """Returns the rows that one video adds to the tables of `Counts`."""
    num_classes = len(dataset.classes)
    counter = VideoCounter(number, num_classes)
    flow_total, visible_total = (np.zeros((num_classes, num_classes + 1), np.int64) for _ in range(2))
    calibration, changed = np.zeros((BINS, 3), np.int64), np.zeros(len(CHANGED_COLUMNS), np.int64)
    before: tuple[np.ndarray, np.ndarray] | None = None
    for row in rows.itertuples(index=False):
        if not row.mask and motion is None:
            counter.skip()
            continue
        predicted = read(row.video, row.frame)
        if row.mask:
            raw = dataset.read_raw_mask(row.mask)
            truth = train_ids(raw, dataset.raw_to_train)  # decoded once: consistency compares the raw values
            try:
                counter.add(raw=raw, truth=truth, labels=predicted)
            except UserError as error:
                raise UserError(f"{source}: frame {row.frame!r} of video {row.video!r}: {error}") from None
            if unrefined is not None:
                changed += _changed_pixels(unrefined(row.video, row.frame), predicted, truth)
            if probabilities is not None:
                stored = probabilities.read_planes(row.video, row.frame)
                calibration += calibration_counts(stored.planes.max(axis=0), stored.labels, truth)
        else:
            counter.skip()
        if motion is not None:
            image = read_image(Path(dataset.root) / row.image)
            if before is not None and before[0].shape == image.shape:
                flow, backward = motion(before[0], image), motion(image, before[0])
                flow_total += pair_confusion(before[1], predicted, flow, num_classes)
                visible_total += visible_confusion(before[1], predicted, flow, backward, num_classes)
            before = image, predicted
    confusions = {"cells": counter.confusion, "flow_cells": flow_total, "visible_cells": visible_total}
    used = np.flatnonzero(calibration[:, 0])
    bins = np.concatenate([np.full((len(used), 1), number), used[:, None], calibration[used]], axis=1)
    return {
        **counter.tables(),
        **{name: cells_of(confusion, number) for name, confusion in confusions.items()},
        "calibration": bins.astype(np.int64),
        "changed": changed,
    }


def _changed_pixels(unrefined: np.ndarray, refined: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns how many labelled pixels a refinement changed [3] int64, as `CHANGED_COLUMNS` tells them apart."""
    at = np.flatnonzero((unrefined != refined) & (truth != ignore_index(truth.dtype)))
    earlier, now, true = (labels.reshape(-1).take(at) for labels in (unrefined, refined, truth))
    right, wrong = np.count_nonzero(now == true), np.count_nonzero(earlier == true)
    return np.array([right, wrong, len(at) - right - wrong], np.int64)
