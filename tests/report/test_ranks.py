"""The ranks of predictions where other videos are drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vss.core.errors import UserError
from vss.report.ranks import rank_predictions, ranks_table


def save(path, values, videos="of val"):
    np.savez(path, videos=np.array(videos), mIoU=np.array(values, float))
    return path


@pytest.fixture
def table():
    names = ("low", "high", "middle", "unscored")
    return pd.DataFrame({"prediction": names, "title": [n.title() for n in names], "mIoU": [40.0, 60.0, 59.0, np.nan]})


def test_ranks_are_counted_draw_by_draw(tmp_path, table):
    # Of four draws, `middle` is ahead of `high` in one; `low` is last in all, and undefined in one of them.
    values = {"high": [0.6, 0.6, 0.5, 0.7], "middle": [0.5, 0.5, 0.6, 0.6], "low": [0.4, np.nan, 0.4, 0.4]}
    draws = {name: save(tmp_path / f"{name}.npz", drawn) for name, drawn in values.items()}
    found = ranks_table(rank_predictions(table, draws))
    assert found["Prediction"].tolist() == ["High", "Middle", "Low"]
    assert found["rank"].tolist() == ["1", "2", "3"]
    assert found["95% of draws"].tolist() == ["1 to 2", "1 to 2", "3"]
    assert found["first in"].tolist() == ["75%", "25%", "0%"]
    first, second, last = found["ahead of the next"]
    assert first.startswith("+1.00 mIoU [-8.50, 10.00]: noise") and last == ""
    assert second.startswith("+19.00 mIoU [10.") and "noise" not in second


def test_predictions_of_other_videos_are_not_ranked(tmp_path, table):
    draws = {name: save(tmp_path / f"{name}.npz", [0.5, 0.6]) for name in ("high", "middle")}
    draws["low"] = save(tmp_path / "low.npz", [0.5, 0.6], videos="others")
    found = rank_predictions(table, draws)
    assert [rank.title for rank in found] == ["High", "Middle"]
    assert (
        found[0].ahead == "+1.00 mIoU [0.00, 0.00]: noise; other videos of this kind could as well turn the order round"
    )
    assert not rank_predictions(table, {}) and ranks_table([]).empty
    draws["high"] = save(tmp_path / "high.npz", [])  # of a single video
    assert not rank_predictions(table, draws)
    (tmp_path / "low.npz").write_bytes(b"half")
    with pytest.raises(UserError, match=r"low\.npz: not a readable file of draws"):
        rank_predictions(table, draws)
