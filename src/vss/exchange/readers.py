"""Readers of imported predictions: one frame at a time, by video and frame, as train ids or class probabilities."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from vss.configs.layouts import OUR_LABELS, OUR_SCORES, ImportSource
from vss.core import zip_folder
from vss.core.codec import Encoded, decode, encode
from vss.core.errors import UserError
from vss.core.files import regular_file
from vss.core.frames_file import FrameFiles, FramesReader
from vss.core.images import read_raw_mask, unknown_mask_colours
from vss.core.index import Card
from vss.core.label_space import ignore_index, label_dtype
from vss.core.labels_file import LabelsReader
from vss.core.patterns import PathPattern
from vss.core.scores_file import ScoresReader
from vss.exchange.ids import IdTable, read_ids
from vss.exchange.panoptic import PanopticIndex

Key = tuple[str, str]  # (video, frame)
_NAMED = 5  # frames that a message names
# NumPy parses an array's header as Python source, and Python 3.10 and 3.11 keep the parser's depth for all threads
# together: two at once end in "AST constructor recursion depth mismatch".
_ONE_HEADER_AT_A_TIME = threading.Lock()


class PredictionReader(ABC):
    """What another system predicted, frame by frame.

    Use as a context manager; methods may be called from several threads.
    """

    @abstractmethod
    def file_of(self, key: Key) -> str | None:
        """Returns the path of the file that holds a frame, None where there is none."""

    @abstractmethod
    def extra(self, known: Iterable[Key]) -> dict[str, str]:
        """Returns what is there beyond the known frames: a place for messages, and the video that it seems to be of."""

    @abstractmethod
    def labels(self, key: Key) -> np.ndarray:
        """Returns a frame's label map [H, W] of train ids of the dataset's label dtype, in the size it is stored in.

        Raises:
            UserError: it is missing or damaged, or holds what is no id.
        """

    def place(self, key: Key) -> str:
        """Returns where a frame should be, for messages."""
        return self.file_of(key) or "/".join(key)

    def __enter__(self) -> PredictionReader:
        return self

    def __exit__(self, *exception: Any) -> None:
        return None


class ProbabilityReader(PredictionReader):
    """A prediction that has class probabilities."""

    @abstractmethod
    def probabilities(self, key: Key) -> np.ndarray:
        """Returns a frame's class probabilities [C, H, W] float32, as stored; errors as `labels`."""

    def encoded(self, key: Key) -> Encoded | None:
        """Returns them in our own stored form, None where they are in another."""
        return None

    def labels(self, key: Key) -> np.ndarray:
        planes = self.probabilities(key)
        return planes.argmax(axis=0).astype(label_dtype(len(planes)))


class _NamedFiles(PredictionReader):
    """One file per frame, found by a pattern."""

    def __init__(self, files: PathPattern) -> None:
        self._files = files

    def place(self, key: Key) -> str:
        return self._files.path(video=key[0], frame=key[1])

    def file_of(self, key: Key) -> str | None:
        path = self.place(key)
        return path if os.path.exists(path) or zip_folder.is_file(path) else None

    def extra(self, known: Iterable[Key]) -> dict[str, str]:
        # By path: where names are joined, as in {video}_{frame}.png, they cannot be read back for certain.
        paths = {os.path.normpath(self.place(key)) for key in known}
        found = {os.path.normpath(file.path): file.values.get("video", "") for file in self._files.files()}
        return {path: video for path, video in found.items() if path not in paths}


class _Masks(_NamedFiles):
    """PNGs of one value per pixel."""

    def __init__(self, files: PathPattern, ids: IdTable) -> None:
        super().__init__(files)
        self._ids = ids

    def labels(self, key: Key) -> np.ndarray:
        path, coding = self.place(key), self._ids.coding
        raw = read_raw_mask(path, coding)
        if coding.values == "colours" and (raw == coding.unknown).any():
            colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in unknown_mask_colours(path, coding)]
            raise UserError(f"{path}: holds colours that are no class: {first_few(colours)}")
        return self._ids.to_train(raw, where=path)


class _PanopticMasks(_NamedFiles):
    """PNGs of segments, with their JSON file."""

    def __init__(self, files: PathPattern, index: PanopticIndex) -> None:
        super().__init__(files)
        self._index = index

    def file_of(self, key: Key) -> str | None:
        return super().file_of(key) if key in self._index else None

    def labels(self, key: Key) -> np.ndarray:
        return self._index.read(self.place(key), key)


class _Arrays(_NamedFiles, ProbabilityReader):
    """Class probabilities as .npy, or .npz of one array."""

    def __init__(self, files: PathPattern, ids: IdTable, num_classes: int) -> None:
        super().__init__(files)
        self._ids, self._num_classes = ids, num_classes

    def probabilities(self, key: Key) -> np.ndarray:
        path = self.place(key)
        return self._ids.gather(_read_array(path), self._num_classes, where=path)


