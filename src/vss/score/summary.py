"""Sums the counts of all shards and takes every quotient once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vss.core.confusion import iou, mean_iou
from vss.core.csv_file import write_csv
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.core.index import read_card
from vss.score.bootstrap import DRAWS, LEVEL, SEED, drawn_figures, flow_tables, intervals, save_draws
from vss.score.calibration import expected_calibration_error, reliability
from vss.score.consistency import WINDOW_LENGTHS
from vss.score.counts import CHANGED_COLUMNS, Counts, load_counts, merge_counts
from vss.score.measures import (
    CFFM_SKIPPED_FRAMES,
    boundary_iou,
    each_video,
    effective_consistency,
    mean_boundary_iou,
    window_consistency,
)
from vss.score.temporal import OFFICIAL_VIDEOS

_CONFUSIONS = 3  # labels that a class's missed pixels are said to have


def summarise(
    *,
    shards: Sequence[str | os.PathLike],
    card: str | os.PathLike,
    scores: str | os.PathLike,
    per_class: str | os.PathLike,
    per_video: str | os.PathLike,
    draws: str | os.PathLike | None = None,
) -> None:
    """Sums score shards and writes the scores of a prediction: one JSON, one row per class, one row per video (CSV).

    All scores are fractions 0..1; one that has no pixel to stand on is null. The keys are those of `overall_scores`.

    Args:
        shards: the npz files of every shard of one split.
        card: of the dataset that was scored.
        scores, per_class, per_video: files to write.
        draws: file to write the figures of the drawn videos to (npz), with which predictions are ranked.

    Raises:
        UserError: a shard is missing, there twice, or of another split or dataset.
    """
    dataset = read_card(card)
    counts = merge_counts([load_counts(path) for path in shards])
    if missing := sorted(set(range(counts.shards)) - set(counts.members)):
        raise UserError(f"score shards: {missing[0]} of 0..{counts.shards - 1} is missing")
    if list(counts.classes) != dataset.classes:
        raise UserError(f"{shards[0]}: counts other classes than {card}")
    left_out = sum(item.split == counts.split for item in dataset.left_out)
    drawn = drawn_figures(counts)
    found = scores_with_intervals(counts, drawn, left_out=left_out)
    write_json(scores, null_for_nan({"dataset": dataset.name, "drawn": dataset.drawn, **found}))
    if draws is not None:
        save_draws(draws, counts, drawn)
    for path, table in ((per_class, class_table(counts)), (per_video, video_table(counts))):
        write_csv(path, table)


def overall_scores(counts: Counts) -> dict[str, Any]:
    """Returns the scores of a split, named after the rule they follow (NaN where undefined).

    - `mIoU`: the challenge's, one confusion matrix, mean over the classes that the truth has.
    - `mIoU_mmseg`: classes that only the prediction has count as 0 (what the paper reports on val).
    - `fwIoU`, `pixel_acc`, `pixel_acc_class`: VSPW_baseline utils.py Evaluator, over all frames.
    - `video_mIoU`, `video_fwIoU`: mean over videos of the video's own.
    - `VC8`, `VC16`: official, pooled over the windows of all videos.
    - `strict`: void left out, all T-n+1 windows; `correct` also requires the right label.
    - `cffm_compat`: videos of more than 16 frames only, 0 and 255 one value in VC.
    - `TC_<flow>`, `TC_<flow>_first100`: over all videos, over the first 100 by id; only where flow was counted.
      TC_cal.py takes the first 100 lines of val.txt, whose order the index does not keep: other videos than these
      where the list is not sorted.
    - `VC16_dvis`: official windows of 8 and then of 16 frames pooled, as DVIS++'s script does.
    - `VEC8`, `VEC16`: mean over windows of the mean over classes of the IoU of where truth and prediction keep the
      class over the window.
    - `TC_<flow>_visible`: without the pixels that are occluded in the next frame (`vss.score.temporal.visible_pixels`).
    - `ECE`, `reliability`: expected calibration error and its bins; only where class scores were counted.
    - `mBIoU`: mean boundary IoU over the classes of the truth; `trimap_acc`: share labelled right near its contours.
    """
    confusion = counts.confusion()
    each_video = [frame_scores(counts.confusion([number])) for number in range(len(counts.videos))]
    long_videos = np.flatnonzero(counts.frames > CFFM_SKIPPED_FRAMES)
    result: dict[str, Any] = {
        "split": counts.split,
        **frame_scores(confusion),
        "mIoU_mmseg": mean_iou(confusion, "mmseg"),
        "video_mIoU": _mean(each["mIoU"] for each in each_video),
        "video_fwIoU": _mean(each["fwIoU"] for each in each_video),
        "strict": {},
        "cffm_compat": {"mIoU": mean_iou(counts.confusion(long_videos)), "videos": len(long_videos)},
    }
    windows = {}
    for length in WINDOW_LENGTHS:
        pooled = window_consistency(counts, length, "official")
        windows[f"VC{length}"] = len(pooled)
        result[f"VC{length}"] = _mean(pooled)
        result["strict"][f"VC{length}"] = _mean(window_consistency(counts, length, "strict"))
        result[f"VEC{length}"] = _mean(effective_consistency(counts, length))
        result["strict"][f"VC{length}_correct"] = _mean(window_consistency(counts, length, "correct"))
        result["cffm_compat"][f"VC{length}"] = _mean(window_consistency(counts, length, "cffm", long_videos))
    official = [window_consistency(counts, length, "official") for length in WINDOW_LENGTHS]
    result[f"VC{max(WINDOW_LENGTHS)}_dvis"] = _mean(np.concatenate(official))
    result["mBIoU"] = mean_boundary_iou(counts)
    near, right = counts.trimap.sum(axis=0)
    result["trimap_acc"] = float(right / near) if near else math.nan
    if counts.flow is not None:
        for name, table in flow_tables(counts.flow).items():
            result[name] = mean_iou(counts.confusion(table=table))
        first = counts.confusion(range(OFFICIAL_VIDEOS), table="flow_cells")
        result[f"TC_{counts.flow}_first{OFFICIAL_VIDEOS}"] = mean_iou(first)
    if len(counts.calibration):
        bins = counts.calibration_by_video().sum(axis=0)
        result["ECE"], result["reliability"] = float(expected_calibration_error(bins)), reliability(bins)
    in_truth = confusion.sum(axis=1) > 0
    predicted = confusion.sum(axis=0)[: len(counts.classes)] > 0
    result["counts"] = {
        "videos": len(counts.videos),
        "frames": int(counts.frames.sum()),
        "pixels": int(confusion.sum()),
        "classes_in_truth": int(in_truth.sum()),
        "classes_only_predicted": int((predicted & ~in_truth).sum()),
        "windows": windows,
        **({"unrefined_frames": counts.unrefined} if counts.unrefined else {}),
        **({"changed_pixels": dict(zip(CHANGED_COLUMNS, counts.changed, strict=True))} if counts.changed else {}),
    }
    return result


def scores_with_intervals(counts: Counts, drawn: Mapping[str, np.ndarray], *, left_out: int) -> dict[str, Any]:
    """Returns `overall_scores` and, under `intervals`, the 95% interval of each headline figure.

    Args:
        counts: of all shards of a split.
        drawn: their `drawn_figures`.
        left_out: frames or videos that the split lists and that could not be used; noted under `counts`.
    """
    about = {"videos": len(counts.videos), "draws": DRAWS, "seed": SEED, "level": LEVEL}
    scores = overall_scores(counts)
    scores["counts"]["left_out"] = left_out
    return {**scores, "intervals": intervals(drawn), "bootstrap": about}


def frame_scores(confusion: np.ndarray) -> dict[str, float]:
    """Returns mIoU, fwIoU, pixel_acc and pixel_acc_class of a confusion matrix [C, C + 1]; NaN without pixels."""
    truth = confusion.sum(axis=1)
    hit = np.diagonal(confusion)
    present = truth > 0
    if not present.any():
        return dict.fromkeys(("mIoU", "fwIoU", "pixel_acc", "pixel_acc_class"), math.nan)
    return {
        "mIoU": mean_iou(confusion),
        "fwIoU": float((truth[present] / truth.sum() * iou(confusion)[present]).sum()),
        "pixel_acc": float(hit.sum() / truth.sum()),
        "pixel_acc_class": float((hit[present] / truth[present]).mean()),
    }


def class_table(counts: Counts) -> pd.DataFrame:
    """Returns one row per class: IoU, boundary IoU, recall, precision (NaN where undefined), pixels, confusions.

    `pixels_predicted` counts only where the truth has a class. mIoU is the mean of `iou` over rows with
    `pixels_truth` > 0. `taken_for` names what most of a class's missed pixels are taken for, with their share of all
    its pixels: "door 12.3%; wall 4.0%".
    """
    confusion = counts.confusion()
    hit = np.diagonal(confusion)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)[: len(counts.classes)]
    with np.errstate(invalid="ignore"):
        recall, precision = hit / truth, hit / predicted
    return pd.DataFrame(
        {
            "class_id": np.arange(len(counts.classes)),
            "class": counts.classes,
            "iou": iou(confusion),
            "boundary_iou": boundary_iou(counts),
            "recall": recall,
            "precision": precision,
            "pixels_truth": truth,
            "pixels_predicted": predicted,
            "taken_for": [_taken_for(row, at, counts.classes) for at, row in enumerate(confusion)],
        }
    )


def _taken_for(row: np.ndarray, train_id: int, classes: Sequence[str]) -> str:
    """Returns the labels that most missed pixels of a class have, from its row [C + 1] of the confusion matrix."""
    missed = row.copy()
    missed[train_id] = 0
    names = [*classes, "no class"]
    most = [at for at in np.argsort(-missed, kind="stable")[:_CONFUSIONS].tolist() if missed[at]]
    return "; ".join(f"{names[at]} {100 * missed[at] / row.sum():.1f}%" for at in most)


def video_table(counts: Counts) -> pd.DataFrame:
    """Returns one row per video: its frames and pixels, and every figure of its own (VC and VEC: mean over windows)."""
    # Windows are split by video once: per video it would take seconds for each figure of VSPW.
    windows = {
        f"VC{length}{suffix}": each_video(counts, length, rule)
        for rule, suffix in (("official", ""), ("strict", "_strict"), ("correct", "_correct"), ("cffm", "_cffm"))
        for length in WINDOW_LENGTHS
    }
    windows |= {f"VEC{length}": each_video(counts, length, None) for length in WINDOW_LENGTHS}
    calibration = expected_calibration_error(counts.calibration_by_video())
    rows = []
    for number, video in enumerate(counts.videos):
        confusion = counts.confusion([number])
        row = {"video": video, "frames": int(counts.frames[number]), "pixels": int(confusion.sum())}
        row |= frame_scores(confusion)
        row["mIoU_mmseg"] = mean_iou(confusion, "mmseg")
        row |= {name: _mean(values[number]) for name, values in windows.items()}
        pooled = np.concatenate([windows[f"VC{length}"][number] for length in WINDOW_LENGTHS])
        row[f"VC{max(WINDOW_LENGTHS)}_dvis"] = _mean(pooled)
        row["mBIoU"] = mean_boundary_iou(counts, [number])
        near, right = counts.trimap[number]
        row["trimap_acc"] = float(right / near) if near else math.nan
        for name, table in flow_tables(counts.flow).items():
            row[name] = mean_iou(counts.confusion([number], table=table))
        if len(counts.calibration):
            row["ECE"] = float(calibration[number])
        rows.append(row)
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["video", "frames", "pixels"])


def _mean(values: Iterable[float]) -> float:
    """Returns the mean of what is not NaN, exactly rounded, so that it does not depend on the order."""
    defined = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def null_for_nan(value: Any) -> Any:
    """Returns the value with None for every NaN in it: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [null_for_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
