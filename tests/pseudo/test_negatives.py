"""Which classes are ruled out: the least probable ones that together have little, never the two most probable ones."""

from __future__ import annotations

import numpy as np

from vss.core.codec import Planes
from vss.core.negatives import MOST_ROWS
from vss.pseudo import negatives
from vss.pseudo.negatives import ruled_out


def planes(classes: list[int], each: list[list[float]], rest: list[float], *, num_classes: int) -> Planes:
    """One row of pixels; `each` by class, then by pixel."""
    given = np.array(each, np.float32)[:, None]
    labels = np.array(classes, np.uint8)[given.argmax(0)]
    return Planes(np.array(classes), given, np.array([rest], np.float32), labels, num_classes)


def test_by_hand() -> None:
    # Classes 1, 4 and 5 of six have planes; 0, 2 and 3 share three times the rest.
    found = ruled_out(
        planes(
            [1, 4, 5],
            [[0.60, 0.50, 0.97, 0.30, 0.9], [0.37, 0.30, 0.02, 0.30, 0.05], [0.03, 0.17, 0.01, 0.19, 0.05]],
            [0.0, 0.01, 0.0, 0.07, 0.0],
            num_classes=6,
        ),
        np.array([[True, True, True, True, False]]),
    )
    sets = [set(np.flatnonzero(found.wrong[n - 1])) if n else None for n in found.which[0]]
    assert sets == [
        {0, 2, 3, 5},  # 0 + 0.03 is little
        {0, 2, 3},  # 0.03 is, 0.17 is not
        {0, 2, 3, 5},  # 4 has little too, but stays as the second most probable
        None,  # 0.21 of the classes without a plane is much: nothing is ruled out
        None,  # not requested
    ]
    assert len(found.wrong) == 2 and found.which.dtype == np.uint8


def test_of_too_many_rows_the_rarest_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr(negatives, "MOST_ROWS", 1)
    each = [[0.6, 0.6, 0.6], [0.4, 0.36, 0.36], [0.0, 0.04, 0.04], [0.0, 0.0, 0.0]]
    given = planes([0, 1, 2, 3], each, [0.0] * 3, num_classes=4)
    given.planes[2, 0, 0], given.planes[1, 0, 0] = 0.2, 0.2
    found = ruled_out(given, np.ones((1, 3), bool))
    assert found.which.tolist() == [[0, 1, 1]] and found.wrong.tolist() == [[False, False, True, True]]
    assert np.iinfo(np.uint16).max == MOST_ROWS
