"""Counts one shard of a prediction against the masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.index import Card, read_dataset, shard_rows
from vss.core.labels_file import LabelsReader
from vss.core.log import track
from vss.core.masks import train_ids
from vss.score.counts import TABLES, TRIMAP_COLUMNS, Counts, cells_of, save_counts
from vss.score.temporal import FLOWS, pair_confusion
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
        flow: "dis" also counts temporal consistency along DIS optical flow (reads the images as well).

    Raises:
        UserError: a frame with a mask has no prediction, or one of another size; no frame has a mask; the prediction
            was made for other classes.
    """
    if flow is not None and flow not in FLOWS:
        raise UserError(f"flow: no such optical flow {flow!r}; allowed: {', '.join(sorted(FLOWS))}, or none")
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    if not (table["mask"][table["split"] == split] != "").any():
        raise UserError(f"{index}: split {split!r} has no mask to score against")
    with LabelsReader(labels) as predictions:
        if predictions.classes != dataset.classes:
            raise UserError(f"{labels}: predicts {len(predictions.classes)} classes other than the dataset's")
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
        )
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
) -> Counts:
    """Counts videos against their masks.

    Args:
        videos: id and index rows of each, frames in order.
        read: gives the label map [H, W] uint8 of (video, frame).
        source: where the label maps are, for messages.
        dataset: that the rows are of.
        split, shard, shards, flow: see `score_shard`.

    Raises:
        UserError: see `score_shard`.
    """
    counted = [
        (video, int((rows["mask"] != "").sum()), _count_video(number, rows, read, source, dataset, flow))
        for number, (video, rows) in enumerate(videos)
    ]
    return Counts(
        split=split,
        shards=shards,
        members=(shard,),
        classes=tuple(dataset.classes),
        flow=flow,
        videos=tuple(video for video, _, _ in counted),
        frames=np.array([frames for _, frames, _ in counted], np.int64),
        # A shard may have no video: its tables have no rows, and their columns.
        **{
            name: np.concatenate([np.zeros((0, len(names)), np.int64), *(tables[name] for _, _, tables in counted)])
            for name, names in (TABLES | {"trimap": TRIMAP_COLUMNS}).items()
        },
    )


def _count_video(
    number: int,
    rows: pd.DataFrame,
    read: LabelsOfFrame,
    source: Path,
    dataset: Card,
    flow: str | None,
) -> dict[str, np.ndarray]:
    """Returns the rows that one video adds to the tables of `Counts`."""
    num_classes = len(dataset.classes)
    counter = VideoCounter(number, num_classes)
    flow_total = np.zeros((num_classes, num_classes + 1), np.int64)
    before: tuple[np.ndarray, np.ndarray] | None = None
    for row in rows.itertuples(index=False):
        if not row.mask and flow is None:
            counter.skip()
            continue
        predicted = read(row.video, row.frame)
        if row.mask:
            raw = dataset.read_raw_mask(row.mask)
            truth = train_ids(raw, dataset.label_map)  # decoded once: consistency compares the raw values
            try:
                counter.add(raw=raw, truth=truth, labels=predicted)
            except UserError as error:
                raise UserError(f"{source}: frame {row.frame!r} of video {row.video!r}: {error}") from None
        else:
            counter.skip()
        if flow is not None:
            image = read_image(Path(dataset.root) / row.image)
            if before is not None and before[0].shape == image.shape:
                motion = FLOWS[flow](before[0], image)
                flow_total += pair_confusion(before[1], predicted, motion, num_classes)
            before = image, predicted
    return counter.tables() | {"cells": cells_of(counter.confusion, number), "flow_cells": cells_of(flow_total, number)}
