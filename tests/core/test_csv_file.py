"""CSV tables as a spreadsheet would open them."""

from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest

from vss.core.csv_file import write_csv


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_no_cell_is_a_formula(tmp_path, start):
    write_csv(tmp_path / "x.csv", pd.DataFrame({"video": [f"{start}1", "1\r=2"], "IoU": [-0.5, np.nan]}))
    with open(tmp_path / "x.csv", newline="") as file:
        assert list(csv.reader(file)) == [["video", "IoU"], [f"'{start}1", "-0.5"], ["1 =2", ""]]
