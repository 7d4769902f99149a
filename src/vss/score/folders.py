"""Scores label maps of any system against a dataset on disk, without a workflow: the figures of `scores.json`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from vss.configs.datasets import read_dataset_row
from vss.configs.layouts import OUR_LABELS, import_source
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.core.index import INDEX_COLUMNS, Card
from vss.core.labels import VSPW
from vss.core.log import show, track
from vss.exchange.readers import open_reader, refuse_missing
from vss.prepare.folders import list_dataset
from vss.score.bootstrap import FIGURES, drawn_figures
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
) -> dict[str, Any]:
    """Returns the scores of a folder of predictions against a dataset of VSPW_480p's layout.

    Args:
        predicted: folder of `<video>/<frame>.png` (one byte per pixel: train ids 0..123, 255 = no class), as in a
            submission; of our `*.labels.h5` files; in another `layout`; or a path with {video} and {frame}.
        dataset_root: folder with `data/<video>/origin`, `data/<video>/mask` and `<split>.txt`.
        split: "train" or "val": the split needs masks.
        layout: row of `vss.configs.layouts.LAYOUTS`.
        ids: what the stored values are: "train", "raw", or a class table (CSV); None = the layout's.

    Returns:
        The figures of `scores.json` (`vss.score.summary.overall_scores`, `intervals`), None where undefined.

    Raises:
        UserError: a folder or list is missing or damaged; a frame of the split has no mask or no prediction, or one of
            another size, or with a value that is no id.
    """
    counts = count_folder(Path(predicted), Path(dataset_root), split=split, layout=layout, ids=ids)
    return null_for_nan({"dataset": VSPW.name, **scores_with_intervals(counts, drawn_figures(counts), left_out=0)})


def print_scores(
    predicted: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    split: str = "val",
    layout: str | None = None,
    ids: str | None = None,
    out: str | os.PathLike | None = None,
) -> None:
    """Prints the headline figures of `score_folder` in percent with their intervals; writes all as JSON to `out`.

    Raises:
        UserError: see `score_folder`.
    """
    scores = score_folder(predicted, dataset_root, split=split, layout=layout, ids=ids)
    if out is not None:
        write_json(out, scores)
    counts = scores["counts"]
    show(f"{counts['frames']} frames of {counts['videos']} videos, split {split}; percent, [95% interval over videos]")
    for name in FIGURES:
        if scores[name] is not None:
            between = scores["intervals"][name]
            shown = f" [{100 * between[0]:.2f}, {100 * between[1]:.2f}]" if between else ""
            show(f"{name:<16}{100 * scores[name]:6.2f}{shown}")


def count_folder(
    predicted: Path, dataset_root: Path, *, split: str = "val", layout: str | None = None, ids: str | None = None
) -> Counts:
    """Counts a folder of predictions as `score_folder` scores it."""
    if split not in ("train", "val"):
        raise UserError(f"split: is {split!r}, only 'train' and 'val' have masks to score against")
    for folder, what in ((predicted, "predictions"), (dataset_root, "the dataset")):
        if not folder.is_dir() and "{" not in str(folder):  # a pattern
            raise UserError(f"{folder}: no such folder of {what}")
    rows = _listed(dataset_root, split)
    if layout is None and next(predicted.glob(f"*{OUR_LABELS}"), None):
        layout = "vss"
    given = {"labels": str(predicted), "layout": layout, "ids": ids}
    source = import_source({key: value for key, value in given.items() if value is not None}, where="score")
    dataset = _card(dataset_root)
    with open_reader(source, dataset, split=split) as reader:
        refuse_missing(reader, zip(rows["video"], rows["frame"], strict=True), what=f"score {predicted} {split}")
        videos = list(rows.groupby("video", sort=True))
        return merge_counts(
            [
                count_videos(
                    track(videos, what=f"score {predicted} {split}", unit="video"),
                    lambda video, frame: reader.labels((video, frame)),
                    predicted,
                    dataset=dataset,
                    split=split,
                    shard=0,
                    shards=1,
                )
            ]
        )


def _card(root: Path) -> Card:
    """Returns the card of a VSPW folder without an index."""
    label_map = VSPW.raw_to_train().tolist()
    return Card(VSPW.name, str(root), list(VSPW.classes), label_map, drawn=False, frames={}, sha256="")


def _listed(root: Path, split: str) -> pd.DataFrame:
    """Returns index rows of a split; sizes are 0, which nothing here reads."""
    listing = list_dataset(read_dataset_row(VSPW.name, {"root": str(root)}).layout, root)
    # What is wrong in this split stops: a score of fewer frames would look like that of all.
    for problem in listing.problems:
        if problem.file == f"{split}.txt" and problem.kind == "list_missing":
            raise UserError(f"{root / problem.file}: {problem.found}")
        if problem.left_out and problem.left_out.split == split:
            raise UserError(f"{root / problem.file}: {problem.kind}: {problem.found}")
    rows = [(f.video, f.frame, f.split, f.image, f.mask, 0, 0) for f in listing.frames if f.split == split]
    if not rows:
        raise UserError(f"{root / split}.txt: lists no frame of split {split!r}")
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS))
