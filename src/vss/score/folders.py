"""Scores label maps of any system against a dataset on disk, without a workflow: the figures of `scores.json`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vss.configs.datasets import Dataset, read_dataset_row
from vss.configs.layouts import OUR_LABELS, import_source
from vss.core import zip_folder
from vss.core.errors import UserError
from vss.core.files import JsonObject, write_json
from vss.core.index import Card, read_dataset
from vss.core.labels import VSPW
from vss.core.log import show, track
from vss.exchange.readers import open_reader, refuse_missing
from vss.prepare.listed import listed_rows
from vss.score.bootstrap import FIGURES, drawn_figures, score_of
from vss.score.counts import Counts, merge_counts
from vss.score.shard import count_videos
from vss.score.summary import null_for_nan, scores_with_intervals


def score_folder(
    predicted: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    split: str = "val",
    layout: str | None = None,
    ids: str | None = None,
    data: JsonObject | None = None,
) -> dict[str, Any]:
    """Returns the scores of a folder of predictions against a dataset on disk.

    Args:
        predicted: folder of `<video>/<frame>.png` (one byte per pixel: train ids, 255 = no class), as in a submission;
            of our `*.labels.h5` files; in another `layout`; or a path with {video} and {frame}.
        dataset_root: folder of the dataset, in VSPW_480p's layout unless `data` says otherwise; or one that `prepare`
            wrote, with `index.csv` and `dataset.json`.
        split: "train" or "val": the split needs masks.
        layout: row of `vss.configs.layouts.LAYOUTS`.
        ids: what the stored values are: "train", "raw", or a class table (CSV); None = the layout's.
        data: the dataset as a row of the config's `data`, such as {"format": "cityscapes"}; its root is `dataset_root`.

    Returns:
        The figures of `scores.json` (`vss.score.summary.overall_scores`, `intervals`), None where undefined.

    Raises:
        UserError: a folder or list is missing or damaged; a frame of the split has no mask or no prediction, or one of
            another size, or with a value that is no id.
    """
    truth = _truth(Path(dataset_root), split, data)
    counts = _count_folder(Path(predicted), truth, split=split, layout=layout, ids=ids)
    return null_for_nan(
        {"dataset": truth.card.name, **scores_with_intervals(counts, drawn_figures(counts), left_out=0)}
    )


def print_scores(
    predicted: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    split: str = "val",
    layout: str | None = None,
    ids: str | None = None,
    data: JsonObject | None = None,
    out: str | os.PathLike | None = None,
) -> None:
    """Prints the headline figures of `score_folder` in percent with their intervals; writes all as JSON to `out`.

    Raises:
        UserError: see `score_folder`.
    """
    scores = score_folder(predicted, dataset_root, split=split, layout=layout, ids=ids, data=data)
    if out is not None:
        write_json(out, scores)
    counts = scores["counts"]
    show(f"{counts['frames']} frames of {counts['videos']} videos, split {split}; percent, [95% interval over videos]")
    for name in FIGURES:
        if (value := score_of(scores, name)) is not None:
            between = scores["intervals"][name]
            shown = f" [{100 * between[0]:.2f}, {100 * between[1]:.2f}]" if between else ""
            show(f"{name:<20}{100 * value:6.2f}{shown}")


@dataclass(frozen=True)
class _Truth:
    """A dataset's card and the index rows of the split that is scored; of a dataset without an index, sizes are 0."""

    card: Card
    rows: pd.DataFrame


def _count_folder(
    predicted: Path, truth: _Truth, *, split: str = "val", layout: str | None = None, ids: str | None = None
) -> Counts:
    """Counts a folder of predictions as `score_folder` scores it."""
    if not (predicted.is_dir() or zip_folder.is_folder(predicted) or "{" in str(predicted)):  # a pattern
        raise UserError(f"{predicted}: no such folder of predictions")
    if layout is None and next(predicted.glob(f"*{OUR_LABELS}"), None):
        layout = "vss"
    given = {"labels": str(predicted), "layout": layout, "ids": ids}
    source = import_source({key: value for key, value in given.items() if value is not None}, where="score")
    labelled = truth.rows[truth.rows["mask"] != ""]
    with open_reader(source, truth.card, split=split) as reader:
        keys = zip(labelled["video"], labelled["frame"], strict=True)
        refuse_missing(reader, keys, what=f"score {predicted} {split}")
        videos = [(name, of_video) for name, of_video in truth.rows.groupby("video") if of_video["mask"].any()]
        return merge_counts(
            [
                count_videos(
                    track(videos, what=f"score {predicted} {split}", unit="video"),
                    lambda video, frame: reader.labels((video, frame)),
                    predicted,
                    dataset=truth.card,
                    split=split,
                    shard=0,
                    shards=1,
                )
            ]
        )


def _truth(root: Path, split: str, data: JsonObject | None) -> _Truth:
    """Returns the dataset of a folder: one that `prepare` wrote, or a raw one.

    Raises:
        UserError: see `score_folder`.
    """
    if split not in ("train", "val"):
        raise UserError(f"split: is {split!r}, only 'train' and 'val' have masks to score against")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of the dataset")
    if data is None and (root / "dataset.json").is_file():
        table, card = read_dataset(root / "index.csv", root / "dataset.json")
        truth = _Truth(card, table[table["split"] == split])
    else:
        row = {"format": VSPW.name} if data is None else dict(data)
        dataset = read_dataset_row(row.get("format") or "data", {**row, "root": str(root)})
        truth = _Truth(_card(dataset, root), listed_rows(dataset, root, split))
    if not (truth.rows["mask"] != "").any():
        raise UserError(f"{root}: no frame of split {split!r} has a mask")
    return truth


def _card(dataset: Dataset, root: Path) -> Card:
    """Returns the card of a dataset without an index."""
    return Card(
        name=dataset.name,
        root=str(root),
        classes=list(dataset.space.classes),
        label_map=dataset.space.raw_to_train().tolist(),
        drawn=False,
        frames={},
        sha256="",
        space=dataset.space.name,
        colours=dataset.space.colours,
        coding=dataset.coding,
        ignored=dataset.space.ignored,
    )
