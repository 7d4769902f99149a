"""The benchmark of pseudo-labels: which videos lose their labels, what masks say, and the interval of a gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.pseudo import Data, gain, is_hidden, replaced
from tests.tiny_dataset import write_dataset
from vss.core.index import read_card


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


def test_a_value_of_all_masks_is_replaced_in_copies(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, {"video": [np.array([[255, 3]], np.uint8)]})
    (mask,) = replaced(Data(made.index, made.card), "whole", 255, 9)
    card = read_card(made.card)
    assert card.read_raw_mask(mask).tolist() == [[9, 3]]
    assert card.read_raw_mask("0/00000000.png").tolist() == [[255, 3]]
