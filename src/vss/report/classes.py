"""Classes: how well each one is found by every prediction, and what its missed pixels are taken for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vss.core.log import one_line
from vss.report.viewer import Places

_FIGURES = {"iou": "IoU", "recall": "recall", "precision": "precision"}
_PIXELS = {"pixels_truth": "pixels, truth", "pixels_predicted": "pixels, predicted"}
SMALLEST_SHARE = 0.001  # of a class's pixels; the page would grow by confusions that nobody looks for
_NONE = "\u2013"
_TAKEN_FOR = re.compile(r"(.+?) ([0-9.]+)%(?:; |$)")


def classes_table(per_class: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per class that the truth or the prediction has, as text, the lowest IoU first.

    Args:
        per_class: rows of per_class.csv; figures become percent.
    """
    found = per_class[(per_class["pixels_truth"] > 0) | (per_class["pixels_predicted"] > 0)]
    found = found.sort_values("iou", kind="stable")
    table = {"Class": found["class"]}
    for key, heading in _FIGURES.items():
        table[heading] = found[key].map(lambda value: _NONE if pd.isna(value) else f"{100 * value:.2f}")
    for key, heading in _PIXELS.items():
        table[heading] = found[key].map("{:,}".format)
    table["taken for"] = found["taken_for"].fillna("")
    return pd.DataFrame(table)


def comparison(
    per_class: Mapping[str, pd.DataFrame],
    *,
    titles: Mapping[str, str],
    classes: Sequence[str],
    shown: Sequence[str],
    where: Places,
    confusions: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Returns what the page's script compares two predictions by, class by class.

    Args:
        per_class: rows of per_class.csv by prediction, in order.
        titles: of the predictions.
        classes: class names by train id, as the dataset has them.
        shown: the predictions that the viewer holds, in its order.
        where: places in the viewer.
        confusions: of `vss.score.bootstrap.load_confusions`, by prediction; where there are none, those that
            per_class.csv names are taken.

    Returns:
        {classes, pixels (of the truth), places (address in the viewer by train id, of the truth), predictions: [{title,
        iou (percent or None), predicted (pixels), taken: [[true, taken for or -1, pixels], ...], the most of a class
        first, places, confusions (addresses, by "true>taken")}], chosen: [first, second] at the start}; all other lists
        are by train id.
    """
    found = [
        {
            "title": titles[name],
            "iou": [None if pd.isna(value) else round(100 * float(value), 2) for value in table["iou"]],
            "predicted": table["pixels_predicted"].tolist(),
            "taken": taken_for(table, classes, confusions.get(name)),
            **_places(name, shown, where),
        }
        for name, table in per_class.items()
    ]
    first = next(iter(per_class.values()), None)
    return {
        "classes": class_names(classes),
        "pixels": [] if first is None else first["pixels_truth"].tolist(),
        "places": where.truth,
        "predictions": found,
        "chosen": _chosen(list(per_class), shown),
    }


def class_names(classes: Sequence[str]) -> list[str]:
    """Returns the names of classes as the report shows them."""
    return [one_line(name.replace("_", " ")) for name in classes]


def taken_for(table: pd.DataFrame, classes: Sequence[str], confusions: np.ndarray | None) -> list[tuple[int, int, int]]:
    """Returns (true, taken for or -1, pixels) of the confusions that are `SMALLEST_SHARE` of their class or more.

    Args:
        table: rows of per_class.csv.
        classes: class names by train id.
        confusions: see `comparison`.
    """
    pixels = table["pixels_truth"].tolist()
    if confusions is None:
        known = {name: train_id for train_id, name in enumerate(classes)}
        found = [
            (true, known.get(name, -1), round(float(share) / 100 * pixels[true]))
            for true, text in enumerate(table["taken_for"].fillna(""))
            for name, share in _TAKEN_FOR.findall(text)
        ]
    else:
        cells = ((true, -1 if label == len(classes) else label, count) for true, label, count in confusions.tolist())
        found = [(true, label, count) for true, label, count in cells if true != label]
    found = [cell for cell in found if cell[2] >= SMALLEST_SHARE * pixels[cell[0]]]
    return sorted(found, key=lambda cell: (cell[0], -cell[2], cell[1]))


def _chosen(names: list[str], shown: Sequence[str]) -> list[int]:
    """Returns which two predictions are compared at first: the last two that the viewer holds, or the last ones."""
    last = [names.index(name) for name in shown if name in names] or range(len(names))
    return [last[-1], last[max(0, len(last) - 2)]]


def _places(name: str, shown: Sequence[str], where: Places) -> dict[str, Any]:
    if name not in shown:
        return {"places": {}, "confusions": {}}
    member = list(shown).index(name)
    confusions = {f"{true}>{label}": address for (true, label), address in where.confusions[member].items()}
    return {"places": where.classes[member], "confusions": confusions}
