"""HDF5 files with one object per frame of a shard: what label maps, class scores and proposals have in common."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from vss.core.errors import UserError
from vss.core.files import atomic_path, canonical_json

if TYPE_CHECKING:
    from typing_extensions import Self

# What h5py, and the code that uses what it read, raise on a damaged file.
BROKEN_HDF5 = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)


class FramesWriter:
    """Writes something for every frame of a shard: HDF5, one object /frames/<n> a frame, keyed by its attributes.

    Layout: root attributes `format`, `version`, `provenance` (JSON: what it was made of) and, of a prediction,
    `classes` (JSON list); objects /frames/<n> with attributes `video` and `frame`, numbered in the order written, so
    that no id has to be a valid HDF5 name.
    Use as a context manager; the file appears under its name only when the block ends without an exception.
    """

    FORMAT: str
    VERSION: int

    def __init__(
        self, path: str | os.PathLike, *, classes: Sequence[str] | None = None, provenance: dict[str, Any]
    ) -> None:
        self._path, self._classes, self._provenance = Path(path), classes, provenance

    def __enter__(self) -> Self:
        self._context = atomic_path(self._path)
        # What every HDF5 since 1.10 (2016) reads; the oldest form takes 13 kB more a frame of scores.
        self._file = h5py.File(self._context.__enter__(), "w", libver=("v110", "v110"))
        self._file.attrs["format"] = self.FORMAT
        self._file.attrs["version"] = self.VERSION
        if self._classes is not None:
            self._file.attrs["classes"] = json.dumps(list(self._classes))
        self._file.attrs["provenance"] = canonical_json(self._provenance)
        self._frames = self._file.create_group("frames", track_order=True)
        self._seen: set[tuple[str, str]] = set()
        return self

    def _new(self, video: str, frame: str) -> str:
        """Returns the name of the next frame's object; its attributes are `video` and `frame`."""
        assert (video, frame) not in self._seen, (video, frame)
        self._seen.add((video, frame))
        return str(len(self._seen) - 1)

    def __exit__(self, *exception: Any) -> None:
        self._file.close()
        self._context.__exit__(*exception)


def open_hdf5(path: str | os.PathLike, form: tuple[str, int], *, kind: str) -> h5py.File:
    """Opens an HDF5 file of a form (`format`, `version`); `kind` says in messages what it should hold.

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """
    file = None
    try:
        file = h5py.File(path, "r")
        found = (file.attrs.get("format"), int(file.attrs.get("version", 0)))
        if found == form:
            return file
        problem = f"format is {found}, expected {form}"
    except BROKEN_HDF5 as error:
        problem = f"not a readable {kind} file ({error})"
    if file is not None:
        file.close()
    raise UserError(f"{path}: {problem}")


class FramesReader:
    """Reads what a `FramesWriter` wrote, by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT: str
    VERSION: int
    KIND = "prediction"  # what a frame has here, for messages

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file = open_hdf5(path, (self.FORMAT, self.VERSION), kind=self.KIND)
        try:
            self._read_header()
            self.provenance: dict[str, Any] = json.loads(self._file.attrs["provenance"])
            self._at = {(o.attrs["video"], o.attrs["frame"]): name for name, o in self._file["frames"].items()}
        except BROKEN_HDF5 as error:
            self._file.close()
            raise UserError(f"{path}: broken {self.KIND} file ({error}); delete it and make it again") from None

    def _read_header(self) -> None:
        self.classes: list[str] = json.loads(self._file.attrs["classes"])

    def keys(self) -> list[tuple[str, str]]:
        """Returns every (video, frame) of the file."""
        return list(self._at)

    def _object(self, video: str, frame: str) -> Any:
        """Returns the HDF5 object of a frame; to be called inside `_naming`."""
        if (video, frame) not in self._at:
            raise UserError(f"{self.path}: no {self.KIND} for frame {frame!r} of video {video!r}")
        return self._file["frames"][self._at[video, frame]]

    @contextlib.contextmanager
    def _naming(self, video: str, frame: str) -> Iterator[None]:
        """Turns a failed read into a `UserError` that names the frame."""
        try:
            yield
        except BROKEN_HDF5 as error:
            raise UserError(f"{self.path}: frame {frame!r} of video {video!r} is broken ({error})") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def one_chunk(array: np.ndarray) -> dict[str, Any]:
    """Returns the storage settings of an array that is read whole; plain deflate, which every HDF5 reader has."""
    if array.size == 0:
        return {}
    return {"chunks": array.shape, "compression": "gzip", "compression_opts": 4, "shuffle": array.itemsize > 1}
