"""Compares two predictions, or all that two results folders have in common: which differences are more than noise?"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vss.core.confusion import iou
from vss.core.errors import UserError
from vss.core.files import read_json, write_json, write_text
from vss.core.labels_file import LabelsReader
from vss.core.log import show
from vss.score.bootstrap import figures_of, paired_intervals, score_of
from vss.score.compare_page import comparison_page
from vss.score.compare_pictures import Pictures, frame_pictures
from vss.score.counts import Counts, load_counts, merge_counts
from vss.score.summary import null_for_nan, overall_scores, video_table

_NAMED = 5  # classes, videos and frames that the printed comparison names each way
_FRAMES = 20  # frames that a comparison holds each way
_DRAWN = 3  # of them, those that its page shows pictures of
_WIDTH = 118  # characters of a printed line of settings


def compare(first: str | os.PathLike, second: str | os.PathLike, *, split: str = "val") -> dict[str, Any]:
    """Compares the scores of two predictions, or of two results folders prediction by prediction.

    Args:
        first, second: score folders of a prediction (`results/score/<prediction>`, or its split in it), or results
            folders.
        split: split of the dataset.

    Returns:
        {first, second, split, predictions: [...]}; each prediction has `name` (or both names), `videos`,
        `figures` by name ({first, second, difference, interval, noise, sentence}; fractions, 95% interval of the
        difference over videos drawn again, None where undefined), `settings` (dotted keys that differ, with both
        values), `only_first` and `only_second` (dotted keys that the other has nothing of, with what stands there),
        `per_class` and `per_video` (both IoU or mIoU and their difference, largest loss first), `frames` (those with
        the largest change of the share of pixels labelled right: `lost` and `gained`). For results folders
        `only_first` and `only_second` of the whole name the predictions that the other lacks.

    Raises:
        UserError: a folder has no counts, or the two were scored on other videos, frames or classes.
    """
    result: dict[str, Any] = {"first": str(first), "second": str(second), "split": split}
    pairs, only = _pairs(Path(first), Path(second), split)
    return null_for_nan(result | only | {"predictions": [_compare(*pair) for pair in pairs]})


def _pairs(one: Path, other: Path, split: str) -> tuple[list[tuple[str, Path, Path]], dict[str, list[str]]]:
    """Returns the name and both score folders of each prediction to compare, and which are in one results folder alone.

    Raises:
        UserError: see `compare`.
    """
    if (one / "score").is_dir() and (other / "score").is_dir():
        names, others = _predictions(one, split), _predictions(other, split)
        common = sorted(names & others)
        if not common:
            raise UserError(f"{one}, {other}: no prediction of split {split!r} was scored in both")
        pairs = [(name, one / "score" / name / split, other / "score" / name / split) for name in common]
        return pairs, {"only_first": sorted(names - others), "only_second": sorted(others - names)}
    before, after = _score_folder(one, split), _score_folder(other, split)
    return [(" -> ".join(dict.fromkeys((before.parent.name, after.parent.name))), before, after)], {}


def print_comparison(
    first: str | os.PathLike,
    second: str | os.PathLike,
    *,
    split: str = "val",
    out: str | os.PathLike | None = None,
    page: str | os.PathLike | None = None,
    as_json: bool = False,
) -> None:
    """Prints what `compare` finds, one block per prediction, figures in percent.

    Args:
        first, second, split: see `compare`.
        out: file to write all of it to as JSON.
        page: file to write it to as an HTML page.
        as_json: print it as JSON instead.

    Raises:
        UserError: see `compare`.
    """
    comparison = compare(first, second, split=split)
    if out is not None:
        write_json(out, comparison)
    if page is not None:
        write_text(page, comparison_page(comparison, _pictures(comparison, Path(first), Path(second))))
    if as_json:
        print(json.dumps(comparison, indent=2))
        return
    for prediction in comparison["predictions"]:
        show(f"{prediction['name']}, {comparison['split']}, {prediction['videos']} videos")
        for name, figure in prediction["figures"].items():
            if figure["difference"] is not None:
                values = f"{100 * figure['first']:7.2f} {100 * figure['second']:7.2f}"
                show(f"  {name:<20}{values}  {figure['sentence']}")
        for key, (before, after) in prediction["settings"].items():
            show(f"  {key}: {json.dumps(before)} -> {json.dumps(after)}")
        for which in ("first", "second"):
            if alone := prediction[f"only_{which}"]:
                listed = ", ".join(f"{key} {json.dumps(value)}" for key, value in alone.items())
                for line in textwrap.wrap(f"only the {which} has: {listed}", _WIDTH, subsequent_indent="  "):
                    show(f"  {line}")
        for kind, kinds in (("class", "classes"), ("video", "videos")):
            for what, rows in _worst(prediction[f"per_{kind}"], _NAMED).items():
                if rows:
                    named = ", ".join(f"{row[kind]} {100 * row['difference']:+.1f}" for row in rows)
                    show(f"  {kinds} that {what}: {named}")
        for what, rows in prediction["frames"].items():
            if rows:
                named = (f"{row['video']}/{row['frame']} {100 * row['difference']:+.1f}" for row in rows[:_NAMED])
                show(f"  frames that {what} (pixel_acc): {', '.join(named)}")
    for which in ("first", "second"):
        if only := comparison.get(f"only_{which}"):
            show(f"only in {comparison[which]}: {', '.join(only)}")


def _pictures(comparison: dict[str, Any], first: Path, second: Path) -> list[Pictures]:
    """Returns the pictures of the frames of each prediction that changed most, a few each way."""
    pairs, _ = _pairs(first, second, comparison["split"])
    return [
        frame_pictures(
            one, other, [(row["video"], row["frame"]) for rows in found["frames"].values() for row in rows[:_DRAWN]]
        )
        for (_, one, other), found in zip(pairs, comparison["predictions"], strict=True)
    ]


def _worst(rows: Sequence[dict[str, Any]], most: int) -> dict[str, list[dict[str, Any]]]:
    """Returns up to `most` rows each that lost and that gained most, of rows with the largest loss first."""
    return {
        "lost": [row for row in rows[:most] if row["difference"] < 0],
        "gained": [row for row in rows[::-1][:most] if row["difference"] > 0],
    }


def _predictions(results: Path, split: str) -> set[str]:
    return {path.parent.parent.name for path in (results / "score").glob(f"*/{split}/scores.json")}


def _score_folder(path: Path, split: str) -> Path:
    """Returns the folder with the counts of a prediction's split."""
    for folder in (path, path / split):
        if any(folder.glob("[0-9]*.npz")):
            return folder
    raise UserError(f"{path}: has no counts of split {split!r}; name results/score/<prediction> or a results folder")


