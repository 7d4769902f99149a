"""The on-disk contracts between stages: dataset index, predictions, weights, score tables.

Every stage reads and writes these files only through this module. Files are written aside and renamed, so that a file
that exists is whole.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import h5py
import numpy as np
import pandas as pd

from vss import codec
from vss.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

INDEX_COLUMNS = ("video", "frame", "split", "image", "mask", "height", "width")
LABELS_FORMAT, LABELS_VERSION = "vss-labels", 1
SCORES_FORMAT, SCORES_VERSION = "vss-scores", 2
# What h5py, and the code that uses what it read, raise on a damaged file.
BROKEN_HDF5 = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)


# ---- writing whole files


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is renamed to `path`, on failure it is removed.

    The temporary name keeps the suffix, because several writers choose the format by it.

    Raises:
        UserError: the folder cannot be made or takes no file.
    """
    path = Path(path)
    prefix = f".writing-{path.name}.{socket.gethostname()}.{os.getpid()}."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_killed_writers_left(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    except OSError as error:  # it names the temporary file
        raise UserError(f"{path}: cannot be written there ({error.strerror})") from None
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)  # mkstemp makes files private; outputs follow the user's umask
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _remove_what_killed_writers_left(path: Path) -> None:
    """Removes temporary files beside `path` whose writer ran on this machine and is gone."""
    for left in path.parent.glob(f".writing-{glob.escape(path.name)}.{glob.escape(socket.gethostname())}.*"):
        pid = left.name.removeprefix(f".writing-{path.name}.{socket.gethostname()}.").split(".")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            left.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes JSON with sorted keys, two-space indent, no NaN."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file; a broken one is a `UserError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def canonical_json(value: Any) -> str:
    """Returns JSON text that depends on content only: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_file(path: str | os.PathLike) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---- dataset index


@dataclass(frozen=True)
class Card:
    """What a dataset index means: where its files are and how its masks map to train ids.

    Attributes:
        name: "vspw" or "coco_stuff".
        root: folder that the index's paths are relative to.
        classes: class names, position = train id.
        label_map: 256 train ids, position = raw mask value; 255 = ignore.
        drawn: True where the data were drawn by this project.
        frames: number of index rows by split.
        sha256: of the index file.
    """

    name: str
    root: str
    classes: list[str]
    label_map: list[int]
    drawn: bool
    frames: dict[str, int]
    sha256: str


def write_index(index: str | os.PathLike, rows: pd.DataFrame) -> None:
    """Writes one row a frame with `INDEX_COLUMNS`, sorted by split, video, frame."""
    table = rows.loc[:, list(INDEX_COLUMNS)].sort_values(["split", "video", "frame"], kind="stable")
    with atomic_path(index) as aside:
        table.to_csv(aside, index=False, lineterminator="\n")


def read_index(index: str | os.PathLike) -> pd.DataFrame:
    """Reads a dataset index: strings stay strings (a frame may be called 00000001), a missing mask is ""."""
    try:
        table = pd.read_csv(index, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{index}: no such dataset index; run the prepare stage") from None
    except ValueError as error:
        raise UserError(f"{index}: not a dataset index ({error})") from None
    if tuple(table.columns) != INDEX_COLUMNS:
        raise UserError(f"{index}: columns are {list(table.columns)}, expected {list(INDEX_COLUMNS)}")
    try:
        return table.astype({"height": int, "width": int})
    except ValueError as error:
        raise UserError(f"{index}: height and width must be whole numbers ({error})") from None


def read_dataset(index: str | os.PathLike, card: str | os.PathLike) -> tuple[pd.DataFrame, Card]:
    """Reads a dataset's index and card.

    Raises:
        UserError: one of them cannot be read, or the card was written for another index.
    """
    table, dataset = read_index(index), read_card(card)
    if dataset.sha256 != sha256_of_file(index):
        raise UserError(f"{index}: not the index that {card} was written for, it was cut or changed; run prepare again")
    return table, dataset


def write_card(path: str | os.PathLike, card: Card) -> None:
    """Writes a dataset card as JSON."""
    write_json(path, asdict(card))


def read_card(path: str | os.PathLike) -> Card:
    """Reads a dataset card; anything else is a `UserError` that names the file."""
    try:
        return Card(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: not a dataset card ({error})") from None


def read_image(path: str | os.PathLike, *, upright: bool = False) -> np.ndarray:
    """Decodes an image file to RGB [H, W, 3] uint8.

    Args:
        path: of the image.
        upright: whether to turn it as its EXIF says (phones store pictures lying). A dataset's frames are read as they
            are stored, by VSPW's own tools too, because their masks are.

    Raises:
        UserError: the file is missing, truncated or not an image.
    """
    data = _read_bytes(path)
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise UserError(f"{path}: not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_raw_mask(path: str | os.PathLike) -> np.ndarray:
    """Decodes a mask PNG to its stored values [H, W] uint8 (palette indices, not colours).

    Raises:
        UserError: the file is missing, truncated, or has more than one channel.
    """
    from PIL import Image  # OpenCV expands palettes to colours

    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L"):
                raise UserError(f"{path}: mask has mode {file.mode}, expected P or L (one byte a pixel)")
            return np.array(file, dtype=np.uint8)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable mask ({error})") from None


def read_mask(path: str | os.PathLike, label_map: Sequence[int] | np.ndarray) -> np.ndarray:
    """Decodes a mask and maps it to train ids [H, W] uint8; 255 = ignore. The only place where labels are mapped."""
    return np.asarray(label_map, np.uint8)[read_raw_mask(path)]


def _read_bytes(path: str | os.PathLike) -> np.ndarray:
    # cv2.imread cannot tell a missing file from a broken one, and fails on some unicode paths.
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


# ---- shards


def shard_of(video: str, shards: int) -> int:
    """Returns the shard 0..shards-1 of a video: a hash of its id, so that adding videos moves no other."""
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") % shards


def shard_rows(index: pd.DataFrame, *, split: str, shard: int, shards: int) -> pd.DataFrame:
    """Returns the index rows of one shard of a split, in index order.

    Raises:
        UserError: there is no such shard.
    """
    if not 0 <= shard < shards:
        raise UserError(f"shard: found shard {shard} of {shards}; shards are counted from 0, and there is at least one")
    rows = index[index["split"] == split]
    shard_of_video = {video: shard_of(video, shards) for video in rows["video"].unique()}
    return rows[rows["video"].map(shard_of_video) == shard]


# ---- predictions


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


# ---- predictions: label maps


class LabelsWriter(FramesWriter):
    """Writes the label maps of one shard, lossless: each frame is a dataset [H, W] uint8 of train ids."""

    FORMAT, VERSION = LABELS_FORMAT, LABELS_VERSION

    def write(self, video: str, frame: str, labels: np.ndarray) -> None:
        """Adds one frame's label map [H, W] uint8 of train ids 0..num_classes-1 (255 allowed: unknown)."""
        assert labels.ndim == 2 and labels.dtype == np.uint8, (labels.shape, labels.dtype)
        dataset = self._frames.create_dataset(self._new(video, frame), data=labels, **one_chunk(labels))
        dataset.attrs["video"], dataset.attrs["frame"] = video, frame


