"""HDF5 files with one object per frame of a shard: what label maps, class scores and proposals have in common."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5z

from vss.core.errors import UserError
from vss.core.files import NO_SPACE, atomic_path, canonical_json, disk_full, regular_file
from vss.core.inflate import crc32, inflate
from vss.core.log import log
from vss.core.unfinished import KeptFrame, UnfinishedFrames

if TYPE_CHECKING:
    from typing_extensions import Self

# What h5py, and the code that uses what it read, raise on a damaged file.
BROKEN_HDF5 = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)
MOST_ELEMENTS = 1 << 31  # of one stored array: a file of some kB may announce terabytes
_CHECKSUM = "crc32"
# The first bytes of a file, which HDF5 leaves to its user; the checksum there is of all that follows.
_USER_BLOCK = 512
_MARK = b"vss frames; CRC-32 of what follows byte 512: "

Reader = TypeVar("Reader", bound="FramesReader")


class FramesWriter:
    """Writes something for every frame of a shard: HDF5, one object /frames/<n> per frame, keyed by its attributes.

    Layout: root attributes `format`, `version`, `provenance` (JSON: what it was made of) and, of a prediction,
    `classes` (JSON list); objects /frames/<n> with attributes `video` and `frame`, numbered in the order written, so
    that no id has to be a valid HDF5 name. The root and every frame have the attribute `crc32`, which `FramesReader`
    verifies. A whole file's checksum is in its user block, the first 512 bytes.
    Use as a context manager; the file appears under its name only when the block ends without an exception. Frames are
    kept beside it once `go_on` was called, which also finds those of a job that was killed.

    Raises:
        UserError: the file cannot be written, or the disk is full.
    """

    FORMAT: str
    VERSION: int

    def __init__(
        self, path: str | os.PathLike, *, classes: Sequence[str] | None = None, provenance: dict[str, Any]
    ) -> None:
        self._path, self._classes, self._provenance = Path(path), classes, provenance

    def __enter__(self) -> Self:
        self._context = atomic_path(self._path)
        self._target = _Target(self._context.__enter__())
        # What every HDF5 since 1.10 (2016) reads; the oldest form takes 13 kB more per frame of scores.
        self._file = h5py.File(self._target, "w", libver=("v110", "v110"), userblock_size=_USER_BLOCK)
        header = {"format": self.FORMAT, "version": self.VERSION, "provenance": canonical_json(self._provenance)}
        if self._classes is not None:
            header["classes"] = json.dumps(list(self._classes))
        self._file.attrs.update(header)
        self._file.attrs[_CHECKSUM] = _checksum(header)
        self._frames = self._file.create_group("frames", track_order=True)
        self._seen: set[tuple[str, str]] = set()
        self._header, self._unfinished = header, None
        return self

    def _store_array(
        self, video: str, frame: str, array: np.ndarray, numbers: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Adds a frame that is one array, and numbers or text as attributes."""
        if self._unfinished:
            self._unfinished.add(KeptFrame(video, frame, {"": array}, numbers))
        self._write_array(video, frame, array, numbers)

    def _write_array(self, video: str, frame: str, array: np.ndarray, numbers: Mapping[str, Any]) -> None:
        dataset = self._frames.create_dataset(self._new(video, frame), data=array, **one_chunk(array))
        self._seal(dataset, {"video": video, "frame": frame, **numbers}, {"": array})

    def _store_group(
        self, video: str, frame: str, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]
    ) -> None:
        """Adds a frame that is several arrays by name, and numbers or text as attributes."""
        if self._unfinished:
            self._unfinished.add(KeptFrame(video, frame, arrays, numbers))
        self._write_group(video, frame, arrays, numbers)

    def _write_group(
        self, video: str, frame: str, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]
    ) -> None:
        group = self._frames.create_group(self._new(video, frame))
        for name, array in arrays.items():
            group.create_dataset(name, data=array, **one_chunk(array))
        self._seal(group, {"video": video, "frame": frame, **numbers}, arrays)

    def _new(self, video: str, frame: str) -> str:
        """Returns the name of the next frame's object."""
        assert (video, frame) not in self._seen, (video, frame)
        self._seen.add((video, frame))
        return str(len(self._seen) - 1)

    def _seal(self, stored: h5py.HLObject, attributes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        stored.attrs.update(attributes)
        stored.attrs[_CHECKSUM] = _checksum(attributes, arrays)
        self._target.check(self._path)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            with contextlib.suppress(*(BROKEN_HDF5 if error or self._target.error else ())):
                self._file.close()
            self._target.seal()
            self._target.close()
            if self._unfinished and self._target.error is not None:  # what is kept must not keep a disk full
                self._unfinished.remove()
            if error is None:
                self._target.check(self._path)
        except BaseException as failed:
            self._context.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._context.__exit__(kind, error, trace)
        if self._unfinished and error is None:
            self._unfinished.remove()

    def keep_frames(self, made_of: Iterable[str | os.PathLike]) -> UnfinishedFrames:
        """Keeps frames on disk from here on; returns those of a job that was killed. See `go_on`."""
        self._unfinished = UnfinishedFrames(self._path, self._header, made_of)
        return self._unfinished

    def write_kept(self, frame: KeptFrame) -> None:
        """Adds a frame as it was kept."""
        if set(frame.arrays) == {""}:
            self._write_array(frame.video, frame.frame, frame.arrays[""], frame.numbers)
        else:
            self._write_group(frame.video, frame.frame, frame.arrays, frame.numbers)


def go_on(*writers: FramesWriter, made_of: Iterable[str | os.PathLike], what: str) -> set[tuple[str, str]]:
    """Adds to files just begun what a job that was killed had made for all of them, and logs how much that is.

    Args:
        writers: of files that get the same frames in the same order.
        made_of: files that the frames are made of: what was kept counts only while they are the same.
        what: one clause that names the job, for the log.

    Returns:
        (video, frame) of what was added: the first frames of the order, none where nothing was kept.
    """
    files = list(made_of)
    kept = [writer.keep_frames(files) for writer in writers]
    keys = zip(*(frames.keys() for frames in kept), strict=False)
    common = list(itertools.takewhile(lambda found: len(set(found)) == 1, keys))
    for writer, frames in zip(writers, kept, strict=True):
        frames.keep(len(common))
        for frame in frames.frames():
            writer.write_kept(frame)
    if common:
        log(f"{what}: {len(common)} frames are kept from a run that was stopped")
    return {found[0] for found in common}


class _Target:
    """The file below an HDF5 file that is being written.

    HDF5 cannot go on after a write that failed, nor close the file: it crashes the process. Here a failed write is
    remembered and HDF5 is led to believe that it succeeded, until the writer asks. Nothing is locked, because nobody
    else knows the file before it is renamed; some network file systems know no locks.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115  closed by the writer
        self.error: OSError | None = None

    def check(self, path: Path) -> None:
        """Raises what a write has met since the file was opened."""
        if self.error is not None:
            raise disk_full(path, self.error) if self.error.errno in NO_SPACE else self.error

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self._file.readinto(view)
        view[found:] = bytes(len(view) - found)  # what was not written for want of space
        return len(view)

    def read(self, size: int = -1) -> bytes:  # h5py takes an object with this method for a file
        return self._file.read(size)

    def truncate(self, size: int) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        pass  # unbuffered; `atomic_path` syncs

    def seal(self) -> None:
        """Writes the checksum of the whole file; to be called when HDF5 has closed it."""
        if self.error is None:
            mark = _mark_of(self._file)
            self.seek(0)
            self.write(mark)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


def _mark_of(file: BinaryIO) -> bytes:
    """Returns what the user block of an open file has to begin with."""
    file.seek(_USER_BLOCK)
    crc = 0
    while content := file.read(1 << 20):
        crc = crc32(content, crc)
    return _MARK + f"{crc:08x}\n".encode()


def _check_whole(path: Path) -> bool:
    """Returns whether a file carries a checksum of all of it, which is verified before HDF5 sees a byte.

    HDF5's own code has been seen to loop on a damaged file, where nothing in Python can interrupt it.

    Raises:
        ValueError: it is another one.
    """
    with open(path, "rb") as file:
        mark = file.read(len(_MARK) + 9)
        if not mark.startswith(_MARK):
            return False
        if mark != _mark_of(file):
            raise ValueError("its checksum is not that of its content")
        return True


def open_hdf5(path: str | os.PathLike, form: tuple[str, Sequence[int]], *, kind: str) -> h5py.File:
    """Opens an HDF5 file of a form (`format`, versions); `kind` names in messages what it should hold.

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """
    file = None
    try:
        checked = _check_whole(regular_file(path))
        # Whole files never change, and some file systems know no locks.
        file = h5py.File(path, "r", locking=False)
        if file.userblock_size and not checked:
            raise ValueError("its checksum is damaged")
        found = (file.attrs.get("format"), int(file.attrs.get("version", 0)))
        if found[0] == form[0] and found[1] in form[1]:
            return file
        problem = f"format is {found}, expected {(form[0], max(form[1]))}"
    except BROKEN_HDF5 as error:
        problem = f"not a readable {kind} file ({getattr(error, 'strerror', None) or error})"
        problem += "; delete it and rerun" if isinstance(error, ValueError) else ""
    if file is not None:
        file.close()
    raise UserError(f"{path}: {problem}")


class FramesReader:
    """Reads what a `FramesWriter` wrote, by (video, frame).

    Only arrays that are stored in the file itself are read: external files, links and virtual datasets are refused.

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT: str
    VERSION: int
    UNCHECKED: tuple[int, ...] = ()  # earlier versions, which have no checksums
    KIND = "prediction"  # what a frame has here, for messages

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file = open_hdf5(path, (self.FORMAT, (*self.UNCHECKED, self.VERSION)), kind=self.KIND)
        try:
            header = dict(self._file.attrs)
            self._checked = int(header["version"]) not in self.UNCHECKED
            if self._checked:
                _verify(header)
            self._read_header(header)
            self.provenance: dict[str, Any] = json.loads(header["provenance"])
            self._frames = _as_group(_own_member(self._file, "frames"))
            # Attributes are read once, here: a label map is inflated in little more time than they take.
            self._at, self._attributes = {}, {}
            for name in self._frames:
                attributes = _attributes_of(_own_member(self._frames, name))
                key = attributes["video"], attributes["frame"]
                self._at[key], self._attributes[key] = name, attributes
        except BROKEN_HDF5 as error:
            self._file.close()
            raise UserError(f"{path}: broken {self.KIND} file ({error}); delete it and rerun") from None

    def _read_header(self, header: Mapping[str, Any]) -> None:
        self.classes: list[str] = json.loads(header["classes"])

    def keys(self) -> list[tuple[str, str]]:
        """Returns every (video, frame) of the file."""
        return list(self._at)

    def _with_attribute(self, name: str) -> dict[tuple[str, str], Any]:
        """Returns an attribute of the frames that have it, by (video, frame)."""
        return {key: found[name] for key, found in self._attributes.items() if name in found}

    def _load_array(self, video: str, frame: str, kind: str) -> np.ndarray:
        """Returns a frame that is one array of a kind, such as "uint8[2]": type and number of axes."""
        with self._naming(video, frame):
            stored = self._object(video, frame)
            array = _own_array(stored, (kind,))
            if self._checked:
                _verify(dict(self._attributes[video, frame]), {"": array})
            return array

    def _load_group(
        self, video: str, frame: str, kinds: Mapping[str, Sequence[str]]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns a frame's arrays and its attributes; `kinds` are the kinds that each named array may have."""
        with self._naming(video, frame):
            group = self._group(video, frame)
            arrays = {name: read_own_array(group, name, kinds[name]) for name in group}
            attributes = dict(self._attributes[video, frame])
            if self._checked:
                _verify(attributes, arrays)
            return arrays, attributes

    def _object(self, video: str, frame: str) -> Any:
        """Returns the HDF5 object of a frame; to be called inside `_naming`."""
        if (video, frame) not in self._at:
            raise UserError(f"{self.path}: no {self.KIND} for frame {frame!r} of video {video!r}")
        return _own_member(self._frames, self._at[video, frame])

    def _group(self, video: str, frame: str) -> h5py.Group:
        """Returns a frame that is a group; to be called inside `_naming`."""
        return _as_group(self._object(video, frame))

    @contextlib.contextmanager
    def _naming(self, video: str, frame: str) -> Iterator[None]:
        """Turns a failed read into a `UserError` that names the frame."""
        try:
            yield
        except BROKEN_HDF5 as error:
            raise UserError(
                f"{self.path}: frame {frame!r} of video {video!r} is broken ({error}); delete the file and rerun"
            ) from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class FrameFiles(contextlib.ExitStack, Generic[Reader]):
    """Several files of frames, such as a prediction's shards, and which of them holds a frame.

    Use as a context manager, which closes the files.

    Args:
        reader: of every file.
        paths: of the files.
        where: starts a message, for example "member 'a': ".

    Attributes:
        readers: of the files, in order.

    Raises:
        UserError: a file is missing or broken, or two hold the same frame.
    """

    def __init__(self, reader: type[Reader], paths: Iterable[str | os.PathLike], *, where: str = "") -> None:
        super().__init__()
        self.readers: list[Reader] = []
        self._reader_of: dict[tuple[str, str], Reader] = {}
        with contextlib.ExitStack() as opened:  # closes them where one is refused
            for path in paths:
                self.readers.append(opened.enter_context(reader(path)))
                for key in self.readers[-1].keys():  # noqa: SIM118 (a reader is no dict)
                    if before := self._reader_of.get(key):
                        raise UserError(f"{where}{path}: frame {key[1]!r} of video {key[0]!r} is also in {before.path}")
                    self._reader_of[key] = self.readers[-1]
            self.push(opened.pop_all())

    def get(self, video: str, frame: str) -> Reader | None:
        """Returns the reader of the file that holds a frame, None where none does."""
        return self._reader_of.get((video, frame))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterates over every (video, frame) of the files."""
        return iter(self._reader_of)


def one_chunk(array: np.ndarray) -> dict[str, Any]:
    """Returns the storage settings of an array that is read whole; plain deflate, which every HDF5 reader has."""
    if array.size == 0:
        return {}
    return {"chunks": array.shape, "compression": "gzip", "compression_opts": 4, "shuffle": array.itemsize > 1}


def _own_member(group: h5py.Group, name: str) -> Any:
    """Returns a member that is stored in the file itself: HDF5's own object, opened in half the time of h5py's.

    Raises:
        ValueError: a link to another place or file.
    """
    if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise ValueError(f"{name!r} is a link to another place")
    return h5o.open(group.id, name.encode())


def _as_group(member: Any) -> h5py.Group:
    """Returns a member as h5py's group.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(member, h5g.GroupID):
        raise ValueError("an array where a group is expected")
    return h5py.Group(member)


def _attributes_of(member: Any) -> dict[str, Any]:
    """Returns the attributes of a member in half of h5py's time: single numbers and texts by HDF5's own calls."""
    found: dict[str, Any] = {}
    for at in range(h5a.get_num_attrs(member)):
        attribute = h5a.open(member, index=at)
        name, kind = attribute.name.decode("utf-8", "surrogateescape"), attribute.dtype
        text = h5py.check_string_dtype(kind)
        if attribute.shape == () and (kind.kind in "iuf" or (text and text.length is None)):
            value = np.empty((), kind)
            attribute.read(value)
            found[name] = value[()].decode("utf-8", "surrogateescape") if text else value[()]
        else:
            found[name] = (h5py.Dataset if isinstance(member, h5d.DatasetID) else h5py.Group)(member).attrs[name]
    return found


def read_own_array(group: h5py.Group, name: str, kinds: Sequence[str]) -> np.ndarray:
    """Reads a member of a group that is an array of one of the kinds; see `_own_array`."""
    return _own_array(_own_member(group, name), kinds)


def _own_array(member: Any, kinds: Sequence[str]) -> np.ndarray:
    """Reads an array that is stored in the file itself and of one of the kinds ("uint8[2]": type and number of axes).

    Raises:
        ValueError: no array, one of another kind, too large, or data in another file.
    """
    if not isinstance(member, h5d.DatasetID):
        raise ValueError("a group where an array is expected")
    settings, shape, dtype = member.get_create_plist(), member.shape, member.dtype
    if settings.get_external_count() or settings.get_layout() == h5d.VIRTUAL:
        raise ValueError("its data are in another file")
    kind = f"{dtype}[{len(shape)}]"
    if kind not in kinds or math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"an array {kind} of shape {shape}, expected {' or '.join(kinds)}")
    # HDF5 inflates by its own zlib. What `one_chunk` made of bytes needs no more than inflating.
    deflated = settings.get_nfilters() == 1 and settings.get_filter(0)[0] == h5z.FILTER_DEFLATE
    if deflated and settings.get_chunk() == shape:
        skipped, data = member.read_direct_chunk((0,) * len(shape))
        if not skipped:
            return np.frombuffer(inflate(data, math.prod(shape) * dtype.itemsize), dtype).reshape(shape).copy()
    return h5py.Dataset(member)[()]


def _verify(attributes: dict[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Compares what was read with the checksum stored with it.

    Raises:
        ValueError: they differ, or there is none.
    """
    expected = attributes.pop(_CHECKSUM, None)
    if expected is None or int(expected) != _checksum(attributes, arrays or {}):
        raise ValueError("its checksum is not that of its content")


def _checksum(attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> int:
    """Returns the CRC-32 of attributes and arrays, with their names, types and shapes."""
    plain = {
        name: value if isinstance(value, str) else np.asarray(value).tolist() for name, value in attributes.items()
    }
    forms = {name: [array.dtype.str, list(array.shape)] for name, array in (arrays or {}).items()}
    crc = crc32(canonical_json([plain, forms]).encode("utf-8", "surrogatepass"))
    for _, array in sorted((arrays or {}).items()):
        crc = crc32(np.ascontiguousarray(array), crc)
    return crc
