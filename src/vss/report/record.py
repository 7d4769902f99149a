"""report.json: the machine-readable copy of what the report shows."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from vss.report.content import Content
from vss.report.seeds import seed_means
from vss.report.table import EDGES, OTHER, PAPER, SCORES

_FORMAT, _VERSION = "vss-report", 1


def report_record(content: Content) -> dict[str, Any]:
    """Returns the report as JSON (docs/formats.md), scores in percent and None for what is undefined."""
    record = {
        "format": _FORMAT,
        "version": _VERSION,
        "title": content.title,
        "remarks": [remark.text for remark in content.remarks],
        "run": content.made,
        "columns": {
            column.key: {"heading": column.heading, "meaning": column.meaning, "convention": column.convention}
            for column in (*SCORES, *PAPER, *OTHER)
        },
        "predictions": [_prediction(row, content) for row in content.table.to_dict("records")],
        "seeds": [asdict(mean) for mean in seed_means(content.table, [column.key for column in (*SCORES, *OTHER)])],
        "not_run": [{"title": row.title, "table": row.table, "paper": dict(row.paper)} for row in content.not_run],
        "ranks": [asdict(rank) for rank in content.ranks],
        "refinements": content.refinements,
        "ablation": [asdict(lever) for lever in content.ablation],
        "searches": {name: dict(found) for name, found in content.searches.items()},
        "trainings": content.trainings,
        "costs": [asdict(cost) for cost in content.costs],
        "frames": [{"video": row.video, "frame": row.frame, "note": row.note} for row in content.frames],
        "videos": [{"name": video.name, "frames": video.frames} for video in content.videos],
    }
    return without_nan(record)


def _prediction(row: dict[Any, Any], content: Content) -> dict[str, Any]:
    name = row["prediction"]
    between = {column.key: [row[f"{column.key}_{edge}"] for edge in EDGES] for column in (*SCORES, *OTHER)}
    classes = content.per_class[name]
    return {
        "name": name,
        "title": row["title"],
        "table": None if row["table"] is None or row["table"] != row["table"] else int(row["table"]),
        "scores": {column.key: row[column.key] for column in (*SCORES, *OTHER)},
        "intervals": {key: edges for key, edges in between.items() if not math.isnan(edges[0])},
        "paper": {column.key.removeprefix("paper_"): row[column.key] for column in PAPER},
        "seconds_per_frame": content.seconds.get(name, math.nan),
        "per_class": classes.astype(object).where(classes.notna(), None).to_dict("records"),
    }


def without_nan(value: Any) -> Any:
    """Returns the value with None for every NaN in it, and plain numbers for numpy's: JSON has neither."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
