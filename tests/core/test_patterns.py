"""Path patterns: filled in, found on disk, digests by placeholder, and what is wrong where nothing matches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vss.core.errors import UserError
from vss.core.patterns import PathPattern

NAMES = ("split", "video", "frame")


def pattern(text: str) -> PathPattern:
    return PathPattern(text, allowed=NAMES, where="key")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "val/a_b/1.png",
        "val/a_b/2.png",
        "val/c/1.png",
        "val/c/.1.png",
        "val/c/1.jpg",
        "train/c/9.png",
        "x.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_files_are_found_with_their_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pattern(f"{folder}/{{split}}/{{video}}/{{frame}}.png")
    found = {os.path.relpath(file.path, folder): file.values for file in whole.filled(split="val").files()}
    assert found == {
        "val/a_b/1.png": {"video": "a_b", "frame": "1"},
        "val/a_b/2.png": {"video": "a_b", "frame": "2"},
        "val/c/1.png": {"video": "c", "frame": "1"},
    }
    assert len(whole.files()) == 4
    assert whole.path(split="val", video="c", frame="1", shard="0") == f"{folder}/val/c/1.png"
    assert whole.root == folder
    assert pattern(f"{folder}/val/{{video}}_{{frame}}/1.png").files()[0].values == {"video": "a", "frame": "b"}
    (folder / "val/c/c.png").touch()
    assert [file.values for file in pattern(f"{folder}/val/{{video}}/{{video}}.png").files()] == [{"video": "c"}]
    monkeypatch.chdir(folder)
    assert [file.values["frame"] for file in pattern("{frame}.png").files()] == ["x"]


def test_contents_change_with_one_video_alone(folder: Path) -> None:
    files = pattern(f"{folder}/val/{{video}}/{{frame}}.png")
    before = files.contents("video")
    assert before.keys() == {"a_b", "c"}
    (folder / "val/c/1.png").write_text("longer")
    after = files.contents("video")
    assert (before["a_b"], before["c"] == after["c"]) == (after["a_b"], False)
    os.utime(folder / "val/a_b/2.png", (1, 1))
    assert files.contents("video")["a_b"] != after["a_b"]
    assert files.contents("").keys() == {""}


def test_a_placeholder_can_be_read_back_from_a_part_of_its_own() -> None:
    assert pattern("a/{video}/{frame}.png").has_part_of_its_own("video")
    assert not pattern("a/{video}_{frame}.png").has_part_of_its_own("video")


def test_what_is_wrong_is_said_with_what_is_there(folder: Path) -> None:
    assert pattern(f"{folder}/val/{{video}}/{{frame}}.png").mistake() is None
    assert pattern(f"{folder}/no/{{video}}.png").mistake() == f"key: no folder '{folder}/no'"
    text = f"{folder}/val/{{video}}/{{frame}}.tif"
    expected = f"key: no file matches '{text}'; no {{frame}}.tif in a_b, which holds 1.png, 2.png"
    assert pattern(text).mistake() == expected
    (folder / "empty").mkdir()
    assert pattern(f"{folder}/empty/{{video}}/1.png").mistake().endswith("no {video} in the root, which holds nothing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{vid}/{frame}", "key: no placeholder '{vid}' (did you mean 'video'?); allowed: {split}, {video}, {frame}"),
        ("{}/a", "no placeholder '{}'"),
        ("{video/a}/{frame", "no placeholder '{video/a}'"),
        ("*/{frame}", "key: is '*/{frame}'; * has no meaning here, name the parts: split, video, frame"),
        ("a}/{frame}", "key: is 'a}/{frame}', in which a brace has no partner"),
    ],
)
def test_a_mistake_in_a_pattern_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        pattern(text)
    assert words in str(caught.value)
