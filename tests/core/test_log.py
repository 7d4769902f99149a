"""Progress in a log file: plain lines."""

from __future__ import annotations

import pytest

from vss.core.log import log, show, track


@pytest.mark.parametrize(("number", "said"), [(0, "0 frames in"), (1, "1 frame in"), (2, "2 frames in")])
def test_items_are_counted_in_words(number, said, capsys) -> None:
    assert list(track(range(number), what="infer")) == list(range(number))
    assert capsys.readouterr().err.startswith(f"infer: {said} ")


@pytest.mark.parametrize("write", [log, show, lambda text: list(track([1], what=text))])
def test_no_name_moves_the_cursor_or_begins_a_line(write, capsys) -> None:
    write("a\x1b[2Jb\rc\nvss: done\u202e\udcff Zoë 日本")
    lines = "".join(capsys.readouterr()).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(r"a\x1b[2Jb\rc\nvss: done\u202e\udcff Zoë 日本")
