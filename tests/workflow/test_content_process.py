"""The look at a dataset's files in another process is the look in this one."""

from __future__ import annotations

from pathlib import Path

from vss.configs.datasets import read_dataset_row
from vss.core.dataset_content import contents
from vss.workflow.content_process import ContentProcess

VSPW = read_dataset_row("vspw", {}).layout


def test_contents_come_from_the_process_and_where_it_ends_from_this_one(tmp_path: Path) -> None:
    image = tmp_path / "data" / "a clip" / "origin" / "1.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    (tmp_path / "val.txt").write_text("a clip\n")
    expected = contents(VSPW, tmp_path)
    assert ContentProcess(VSPW, tmp_path).result() == expected
    ended = ContentProcess(VSPW, tmp_path)
    ended._process.kill()
    assert ended.result() == expected