class _OurFiles(PredictionReader):
    """Our own files of a split's shards, label maps or class scores."""

    def __init__(self, files: PathPattern, reader: type[FramesReader], dataset: Card) -> None:
        self._files, self._open, self._classes = files, reader, dataset.classes
        self._ids = read_ids("train", dataset)

    def __enter__(self) -> PredictionReader:
        self._frames = FrameFiles(self._open, [file.path for file in self._files.files()])
        for reader in self._frames.readers:
            if reader.classes != self._classes:
                self._frames.close()
                raise UserError(f"{reader.path}: predicts {len(reader.classes)} classes that are not the dataset's")
        return self

    def __exit__(self, *exception: Any) -> None:
        self._frames.close()

    def file_of(self, key: Key) -> str | None:
        reader = self._frames.get(*key)
        return None if reader is None else str(reader.path)

    def extra(self, known: Iterable[Key]) -> dict[str, str]:
        known = set(known)
        return {f"{self.file_of(key)}: {'/'.join(key)}": key[0] for key in self._frames if key not in known}

    def labels(self, key: Key) -> np.ndarray:
        stored = self._reader(key).read(*key)
        return self._ids.to_train(stored, where=f"{self.file_of(key)}: frame {key[1]!r} of video {key[0]!r}")

    def _reader(self, key: Key) -> Any:
        reader = self._frames.get(*key)
        assert reader is not None, key
        return reader


class _OurScores(_OurFiles, ProbabilityReader):
    """Our own class scores."""

    def labels(self, key: Key) -> np.ndarray:
        return self.encoded(key).labels

    def encoded(self, key: Key) -> Encoded:
        return self._reader(key).read_encoded(*key)

    def probabilities(self, key: Key) -> np.ndarray:
        return decode(self.encoded(key)).dense()


def open_reader(source: ImportSource, dataset: Card, *, split: str) -> PredictionReader:
    """Returns the reader of a source's frames of one split.

    Args:
        source: see `vss.configs.layouts.import_source`.
        dataset: whose classes the prediction has; its masks say what raw ids are.
        split: stands in place of {split}.

    Raises:
        UserError: the table of ids or the panoptic JSON has a mistake.
    """
    files = source.files.filled(split=split)
    if source.holds == OUR_LABELS:
        return _OurFiles(files, LabelsReader, dataset)
    if source.holds == OUR_SCORES:
        return _OurScores(files, ScoresReader, dataset)
    ids = None if source.ids == "categories" else read_ids(source.ids, dataset)
    if source.segments is not None:
        return _PanopticMasks(files, PanopticIndex(source.segments.path(split=split), ids, dataset.classes))
    assert ids is not None, source
    return _Arrays(files, ids, len(dataset.classes)) if source.has_scores else _Masks(files, ids)


def refuse_missing(reader: PredictionReader, keys: Iterable[Key], *, what: str) -> None:
    """Refuses a prediction that lacks some of the frames (video, frame).

    Raises:
        UserError: the first ones, and how many.
    """
    keys = list(keys)
    missing = [key for key in keys if reader.file_of(key) is None]
    if missing:
        places = first_few([reader.place(key) for key in missing])
        raise UserError(f"{what}: no prediction for {len(missing)} of {len(keys)} frames: {places}")


def first_few(places: Sequence[str]) -> str:
    """Returns the first of several places as a message names them."""
    return ", ".join(places[:_NAMED]) + (", ..." if len(places) > _NAMED else "")


def fitted_labels(labels: np.ndarray, size: tuple[int, int], resize: str | None, *, where: str) -> np.ndarray:
    """Returns a label map at `size` = (H, W).

    Raises:
        UserError: it is of another size and `resize` is None.
    """
    if labels.shape == size:
        return labels
    _refuse_unless(resize, labels.shape, size, "nearest", where)
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def fitted_probabilities(planes: np.ndarray, size: tuple[int, int], resize: str | None, *, where: str) -> np.ndarray:
    """Returns class probabilities [C, H, W] at `size`, resized bilinearly (align_corners False); errors as above."""
    if planes.shape[1:] == size:
        return planes
    _refuse_unless(resize, planes.shape[1:], size, "bilinear", where)
    return np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in planes])


def _refuse_unless(resize: str | None, found: tuple[int, ...], size: tuple[int, int], rule: str, where: str) -> None:
    if resize is None:
        raise UserError(
            f"{where}: is {found[1]}x{found[0]}, its image is {size[1]}x{size[0]}; resize: {rule} would resize it"
        )


def votes(labels: np.ndarray, confidence: float, num_classes: int) -> Encoded:
    """Returns a label map [H, W] as stored class probabilities.

    The labelled class has `confidence`, all others the same share of the rest; where there is no class, every class
    has the same.
    """
    rest = (1 - confidence) / max(num_classes - 1, 1)
    probabilities = np.full((num_classes, *labels.shape), rest, np.float32)
    np.put_along_axis(probabilities, np.minimum(labels, num_classes - 1)[None].astype(np.intp), confidence, 0)
    probabilities[:, labels == ignore_index(labels.dtype)] = 1 / num_classes
    return encode(probabilities)


def _read_array(path: str) -> np.ndarray:
    """Returns the one array [K, H, W] of a .npy or .npz file as float32.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    try:
        with _ONE_HEADER_AT_A_TIME:
            loaded = np.load(regular_file(path), allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                with loaded as archive:
                    names = archive.files
                    if len(names) != 1:
                        raise UserError(f"{path}: holds {len(names)} arrays ({', '.join(names)}), must hold one")
                    loaded = archive[names[0]]
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise many types on damaged files
        raise UserError(
            f"{path}: not a readable array ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
    if loaded.ndim != 3 or loaded.dtype.kind != "f" or not loaded.size:
        raise UserError(f"{path}: holds {loaded.dtype} of shape {loaded.shape}, must be floating-point [C, H, W]")
    return loaded.astype(np.float32)
