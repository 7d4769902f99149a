"""The frames of a file that is not finished yet, kept on disk so that a job that was killed goes on after them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import json
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vss.core.extras import installed_versions
from vss.core.files import NO_SPACE, atomic_path, canonical_json, disk_full

KEPT_EVERY = 15.0  # seconds of work that a kill costs at most; a job that takes less writes nothing
_RECORD = struct.Struct("<QI")  # bytes that follow, their CRC-32
_LIBRARIES = ("torch", "numpy", "opencv-python-headless", "opencv-python", "scikit-image")


@dataclass(frozen=True)
class KeptFrame:
    """What one frame of a file holds: arrays by name and numbers or text by name."""

    video: str
    frame: str
    arrays: Mapping[str, np.ndarray]
    numbers: Mapping[str, Any]


class UnfinishedFrames:
    """The frames that a job has made for one file so far, in order, beside that file.

    They are bound to what the file is made of: another header (settings, weights, index, shard, device), files of
    another size or time, other code of this package or other libraries find nothing. A record that is cut or damaged
    ends what is found, so that a kill at any moment costs the frames after it and nothing else.

    Args:
        path: of the file that is being written.
        header: of that file.
        made_of: files that the frames are made of.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], made_of: Iterable[str | os.PathLike]) -> None:
        files = [[os.fspath(file), found.st_size, found.st_mtime_ns] for file in made_of for found in [os.stat(file)]]
        bound = canonical_json([dict(header), files, _code(), _versions()])
        self._prefix = f".unfinished-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"
        self._path = path.with_name(
            self._prefix + hashlib.sha256(bound.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        )
        self._waiting: list[bytes] = []
        self._written = time.monotonic()

    def keys(self) -> list[tuple[str, str]]:
        """Returns (video, frame) of the frames kept, and removes what was kept for another content of the same file."""
        for other in self._path.parent.glob(f"{self._prefix}*"):
            if other != self._path:
                other.unlink(missing_ok=True)
        return [(frame.video, frame.frame) for frame in self.frames()]

    def frames(self) -> Iterator[KeptFrame]:
        """Yields the whole frames that are kept, one in memory at a time."""
        return map(_frame, self._whole_records())

    def keep(self, count: int) -> None:
        """Keeps the first frames and no others, in a file of its own.

        A job that still runs somewhere then adds to a file that nobody will read.
        """
        if not count:
            self.remove()
            return
        with atomic_path(self._path) as aside, open(aside, "wb") as file:
            for content in itertools.islice(self._whole_records(), count):
                file.write(_sealed(content))

    def add(self, frame: KeptFrame) -> None:
        """Adds a frame; every `KEPT_EVERY` seconds what was added reaches the disk."""
        self._waiting.append(_sealed(_record(frame)))
        if time.monotonic() - self._written >= KEPT_EVERY:
            self.flush()

    def flush(self) -> None:
        """Writes what was added.

        Raises:
            UserError: the disk is full.
        """
        if self._waiting:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "ab") as file:
                    file.write(b"".join(self._waiting))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self.remove()
                raise disk_full(self._path, error) from None
        self._waiting.clear()
        self._written = time.monotonic()

    def remove(self) -> None:
        """Removes what was kept."""
        self._waiting.clear()
        self._path.unlink(missing_ok=True)

    def _whole_records(self) -> Iterator[bytes]:
        if not self._path.is_file() or self._path.is_symlink():
            return
        with open(self._path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            while len(start := file.read(_RECORD.size)) == _RECORD.size:
                size, crc = _RECORD.unpack(start)
                if size > end - file.tell():
                    return
                content = file.read(size)
                if zlib.crc32(content) != crc:
                    return
                yield content


def _record(frame: KeptFrame) -> bytes:
    """Returns a frame as bytes: a compressed .npz without pickles."""
    named = {f"array {name}": array for name, array in frame.arrays.items()}
    kinds = {name: type(value).__name__ for name, value in frame.numbers.items()}
    named |= {f"number {name}": np.asarray(value) for name, value in frame.numbers.items()}
    written = io.BytesIO()
    np.savez(written, key=np.frombuffer(json.dumps([frame.video, frame.frame, kinds]).encode(), np.uint8), **named)
    return zlib.compress(written.getvalue(), 1)


def _sealed(content: bytes) -> bytes:
    """Returns a record as it is stored: length, checksum, content."""
    return _RECORD.pack(len(content), zlib.crc32(content)) + content


def _frame(record: bytes) -> KeptFrame:
    with np.load(io.BytesIO(zlib.decompress(record)), allow_pickle=False) as held:
        video, frame, kinds = json.loads(held["key"].tobytes())
        arrays = {name.removeprefix("array "): held[name] for name in held.files if name.startswith("array ")}
        numbers = {name: _as(kind, held[f"number {name}"]) for name, kind in kinds.items()}
    return KeptFrame(video, frame, arrays, numbers)


def _as(kind: str, value: np.ndarray) -> Any:
    """Returns a number, text or tuple of numbers as the type it was given in."""
    if kind in ("str", "int", "float", "bool"):
        return value.item()
    return tuple(value.tolist()) if kind == "tuple" else value[()]


@cache
def _code() -> str:
    """Returns a digest of this package's sources, whatever they are for: it need not last longer than a job."""
    digest = hashlib.sha256()
    operators = importlib.util.find_spec("vss_ops")
    packages = [str(Path(__file__).parents[1]), *((operators and operators.submodule_search_locations) or ())]
    for path in sorted(path for package in packages for path in Path(package).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _versions() -> dict[str, str]:
    return installed_versions(_LIBRARIES)