class LabelsReader(FramesReader):
    """Reads a shard of label maps by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = LABELS_FORMAT, LABELS_VERSION

    def read(self, video: str, frame: str) -> np.ndarray:
        """Returns one frame's label map [H, W] uint8.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        with self._naming(video, frame):
            return self._object(video, frame)[()]


def one_chunk(array: np.ndarray) -> dict[str, Any]:
    """Returns the storage settings of an array that is read whole; plain deflate, which every HDF5 reader has."""
    if array.size == 0:
        return {}
    return {"chunks": array.shape, "compression": "gzip", "compression_opts": 4, "shuffle": array.itemsize > 1}


# ---- predictions: class scores


class ScoresWriter(FramesWriter):
    """Writes the class probabilities of one shard in the compact form of `vss.codec`.

    Each frame is a group with the arrays of `codec.Encoded` as datasets (`labels`, `classes`, `shares`, `fix_at`,
    `fix_by`) and its numbers as attributes (`step`, `stride`, `num_classes`, `deadzone`). See docs/formats.md.
    """

    FORMAT, VERSION = SCORES_FORMAT, SCORES_VERSION

    def write(self, video: str, frame: str, probabilities: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Adds one frame's class probabilities.

        Args:
            video, frame: its key.
            probabilities: [C, H, W] float32, 0..1, summing to 1 over C.
            labels: their argmax [H, W] uint8, if the caller has it.
        """
        assert len(probabilities) == len(self._classes), (probabilities.shape, len(self._classes))
        self.write_encoded(video, frame, codec.encode(probabilities, labels))

    def write_encoded(self, video: str, frame: str, encoded: codec.Encoded) -> None:
        """Adds one frame that is already in its stored form."""
        group = self._frames.create_group(self._new(video, frame))
        group.attrs["video"], group.attrs["frame"] = video, frame
        for field in fields(codec.Encoded):
            value = getattr(encoded, field.name)
            if isinstance(value, np.ndarray):
                group.create_dataset(field.name, data=value, **one_chunk(value))
            else:
                group.attrs[field.name] = value


class ScoresReader(FramesReader):
    """Reads a shard of class probabilities by (video, frame).

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """

    FORMAT, VERSION = SCORES_FORMAT, SCORES_VERSION

    def read(self, video: str, frame: str) -> np.ndarray:
        """Returns one frame's class probabilities [C, H, W] float32.

        Raises:
            UserError: the file has no such frame, or it is broken.
        """
        return self.read_planes(video, frame).dense()

    def read_classes(self, video: str, frame: str) -> np.ndarray:
        """Returns the ids of the classes that have a plane in a frame [A] uint8, reading nothing else."""
        with self._naming(video, frame):
            return self._object(video, frame)["classes"][()]

    def read_planes(self, video: str, frame: str) -> codec.Planes:
        """Returns one frame's class probabilities without the planes that are the same for many classes."""
        encoded = self.read_encoded(video, frame)
        with self._naming(video, frame):
            return codec.decode(encoded)

    def read_encoded(self, video: str, frame: str) -> codec.Encoded:
        """Returns one frame in its stored form."""
        with self._naming(video, frame):
            group = self._object(video, frame)
            values = {
                field.name: group[field.name][()] if field.name in group else group.attrs[field.name].item()
                for field in fields(codec.Encoded)
            }
            if values["stride"] not in (1, 2):
                raise ValueError(f"stride is {values['stride']}")
        return codec.Encoded(**values)


# ---- weights


@dataclass(frozen=True)
class Fingerprint:
    """The small file that stands for large weights, so that what follows depends on content and not on file times.

    Attributes:
        sha256: of the weights file.
        stage: "pretrain", "finetune" or "refine".
        model: name in the config.
        settings: the resolved settings the weights came from.
        code: digest of the training code, None for imported weights.
    """

    sha256: str
    stage: str
    model: str
    settings: dict[str, Any]
    code: str | None


def write_fingerprint(path: str | os.PathLike, fingerprint: Fingerprint) -> None:
    """Writes a fingerprint as JSON; always the last file of a training."""
    write_json(path, asdict(fingerprint))


def read_fingerprint(path: str | os.PathLike) -> Fingerprint:
    """Reads a fingerprint; anything else is a `UserError` that names the file."""
    try:
        return Fingerprint(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: not a fingerprint of weights ({error})") from None


def sha256_of_weights(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a weights file, which has to be the one that a fingerprint beside it records.

    Published weights, and files of other names than a training gives, have no fingerprint.

    Raises:
        UserError: no such file, or not the one that was published with the fingerprint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    found = sha256_of_file(path)
    fingerprint = path.with_name("fingerprint.json")
    if path.name == "weights.safetensors" and fingerprint.exists():
        recorded = read_fingerprint(fingerprint).sha256
        if found != recorded:
            raise UserError(
                f"{path}: its SHA-256 begins {found[:8]}, {fingerprint.name} beside it says {str(recorded)[:8]}: it was"
                " damaged or replaced; put the right file back, or delete both files so that they are made again"
            )
    return found