def _load(folder: Path) -> Counts:
    """Returns all counts of a split; files of another number of shards, left by an earlier run, are passed over."""
    paths = sorted(folder.glob("[0-9]*.npz"))
    if not paths:
        raise UserError(f"{folder}: has no counts; score the prediction again")
    counts = [load_counts(path) for path in paths]
    whole = [part for part in counts if part.shards == counts[0].shards and part.members[0] < part.shards]
    merged = merge_counts(whole)
    if missing := sorted(set(range(merged.shards)) - set(merged.members)):
        raise UserError(f"{folder}: shard {missing[0]} of 0..{merged.shards - 1} is missing")
    return merged


def _compare(name: str, first: Path, second: Path) -> dict[str, Any]:
    """Compares the counts in two folders."""
    one, other = _load(first), _load(second)
    for what, left, right in (
        ("classes", one.classes, other.classes),
        ("videos", one.videos, other.videos),
        ("frames", one.frames.tolist(), other.frames.tolist()),
    ):
        if left != right:
            raise UserError(f"{second}: was scored on other {what} than {first}; only the same frames can be compared")
    scores, intervals = [overall_scores(counts) for counts in (one, other)], paired_intervals(one, other)
    names = [name for name in figures_of(one) if name in figures_of(other)]
    values = {name: [score_of(found, name) for found in scores] for name in names}
    return {
        "name": name,
        "videos": len(one.videos),
        "figures": {name: difference(name, *values[name], intervals.get(name)) for name in names},
        **_different_settings(_provenance(first), _provenance(second)),
        "per_class": _per_class(one, other),
        "per_video": _per_video(one, other),
        "frames": _worst(_per_frame(one, other), _FRAMES),
    }


def difference(name: str, first: float, second: float, interval: list[float] | None) -> dict[str, Any]:
    """Returns a figure's difference, second - first, whether it is noise, and a sentence that says so, in percent.

    Args:
        name: of the figure.
        first, second: fractions, NaN where undefined.
        interval: 95% of the paired difference, None where there is none.
    """
    gain = second - first
    noise = None if interval is None else interval[0] <= 0 <= interval[1]
    if np.isnan(gain):
        sentence = "is undefined in one of them"
    elif first == second and (interval is None or interval == [0, 0]):
        noise, sentence = True, "is the same"
    else:
        sentence = f"{100 * gain:+.2f} {name}"
        if interval is None:
            sentence += "; one video is too few for an interval"
        else:
            sentence += f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"
            if noise:
                sentence += ": noise; other videos of this kind could as well turn the order round"
    return {
        "first": first, "second": second, "difference": gain, "interval": interval, "noise": noise,
        "sentence": sentence,
    }  # fmt: skip


