"""Pictures of the frames that two predictions differ on most, for the page of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from vss.core.blend import blend_labels
from vss.core.errors import UserError
from vss.core.frames_file import FrameFiles
from vss.core.images import data_url, read_image
from vss.core.index import Card, prepared_folder, read_dataset
from vss.core.labels_file import LabelsReader

_WIDTH, _QUALITY = 320, 80  # pixels of a picture; of its JPEG
Pictures = dict[tuple[str, str], list[tuple[str, str]]]  # by (video, frame): name and data URL of each picture


def frame_pictures(first: Path, second: Path, frames: Iterable[tuple[str, str]]) -> Pictures:
    """Returns the truth and both predictions of frames, drawn over the image.

    Counts outlast what was counted: frames whose image, mask or prediction is gone have no pictures.

    Args:
        first, second: score folders, `<results>/score/<prediction>/<split>`.
        frames: (video, frame) of each.
    """
    drawn: Pictures = {}
    with ExitStack() as opened:
        try:
            both = [opened.enter_context(FrameFiles(LabelsReader, _label_files(folder))) for folder in (first, second)]
            reader = next((each.readers[0] for each in both if each.readers), None)
            where = reader and prepared_folder(_results_of(first), reader.classes, reader.provenance)
            if not where:
                return {}
            table, card = read_dataset(where / "index.csv", where / "dataset.json")
            card = _found(card, _results_of(first))
        except UserError:
            return {}
        rows = table.set_index(["video", "frame"])
        for key in frames:
            readers = [each.get(*key) for each in both]
            if key not in rows.index or None in readers:
                continue
            try:
                row = rows.loc[key]
                image = read_image(Path(card.root) / row["image"])
                maps = [card.read_mask(row["mask"]), *(each.read(*key) for each in readers if each)]
            except UserError:
                continue
            names = ("truth", "first", "second")
            drawn[key] = [(name, _drawn(image, labels, card)) for name, labels in zip(names, maps, strict=True)]
    return drawn


def _results_of(folder: Path) -> Path:
    return folder.resolve().parents[2]


def _found(card: Card, results: Path) -> Card:
    """Returns the card of a dataset whose root, if relative, begins in the folder that the run was started in."""
    roots = (folder / card.root for folder in (Path(), *results.parents))
    return replace(card, root=str(next(filter(Path.is_dir, roots), card.root)))


def _label_files(folder: Path) -> list[Path]:
    split, name = folder.resolve().name, folder.resolve().parent.name
    return sorted((_results_of(folder) / "predictions" / name / split).glob("[0-9]*.labels.h5"))


def _drawn(image: np.ndarray, labels: np.ndarray, card: Card) -> str:
    """Returns a label map over its image, small, as a data URL; pixels without a class show the image."""
    size = (_WIDTH, max(1, round(image.shape[0] * _WIDTH / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ids = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return data_url(blend_labels(small, ids, card.palette()), "jpeg", quality=_QUALITY)
