"""What each refinement changed: its figures next to those of the prediction that it refines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vss.core.files import JsonObject
from vss.report.table import change_text, figure
from vss.score.bootstrap import interval, load_draws
from vss.score.compare import difference

_FIGURES = ("mIoU", "mBIoU", "VC8", "VC16", "TC_raft", "TC_dis")
_NAMED, _SHOWN = 5, 3  # classes and videos each way: that are kept, and of them those on the page


def refinements(
    table: pd.DataFrame,
    draws: Mapping[str, str | os.PathLike],
    counts: Mapping[str, JsonObject],
    *,
    per_class: Mapping[str, pd.DataFrame],
    per_video: Mapping[str, pd.DataFrame],
    seconds: Mapping[str, float],
    searches: Mapping[str, JsonObject],
) -> list[dict[str, Any]]:
    """Returns one entry per prediction that refines another scored one, in order.

    Args:
        table: as `score_table` returns it.
        draws: files of `vss.score.bootstrap.save_draws` by prediction.
        counts: `counts` of scores.json by prediction.
        per_class, per_video: rows of per_class.csv and per_video.csv by prediction; videos may be missing.
        seconds: per frame by prediction, all that it is made of included; NaN where unknown.
        searches: results of `vss search-refiner` by prediction.

    Returns:
        [{prediction, of, title, figures: {name: {before, after, interval}} in percent where both are known, with the
        95% interval of their paired difference or None, sentence: the difference of mIoU in words, classes, videos:
        {gained, lost: [{name, before, after}]} IoU and mIoU in percent, the largest change first, became_right,
        became_wrong: percent of the labelled pixels or None, seconds_per_frame: of the refinement alone, NaN where
        unknown, unrefined: frames that could not be refined and kept their labels, searched: the settings that were
        chosen on val, with the mIoU (0..1) there as given and as chosen, or None}].
    """
    rows = table.set_index("prediction")
    found = []
    for name in rows.index:
        source = name.rpartition(".")[0]
        if source not in rows.index:
            continue
        before, after = rows.loc[source], rows.loc[name]
        between = {key: paired(draws, source, name, key) for key in _FIGURES}
        figures = {
            key: {"before": float(before[key]), "after": float(after[key]), "interval": percent_edges(between[key])}
            for key in _FIGURES
            if pd.notna(before[key]) and pd.notna(after[key])
        }
        changed = counts[name].get("changed_pixels", {})
        found.append(
            {
                "prediction": name,
                "of": source,
                "title": after["title"],
                "figures": figures,
                "sentence": difference("mIoU", before["mIoU"] / 100, after["mIoU"] / 100, between["mIoU"])["sentence"],
                "classes": _changes(per_class[source], per_class[name], "class", "iou"),
                "videos": _changes(per_video.get(source), per_video.get(name), "video", "mIoU"),
                **{
                    key: 100 * changed[key] / max(counts[name]["pixels"], 1) if changed else None
                    for key in ("became_right", "became_wrong")
                },
                "seconds_per_frame": seconds[name] - seconds[source],
                "unrefined": counts[name].get("unrefined_frames", 0),
                "searched": {key: searches[name][key] for key in ("settings", "miou")} if name in searches else None,
            }
        )
    return found


def _changes(
    before: pd.DataFrame | None, after: pd.DataFrame | None, key: str, value: str
) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of both tables that gained and that lost most, in percent."""
    if before is None or after is None:
        return {"gained": [], "lost": []}
    both = before[[key, value]].merge(after[[key, value]], on=key, suffixes=("_before", "_after")).dropna()
    rows = [
        {"name": name, "before": 100 * earlier, "after": 100 * now}
        for name, earlier, now in both.itertuples(index=False, name=None)
        if earlier != now
    ]
    rows.sort(key=lambda row: row["before"] - row["after"])
    return {
        "gained": [row for row in rows[:_NAMED] if row["after"] > row["before"]],
        "lost": [row for row in rows[::-1][:_NAMED] if row["after"] < row["before"]],
    }


def refinements_table(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns one row per refinement as text: before, after and difference of every figure that any of them has.

    The number of frames that could not be refined is a column where any could not, and the shares of changed pixels are
    two where any refinement has them counted.
    """
    keys = [key for key in _FIGURES if any(key in entry["figures"] for entry in found)]
    rows = []
    for entry in found:
        cells = {key: _figure_cell(entry["figures"].get(key)) for key in keys}
        if any(each["became_right"] is not None for each in found):
            cells |= {f"became {what}": _share(entry[f"became_{what}"]) for what in ("right", "wrong")}
        if any(each["seconds_per_frame"] == each["seconds_per_frame"] for each in found):
            cells["seconds per frame"] = figure(entry["seconds_per_frame"])
        if any(each["unrefined"] for each in found):
            cells["frames kept as they were"] = str(entry["unrefined"])
        lines = [
            f"{what} {_named(entry[what][way])}"
            for what in ("classes", "videos")
            for way in ("gained", "lost")
            if entry[what][way]
        ]
        if entry["searched"]:
            lines.append(_searched(entry["searched"]))
        rows.append({"Refined prediction": entry["title"], **cells, "gains and losses": "\n".join(lines)})
    return pd.DataFrame(rows)


def _figure_cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    change = change_text(value["after"] - value["before"], value["interval"])
    change = change.replace(" [", "\n[").replace("] ", "]\n")  # narrow columns: the last one has as many lines
    return f"{figure(value['before'])} \u2192 {figure(value['after'])}\n{change}"


def _share(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}%"


def _named(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['name']} {row['after'] - row['before']:+.1f}" for row in rows[:_SHOWN])


def _searched(found: JsonObject) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items() if value is not None)
    given, chosen = (100 * found["miou"][key] for key in ("given", "chosen"))
    return f"searched on val ({given:.2f} \u2192 {chosen:.2f}): {settings}"


def percent_edges(edges: list[float] | None) -> list[float] | None:
    """Returns an interval of fractions in percent; None where there is none."""
    return None if edges is None else [100 * edge for edge in edges]


def paired(draws: Mapping[str, str | os.PathLike], before: str, after: str, key: str) -> list[float] | None:
    """Returns the 95% interval of a figure's difference, None where the two cannot be paired."""
    if before not in draws or after not in draws:
        return None
    (mark, first), (other, second) = (load_draws(draws[name], key) for name in (before, after))
    return interval(second - first) if mark == other and len(first) and len(second) else None
