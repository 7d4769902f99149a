"""How sure a figure is: intervals from drawing videos again, and paired differences between two predictions.

Videos, not frames, are drawn: frames of one video are nearly the same frame. A draw weighs every video by how often it
was drawn; every figure of a draw is taken from sums of the videos' counts under these weights, all draws at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vss.core.errors import UserError
from vss.core.files import BROKEN_NPZ, atomic_path, canonical_json, regular_file
from vss.score.boundary import BOUNDARY_COLUMNS
from vss.score.calibration import expected_calibration_error
from vss.score.consistency import WINDOW_LENGTHS
from vss.score.counts import CELL_COLUMNS, Counts, cells_of
from vss.score.measures import CFFM_SKIPPED_FRAMES, effective_consistency_by_video, window_consistency_by_video

DRAWS, SEED, LEVEL = 2000, 0, 0.95
# The headline figures, and those by other rules as they are nested in scores.json.
FIGURES = (
    "mIoU", "mIoU_mmseg", "fwIoU", "pixel_acc", "pixel_acc_class", "video_mIoU", "video_fwIoU", "VC8", "VC16",
    "VC16_dvis", "VEC8", "VEC16", "mBIoU", "trimap_acc", "strict.VC8", "strict.VC16", "strict.VC8_correct",
    "strict.VC16_correct", "cffm_compat.mIoU", "cffm_compat.VC8", "cffm_compat.VC16",
)  # fmt: skip


@dataclass(frozen=True)
class VideoSums:
    """What the figures of a set of videos are sums of, video by video (V videos, C classes), float64.

    Attributes:
        hit, truth, predicted: pixels of each class labelled right, in the truth, in the prediction [V, C].
        boundary: the same three in boundary bands [V, C] each (both, truth, predicted).
        trimap: labelled pixels near a contour, and those labelled right [V, 2].
        ratios: sum of a figure's windows, and their number, by figure [V, 2].
        long: 1 for the videos that CFFM's rule takes, 0 for the others [V].
        flow: `hit`, `truth` and `predicted` of the confusions along optical flow, by figure; empty without flow.
        calibration: counts by bin of confidence [V, BINS, 3], or None where there are none.
    """

    hit: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    boundary: tuple[np.ndarray, np.ndarray, np.ndarray]
    trimap: np.ndarray
    ratios: Mapping[str, np.ndarray]
    long: np.ndarray
    flow: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    calibration: np.ndarray | None


def figures_of(counts: Counts) -> tuple[str, ...]:
    """Returns the names of the headline figures that counts have: `FIGURES`, and those that a run may count besides."""
    calibration = ("ECE",) if len(counts.calibration) else ()
    return (*FIGURES, *flow_tables(counts.flow), *calibration)


def score_of(scores: Mapping[str, Any], name: str) -> Any:
    """Returns a figure of scores.json by its name, which is dotted where it is nested; None where there is none."""
    found: Any = scores
    for key in name.split("."):
        found = None if found is None else found.get(key)
    return found


def flow_tables(flow: str | None) -> dict[str, str]:
    """Returns which table of `Counts` each figure along an optical flow is taken from."""
    return {} if flow is None else {f"TC_{flow}": "flow_cells", f"TC_{flow}_visible": "visible_cells"}


def video_sums(counts: Counts) -> VideoSums:
    """Returns the sums of every video."""
    videos, classes = len(counts.videos), len(counts.classes)
    hit, truth, predicted = _sums_by_class(counts, "cells")
    boundary = []
    for name in ("both", "truth", "predicted"):
        total = np.zeros((videos, classes))
        table = {key: counts.boundary[:, BOUNDARY_COLUMNS.index(key)] for key in ("video", "class", name)}
        total[table["video"], table["class"]] = table[name]
        boundary.append(total)
    ratios, long = {}, (counts.frames > CFFM_SKIPPED_FRAMES).astype(np.float64)
    for length in WINDOW_LENGTHS:
        for name, rule in (("", "official"), ("strict.", "strict"), ("cffm_compat.", "cffm")):
            ratios[f"{name}VC{length}"] = window_consistency_by_video(counts, length, rule)
        ratios[f"cffm_compat.VC{length}"] = ratios[f"cffm_compat.VC{length}"] * long[:, None]
        ratios[f"strict.VC{length}_correct"] = window_consistency_by_video(counts, length, "correct")
        ratios[f"VEC{length}"] = effective_consistency_by_video(counts, length)
    ratios[f"VC{max(WINDOW_LENGTHS)}_dvis"] = sum(ratios[f"VC{length}"] for length in WINDOW_LENGTHS)
    return VideoSums(
        hit=hit,
        truth=truth,
        predicted=predicted,
        boundary=(boundary[0], boundary[1], boundary[2]),
        trimap=counts.trimap.astype(np.float64),
        ratios=ratios,
        long=long,
        flow={name: _sums_by_class(counts, table) for name, table in flow_tables(counts.flow).items()},
        calibration=counts.calibration_by_video() if len(counts.calibration) else None,
    )


def _sums_by_class(counts: Counts, table: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pixels of each video and class labelled right, in the rows and in the columns of a confusion."""
    videos, classes = len(counts.videos), len(counts.classes)
    video, row, column, pixels = (getattr(counts, table)[:, CELL_COLUMNS.index(name)] for name in CELL_COLUMNS)

    def by_class(index: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        total = np.zeros((videos, classes))
        np.add.at(total, (video[chosen], index[chosen]), pixels[chosen])
        return total

    everywhere = np.ones(len(pixels), bool)
    return by_class(row, row == column), by_class(row, everywhere), by_class(column, column < classes)


def figures(sums: VideoSums, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Returns every one of `figures_of` [D] of D weightings of the videos [D, V]; NaN where undefined."""
    hit, truth, predicted = weights @ sums.hit, weights @ sums.truth, weights @ sums.predicted
    iou, in_truth = _ratio(hit, truth + predicted - hit), truth > 0
    long_hit, long_truth, long_predicted = (
        weights * sums.long @ part for part in (sums.hit, sums.truth, sums.predicted)
    )
    both, band, predicted_band = (weights @ part for part in sums.boundary)
    of_video = _ratio(sums.hit, sums.truth + sums.predicted - sums.hit)
    video_miou = _mean(of_video, sums.truth > 0)
    video_fwiou = _ratio((sums.truth * np.nan_to_num(of_video)).sum(axis=1), sums.truth.sum(axis=1))
    defined = ~np.isnan(video_miou)
    trimap = weights @ sums.trimap
    optional = {}
    for name, parts in sums.flow.items():
        agreed, here, there = (weights @ part for part in parts)
        optional[name] = _mean(_ratio(agreed, here + there - agreed), here > 0)
    if sums.calibration is not None:
        optional["ECE"] = expected_calibration_error(np.tensordot(weights, sums.calibration, axes=1))
    return {
        "mIoU": _mean(iou, in_truth),
        "mIoU_mmseg": _mean(iou, ~np.isnan(iou)),
        "fwIoU": _ratio((truth * np.nan_to_num(iou)).sum(axis=1), truth.sum(axis=1)),
        "pixel_acc": _ratio(hit.sum(axis=1), truth.sum(axis=1)),
        "pixel_acc_class": _mean(_ratio(hit, truth), in_truth),
        **{
            name: _ratio(weights[:, defined] @ each[defined], weights[:, defined].sum(axis=1))
            for name, each in (("video_mIoU", video_miou), ("video_fwIoU", video_fwiou))
        },
        "cffm_compat.mIoU": _mean(_ratio(long_hit, long_truth + long_predicted - long_hit), long_truth > 0),
        "mBIoU": _mean(_ratio(both, band + predicted_band - both), in_truth),
        "trimap_acc": _ratio(trimap[:, 1], trimap[:, 0]),
        **{name: _ratio(*(weights @ ratios).T) for name, ratios in sums.ratios.items()},
        **optional,
    }


def drawn_weights(videos: int, *, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Returns how often each video is in each draw of as many videos with replacement [draws, videos] float64."""
    chance = np.full(videos, 1 / videos)
    return np.random.default_rng(seed).multinomial(videos, chance, size=draws).astype(np.float64)


def drawn_figures(counts: Counts) -> dict[str, np.ndarray]:
    """Returns every one of `figures_of` [draws] of the draws; empty for a single video, of which nothing can be drawn.

    Predictions that were scored on the same videos have the same draws: their figures can be paired.
    """
    if len(counts.videos) < 2:
        return {}
    return figures(video_sums(counts), drawn_weights(len(counts.videos)))


def intervals(drawn: Mapping[str, np.ndarray]) -> dict[str, list[float] | None]:
    """Returns the 95% interval [low, high] of each of `FIGURES` and of what else was drawn.

    None where a figure is undefined, or nothing was drawn.
    """
    return {name: interval(drawn[name]) if name in drawn else None for name in dict.fromkeys((*FIGURES, *drawn))}


def save_draws(path: str | os.PathLike, counts: Counts, drawn: Mapping[str, np.ndarray]) -> None:
    """Writes drawn figures, a mark of the videos that they are of, and the confusions; equal ones give equal bytes.

    What is written is what a report takes from all predictions: see `load_draws` and `load_confusions`.
    """
    cells = cells_of(counts.confusion(), 0)[:, 1:]
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, videos=np.array(_mark_of_videos(counts)), confusion=cells, **dict(drawn))


def load_draws(path: str | os.PathLike, figure: str) -> tuple[str, np.ndarray]:
    """Returns the mark of the videos, and one drawn figure [draws]; [0] where nothing was drawn.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        with np.load(regular_file(path), allow_pickle=False) as file:
            return str(file["videos"]), file[figure] if figure in file.files else np.zeros(0)
    except BROKEN_NPZ as error:
        raise UserError(f"{path}: not a readable file of draws ({error or type(error).__name__})") from None


def load_confusions(path: str | os.PathLike) -> np.ndarray | None:
    """Returns true class, predicted class (C = none) and pixels of all that was found [K, 3] int64; None in old files.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        with np.load(regular_file(path), allow_pickle=False) as file:
            return file["confusion"] if "confusion" in file.files else None
    except BROKEN_NPZ as error:
        raise UserError(f"{path}: not a readable file of draws ({error or type(error).__name__})") from None


def _mark_of_videos(counts: Counts) -> str:
    """Returns 16 hexadecimal digits of the videos and their numbers of frames."""
    content = canonical_json([counts.videos, counts.frames.tolist()])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def paired_intervals(first: Counts, second: Counts) -> dict[str, list[float] | None]:
    """Returns the 95% interval of each figure's difference, second - first, over the same draws of the same videos."""
    assert first.videos == second.videos, "figures of other videos cannot be paired"
    of_first, of_second = drawn_figures(first), drawn_figures(second)
    return intervals({name: of_second[name] - of_first[name] for name in of_first if name in of_second})


def interval(values: Sequence[float] | np.ndarray) -> list[float] | None:
    """Returns the middle 95% of values, without those that are NaN; None where all are."""
    defined = np.asarray(values)[~np.isnan(values)]
    tail = (1 - LEVEL) / 2
    return [float(edge) for edge in np.quantile(defined, (tail, 1 - tail))] if len(defined) else None


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Returns the mean over classes [D] of values [D, C] where they are counted."""
    return _ratio(np.where(counted, values, 0).sum(axis=1), counted.sum(axis=1))
