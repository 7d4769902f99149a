"""The benchmark of pseudo-labels: which videos lose their labels, and the interval of a gain."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.pseudo import gain, is_hidden


def test_every_other_round_of_scenes_of_train_loses_its_labels() -> None:
    videos = [f"{number:02}" for number in range(16)]
    table = pd.DataFrame({"video": [*videos, "val"], "split": [*["train"] * 16, "val"]})
    hidden = table["video"][is_hidden(table)]
    assert list(hidden) == ["04", "05", "06", "07", "12", "13", "14", "15"]


def test_a_gain_has_students_interval() -> None:
    rows = [{"student_miou": 50.0 + gained, "teacher_miou": 50.0} for gained in (1.0, 2.0, 3.0)]
    found = gain(rows, "teacher")
    assert found["gains"] == [1.0, 2.0, 3.0] and found["mean_gain"] == 2.0
    # t(0.975, 2 degrees of freedom) = 4.3027; of a standard deviation of 1 and three seeds: 4.3027 / sqrt(3).
    assert found["interval"] == pytest.approx([2 - 2.4842, 2 + 2.4842], abs=1e-4)
