"""Natural order of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vss.core.order import natural_key


def test_numbers_count_by_their_value() -> None:
    names = ["frame_10", "frame_2", "frame_1", "a10b2", "a10b10", "a9b99", "", "7", "007"]
    expected = ["", "007", "7", "a9b99", "a10b2", "a10b10", "frame_1", "frame_2", "frame_10"]
    assert sorted(names, key=natural_key) == expected


@given(st.lists(st.text(max_size=6) | st.from_regex(r"[a\u0663 ]?[0-9]{1,4}[._]?[0-9]{0,2}", fullmatch=True)))
def test_every_name_has_its_place(names) -> None:
    once = sorted(set(names), key=natural_key)
    assert len({str(natural_key(name)) for name in once}) == len(once)
