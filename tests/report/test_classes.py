"""The table of classes."""

from __future__ import annotations

import math

import pandas as pd

from vss.report.classes import classes_table


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
