"""Ends a job in the middle of a shard, as a kill does, and runs it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vss.core import unfinished
from vss.core.frames_file import FramesWriter


class StoppedError(Exception):
    """Stands for the signal."""


def stopped_and_run_again(
    job: Callable[[Path], None], folder: Path, monkeypatch: pytest.MonkeyPatch, *, frames: int
) -> tuple[bytes, ...]:
    """Runs `job(folder)` to the frame number `frames`, stops it, runs it again; returns the content of its HDF5 files.

    Fails where the second run writes frames that the first had kept.
    """
    monkeypatch.setattr(unfinished, "KEPT_EVERY", 0)
    sealed, made = FramesWriter._seal, []
    store_array, store_group = FramesWriter._store_array, FramesWriter._store_group

    def stop(self, *arguments) -> None:
        sealed(self, *arguments)
        if len(made) >= frames:
            raise StoppedError

    for name, store in (("_store_array", store_array), ("_store_group", store_group)):

        def counted(self, video, frame, *values, store=store) -> None:
            made.append((type(self), video, frame))
            store(self, video, frame, *values)

        monkeypatch.setattr(FramesWriter, name, counted)
    with monkeypatch.context() as patch:
        patch.setattr(FramesWriter, "_seal", stop)
        with pytest.raises(StoppedError):
            job(folder)
    assert not list(folder.glob("*.h5")), "nothing half-written has a name"
    before = len(made)
    job(folder)
    again = [key for key in made[:before] if key in made[before:]]
    assert len(again) <= 1, f"frames made twice: {again}"
    assert not list(folder.glob(".unfinished-*"))
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.h5")))
