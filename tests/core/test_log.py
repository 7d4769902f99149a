"""Progress in a log file: plain lines."""

from __future__ import annotations

import pytest

from vss.core.log import track


@pytest.mark.parametrize(("number", "said"), [(0, "0 frames in"), (1, "1 frame in"), (2, "2 frames in")])
def test_items_are_counted_in_words(number, said, capsys) -> None:
    assert list(track(range(number), what="infer")) == list(range(number))
    assert capsys.readouterr().err.startswith(f"infer: {said} ")