def _per_class(one: Counts, other: Counts) -> list[dict[str, Any]]:
    each = [iou(counts.confusion()) for counts in (one, other)]
    rows = [
        {"class": name, "first": float(a), "second": float(b), "difference": float(b - a)}
        for name, a, b in zip(one.classes, *each, strict=True)
        if not np.isnan(b - a)
    ]
    return sorted(rows, key=lambda row: row["difference"])


def _per_video(one: Counts, other: Counts) -> list[dict[str, Any]]:
    each = [video_table(counts)["mIoU"] for counts in (one, other)]
    rows = [
        {"video": video, "first": float(a), "second": float(b), "difference": float(b - a)}
        for video, a, b in zip(one.videos, *each, strict=True)
        if not np.isnan(b - a)
    ]
    return sorted(rows, key=lambda row: row["difference"])


def _per_frame(one: Counts, other: Counts) -> list[dict[str, Any]]:
    """Returns the share of pixels labelled right of every frame; nothing where a file of counts has no frames."""
    if not (one.frame_names and other.frame_names):
        return []
    rows = []
    for (video, position, pixels, right), (*_, other_right) in zip(
        one.frame_pixels.tolist(), other.frame_pixels.tolist(), strict=True
    ):
        if pixels:
            a, b = right / pixels, other_right / pixels
            frame = {"video": one.videos[video], "frame": one.frame_names[video][position]}
            rows.append({**frame, "first": a, "second": b, "difference": b - a})
    return sorted(rows, key=lambda row: row["difference"])


def _different_settings(one: dict[str, Any], other: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns by dotted key what differs in how the two were made, and what only one of them has anything of.

    A part that the other lacks as a whole, such as the training of a model of an ensemble, is one entry.
    """
    found: dict[str, dict[str, Any]] = {"settings": {}, "only_first": {}, "only_second": {}}
    for key in sorted(one.keys() | other.keys()):
        before, after = one.get(key), other.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            for kind, values in _different_settings(before, after).items():
                found[kind].update({f"{key}.{name}": value for name, value in values.items()})
        elif before != after:
            if key in one and key in other:
                found["settings"][key] = [before, after]
            else:
                found["only_first" if key in one else "only_second"][key] = before if key in one else after
    return found


def _provenance(folder: Path) -> dict[str, Any]:
    """Returns how a prediction was made, as its first file of label maps notes it; empty where it is gone."""
    split, name, results = folder.name, folder.parent.name, folder.parent.parent.parent
    paths = sorted((results / "predictions" / name / split).glob("[0-9]*.labels.h5"))
    found: dict[str, Any] = {}
    if paths:
        with LabelsReader(paths[0]) as reader:
            found = _settings_alone(_steps(reader.provenance))
    settings = results / "finetune" / name.split(".")[0] / "settings.json"
    if settings.exists():
        found["training"] = _settings_alone(read_json(settings), ())
    return found


def _settings_alone(
    provenance: Any, left_out: Sequence[str] = ("shard", "shards", "split", "prediction", "views")
) -> Any:
    """Returns a provenance without the prediction's name, what part of it a file holds, and what follows from the rest.

    The sizes of views follow from the test-time augmentation and the frames' sizes; all steps are of one index. What is
    not set is left out.
    """
    if not isinstance(provenance, dict):
        return provenance
    nested = (*left_out, "index_sha256")
    kept = {key: _settings_alone(value, nested) for key, value in provenance.items() if key not in left_out}
    return {key: value for key, value in kept.items() if value not in (None, {})}


def _steps(provenance: dict[str, Any]) -> dict[str, Any]:
    """Returns a refinement's provenance as that of what it refines, and each refinement of it under a key of its own.

    So a prediction and its refinement differ by the refinement alone.
    """
    refinements = []
    while isinstance(provenance.get("of"), dict):
        refinements.append({key: value for key, value in provenance.items() if key != "of"})
        provenance = provenance["of"]
    names = ("refinement", *(f"refinement_{number}" for number in range(2, len(refinements) + 1)))
    return {**provenance, **dict(zip(names, reversed(refinements), strict=False))}
