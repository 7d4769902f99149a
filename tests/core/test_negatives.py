"""The file that says which classes unlabelled pixels surely do not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vss.core.errors import UserError
from vss.core.negatives import Negatives, negatives_path, read_negatives, write_negatives

WRONG = np.array([[0, 1, 1, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0, 0]], bool)  # of nine classes, two bytes
WHICH = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = negatives_path(tmp_path / "a" / "00000001.png")
    assert path == tmp_path / "a" / "00000001.npz"
    write_negatives(path, Negatives(WHICH, WRONG))
    found = read_negatives(path, 9)
    assert (found.which == WHICH).all() and (found.wrong == WRONG).all() and found.wrong.dtype == bool


def test_a_file_that_is_not_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz: cannot be read \(.*No such file.*\); make the"):
        read_negatives(tmp_path / "none.npz", 9)
    write_negatives(tmp_path / "a.npz", Negatives(WHICH, WRONG))
    with pytest.raises(UserError, match=r"a\.npz: is not of 124 classes"):
        read_negatives(tmp_path / "a.npz", 124)
    write_negatives(tmp_path / "b.npz", Negatives(WHICH, WRONG[:1]))
    with pytest.raises(UserError, match=r"b\.npz: is not of 9 classes"):
        read_negatives(tmp_path / "b.npz", 9)
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(UserError, match=r"c\.npz: cannot be read"):
        read_negatives(tmp_path / "c.npz", 9)
