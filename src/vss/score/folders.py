"""Scores any folder of label maps against a dataset on disk, without a workflow: the figures of `scores.json`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vss.core.errors import UserError
from vss.core.files import write_json
from vss.core.images import read_raw_mask
from vss.core.index import INDEX_COLUMNS
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsReader
from vss.core.log import track
from vss.prepare.vspw import list_vspw
from vss.score.bootstrap import FIGURES
from vss.score.counts import Counts, merge_counts
from vss.score.shard import LabelsOfFrame, count_videos
from vss.score.summary import null_for_nan, scores_with_intervals

_LABELS_SUFFIX = ".labels.h5"


def score_folder(
    predicted: str | os.PathLike, dataset_root: str | os.PathLike, *, split: str = "val"
) -> dict[str, Any]:
    """Returns the scores of a folder of predictions against a dataset of VSPW_480p's layout.

    Args:
        predicted: folder of `<video>/<frame>.png` (one byte per pixel: train ids 0..123, 255 = no class), as in a
            submission; or of our `*.labels.h5` files.
        dataset_root: folder with `data/<video>/origin`, `data/<video>/mask` and `<split>.txt`.
        split: "train" or "val": the split needs masks.

    Returns:
        The figures of `scores.json` (`vss.score.summary.overall_scores`, `intervals`), None where undefined.

    Raises:
        UserError: a folder or list is missing or damaged; a frame of the split has no mask or no prediction, or one of
            another size.
    """
    counts = count_folder(Path(predicted), Path(dataset_root), split=split)
    return null_for_nan({"dataset": VSPW.name, **scores_with_intervals(counts, left_out=0)})


def print_scores(
    predicted: str | os.PathLike,
    dataset_root: str | os.PathLike,
    *,
    split: str = "val",
    out: str | os.PathLike | None = None,
) -> None:
    """Prints the headline figures of `score_folder` in percent with their intervals; writes all as JSON to `out`.

    Raises:
        UserError: see `score_folder`.
    """
    scores = score_folder(predicted, dataset_root, split=split)
    if out is not None:
        write_json(out, scores)
    counts = scores["counts"]
    print(f"{counts['frames']} frames of {counts['videos']} videos, split {split}; percent, [95% interval over videos]")
    for name in FIGURES:
        if scores[name] is not None:
            between = scores["intervals"][name]
            shown = f" [{100 * between[0]:.2f}, {100 * between[1]:.2f}]" if between else ""
            print(f"{name:<16}{100 * scores[name]:6.2f}{shown}")


def count_folder(predicted: Path, dataset_root: Path, *, split: str = "val") -> Counts:
    """Counts a folder of predictions as `score_folder` scores it."""
    if split not in ("train", "val"):
        raise UserError(f"split: is {split!r}, only 'train' and 'val' have masks to score against")
    for folder, what in ((predicted, "predictions"), (dataset_root, "the dataset")):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of {what}")
    rows = _listed(dataset_root, split)
    with ExitStack() as stack:
        read = _png_reader(predicted)
        if files := sorted(predicted.glob(f"*{_LABELS_SUFFIX}")):
            read = _file_reader([stack.enter_context(LabelsReader(path)) for path in files], predicted)
        videos = list(rows.groupby("video", sort=True))
        return merge_counts(
            [
                count_videos(
                    track(videos, what=f"score {predicted} {split}", unit="video"),
                    read,
                    predicted,
                    root=dataset_root,
                    label_map=VSPW.raw_to_train(),
                    classes=VSPW.classes,
                    split=split,
                    shard=0,
                    shards=1,
                )
            ]
        )


def _listed(root: Path, split: str) -> pd.DataFrame:
    """Returns index rows of a split; sizes are 0, which nothing here reads."""
    listing = list_vspw(root)
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


def _png_reader(folder: Path) -> LabelsOfFrame:
    def read(video: str, frame: str) -> np.ndarray:
        path = folder / video / f"{frame}.png"
        if not path.exists():
            raise UserError(f"{path}: no prediction for frame {frame!r} of video {video!r}")
        return read_raw_mask(path)

    return read


def _file_reader(readers: list[LabelsReader], folder: Path) -> LabelsOfFrame:
    reader_of = {key: reader for reader in readers for key in reader.keys()}  # noqa: SIM118 (a reader is no dict)
    for reader in readers:
        if reader.classes != list(VSPW.classes):
            raise UserError(f"{reader.path}: predicts {len(reader.classes)} classes other than the dataset's")

    def read(video: str, frame: str) -> np.ndarray:
        if (video, frame) not in reader_of:
            raise UserError(f"{folder}: no prediction for frame {frame!r} of video {video!r}")
        return reader_of[video, frame].read(video, frame)

    return read
