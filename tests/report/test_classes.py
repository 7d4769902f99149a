"""The table of classes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from vss.report.classes import classes_table, comparison
from vss.report.viewer import Places


def test_classes_that_are_nowhere_are_left_out_and_the_worst_comes_first():
    rows = [
        ("wall", 0.9, 0.95, 0.94, 1200, 1300, "door 5.0%"),
        ("door", 0.1234, 0.5, 0.2, 10, 40, "wall 50.0%"),
        ("sky", math.nan, math.nan, math.nan, 0, 0, None),
        ("cat", 0.0, math.nan, 0.0, 0, 7, None),
    ]
    keys = ["class", "iou", "recall", "precision", "pixels_truth", "pixels_predicted", "taken_for"]
    table = classes_table(pd.DataFrame(rows, columns=keys))
    assert table.to_numpy().tolist() == [
        ["cat", "0.00", "\u2013", "0.00", "0", "7", ""],
        ["door", "12.34", "50.00", "20.00", "10", "40", "wall 50.0%"],
        ["wall", "90.00", "95.00", "94.00", "1,200", "1,300", "door 5.0%"],
    ]


def test_two_predictions_are_compared_by_what_the_viewer_holds():
    keys = ["class", "iou", "pixels_truth", "pixels_predicted", "taken_for"]
    taken = "door 25.0%; no class 50.0%"
    tables = {
        name: pd.DataFrame([("wall", iou, 12, 13, taken), ("door", math.nan, 0, 0, None)], columns=keys)
        for name, iou in (("a", 0.5), ("b", 0.25), ("c", 0.125))
    }
    where = Places({0: "t"}, [{0: "b"}], [{(0, 1): "bw"}])
    confusions = {"b": np.array([[0, 0, 9], [0, 1, 2], [0, 2, 1]])}
    found = comparison(
        tables,
        titles={"a": "A", "b": "B", "c": "C"},
        classes=["wall", "door"],
        shown=["b"],
        where=where,
        confusions=confusions,
    )
    assert found["pixels"] == [12, 0] and found["places"] == {0: "t"} and found["chosen"] == [1, 1]
    first, second, _ = found["predictions"]
    assert first == {"title": "A", "iou": [50.0, None], "predicted": [13, 0], "taken": [(0, -1, 6), (0, 1, 3)],
                     "places": {}, "confusions": {}}  # fmt: skip
    assert second["taken"] == [(0, 1, 2), (0, -1, 1)]
    assert second["places"] == {0: "b"} and second["confusions"] == {"0>1": "bw"}
