"""Whole files: complete or absent, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vss.core import files
from vss.core.class_table import read_class_table
from vss.core.dataset_layout import read_list
from vss.core.errors import UserError
from vss.core.files import atomic_path, canonical_json, read_json, sha256_of_file, write_json, write_text
from vss.core.index import read_card, read_index
from vss.core.labels_file import LabelsReader
from vss.workflow.config import check_files


def test_a_folder_that_takes_no_file_is_told_with_the_file_s_own_name(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/result\.json: cannot be written there"):
        write_text(tmp_path / "file" / "result.json", "text")


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as aside:
            aside.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_atomic_path_keeps_the_suffix_and_the_umask(tmp_path) -> None:
    previous = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.b.png") as aside:
            assert aside.suffix == ".png" and aside.parent == tmp_path
            assert not (tmp_path / "a.b.png").exists()
            aside.write_bytes(b"x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.b.png").stat().st_mode) == 0o640


def test_json_is_canonical_and_refuses_nan(tmp_path) -> None:
    assert canonical_json({"b": 1, "a": [1.5, "\u00e9"]}) == '{"a":[1.5,"\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})
    write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["a", "b", "checksum"]
    assert read_json(tmp_path / "x.json") == {"a": 2, "b": 1}
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_json_with_a_flipped_bit_is_refused(tmp_path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"label_map": [0, 255], "frames": {"val": 24502}, "root": "/data/é", 7: None, "share": 0.1})
    whole = path.read_bytes()
    for position in range(len(whole) - 1):  # after the last byte, a new line, nothing follows
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            with pytest.raises(UserError, match=r"x\.json: (not valid JSON|damaged, or edited)"):
                read_json(path)


def test_json_of_others_has_no_checksum(tmp_path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}
    (tmp_path / "x.json").write_text("[1]")
    assert read_json(tmp_path / "x.json") == [1]


def test_json_keeps_names_that_are_not_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"fr\xe4me.jpg")
    write_json(tmp_path / "a.json", {"files": [name, "\u00e4"]})
    assert read_json(tmp_path / "a.json") == {"files": [name, "\u00e4"]}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").count("\\udce4") == 1


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize(
    "read",
    [
        read_json,
        read_index,
        read_card,
        read_list,
        LabelsReader,
        lambda path: read_class_table(path, name="x"),
        lambda path: check_files([path]),
    ],
)
def test_what_is_no_file_is_neither_waited_for_nor_read_for_ever(tmp_path, kind, read) -> None:
    path = tmp_path / "file"
    make = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}
    make[kind](path)
    with pytest.raises((UserError, OSError), match=str(path)) as caught:
        read(path)
    assert ("is a folder" if kind == "folder" else "is a pipe or a device, not a file") in str(caught.value)


def test_sha256_of_file(tmp_path) -> None:
    Path(tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of_file(tmp_path / "abc") == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_a_full_disk_is_one_line(tmp_path) -> None:
    with (
        pytest.raises(UserError, match=r"out\.txt: No space left on device; free some"),
        atomic_path(tmp_path / "out.txt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Sets the system's limit on the size of files, which a write meets as it meets a full disk."""
    before, writes_none = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # of a module that torch imports meanwhile, Python would keep a file cut short
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = writes_none


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"a": torch.ones(1000)}, path),
        lambda path: torch.save({"a": torch.ones(1000)}, path),
        lambda path: np.save(path.open("wb"), np.ones(1000)),
        lambda path: Image.fromarray(np.eye(60, dtype=np.uint8)).save(path, compress_level=0),
        lambda path: path.write_bytes(bytes(4000)),
    ],
    ids=["safetensors", "torch", "numpy", "pillow", "python"],
)
def test_a_write_without_room_is_one_line_whoever_writes(tmp_path, write) -> None:
    with (
        pytest.raises(UserError, match=r"out\.png: (File too large|No space left on device); free some space"),
        largest_file(1000),
        atomic_path(tmp_path / "out.png") as aside,
    ):
        write(aside)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_names_can_be_written(tmp_path) -> None:
    path = tmp_path / ("x" * 250 + ".txt")
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_what_dead_writers_left_goes_and_live_ones_keep_theirs(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.txt"
    prefix, machine, pid = files._prefix(path), files._machine(), os.getpid()
    dead = tmp_path / f"{prefix}{machine}-{pid}-1-abc.txt"  # this process's id, given to another before it
    live = tmp_path / f"{prefix}{machine}-{pid}-{files._started(pid)}-abc.txt"
    elsewhere = tmp_path / f"{prefix}{'0' * 12}-{pid}-1-abc.txt"
    abandoned = tmp_path / f"{prefix}{'0' * 12}-{pid}-1-def.txt"
    for file in (dead, live, elsewhere, abandoned):
        file.touch()
    os.utime(abandoned, (0, 0))
    write_text(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, live, elsewhere])
