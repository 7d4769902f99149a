"""The table of classes: how well each one is found, how often it is there, and what it is taken for."""

from __future__ import annotations

import pandas as pd

_FIGURES = {"iou": "IoU", "recall": "recall", "precision": "precision"}
_PIXELS = {"pixels_truth": "pixels, truth", "pixels_predicted": "pixels, predicted"}
_NONE = "\u2013"


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
