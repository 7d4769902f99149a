"""COCO's panoptic format: PNGs whose colours are segment ids, and a JSON file that says each segment's category.

A segment id is R + 256 G + 65536 B; 0 is no segment. The JSON lists `annotations` per image, or per video as VIPSeg and
DVIS++ write it. Read as semantic label maps: segments of one category are one class.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vss.core.errors import UserError
from vss.core.files import JsonObject, atomic_path, read_json, write_text
from vss.core.images import read_image
from vss.core.label_space import ignore_index, label_dtype
from vss.core.labels import overlay_palette
from vss.core.masks import PLAIN_IDS
from vss.exchange.ids import IdTable, train_id_of_class


class PanopticIndex:
    """The categories of every segment, by frame.

    Args:
        path: JSON file.
        ids: table from category ids to train ids; None takes the names of the file's own `categories`.
        classes: class names, position = train id.

    Raises:
        UserError: the file cannot be read or is of another form, or a category is no class of the dataset.
    """

    def __init__(self, path: str | os.PathLike, ids: IdTable | None, classes: Sequence[str]) -> None:
        self.path = Path(path)
        try:
            content = read_json(path)
            self._segments = dict(_frames(content["annotations"]))
            categories = content.get("categories", ())
            names = {int(category["id"]): str(category["name"]) for category in categories}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: is no panoptic JSON in COCO's format ({type(error).__name__}: {error})") from None
        if ids is None:
            if not names:
                raise UserError(f"{path}: has no categories; set ids to train, raw or a class table of category ids")
            table = {number: train_id_of_class(name, classes, where=path) for number, name in names.items()}
            ids = IdTable(table, "its categories do not have it", PLAIN_IDS, label_dtype(len(classes)))
        self._ids, self._dtype = ids, label_dtype(len(classes))

    def __contains__(self, key: tuple[str, str]) -> bool:
        return self._name(key) is not None

    def read(self, path: str | os.PathLike, key: tuple[str, str]) -> np.ndarray:
        """Returns the label map [H, W] of train ids in the PNG of a frame (video, frame); no segment is no class.

        Raises:
            UserError: the PNG is damaged, or has a segment that the JSON does not describe.
        """
        colours = read_image(path).astype(np.int32)
        found, where = np.unique(colours @ np.array([1, 256, 65536], np.int32), return_inverse=True)
        category_of = self._segments[self._name(key) or ""]
        train_ids = np.full(len(found), ignore_index(self._dtype), self._dtype)
        for at, segment in enumerate(found.tolist()):
            if segment in category_of:
                category = np.array([category_of[segment]], np.uint32)
                train_ids[at] = self._ids.to_train(
                    category, where=f"{self.path}: segment {segment} of {key[0]}/{key[1]}"
                )[0]
            elif segment != 0:
                raise UserError(f"{path}: holds segment {segment}, which {self.path} does not describe")
        return train_ids[where.reshape(colours.shape[:2])]

    def _name(self, key: tuple[str, str]) -> str | None:
        """Returns what the JSON calls a frame: its path without suffix, or both names joined."""
        return next((name for name in ("/".join(key), "_".join(key)) if name in self._segments), None)


def _frames(annotations: Iterable[JsonObject]) -> Iterable[tuple[str, dict[int, int]]]:
    """Yields the name of each frame, without suffix, and its category by segment."""
    for annotation in annotations:
        if "video_id" in annotation and "annotations" in annotation:
            for name, category_of in _frames(annotation["annotations"]):
                yield f"{annotation['video_id']}/{name.rpartition('/')[2]}", category_of
        else:
            segments = annotation["segments_info"]
            category_of = {int(segment["id"]): int(segment["category_id"]) for segment in segments}
            yield os.path.splitext(annotation["file_name"])[0], category_of


class PanopticWriter:
    """Writes label maps as COCO panoptic: `panoptic.json` and `panoptic/<video>/<frame>.png`; one segment per class.

    Category ids and segment ids are train ids + 1, because 0 is no segment.

    Args:
        folder: where to write; is made.
        classes: class names, position = train id.
        palette: colours of the categories in the JSON [C or more, 3] uint8, by train id; None = the overlays' own.
    """

    def __init__(self, folder: Path, classes: Sequence[str], palette: np.ndarray | None = None) -> None:
        self._folder, self._classes = folder, classes
        self._palette = overlay_palette(num_classes=len(classes)) if palette is None else palette
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        # A colour is a segment: the PNGs show ids, not the classes' own colours.
        self._ignored = ignore_index(label_dtype(len(classes)))
        self._colours = np.zeros((self._ignored + 1, 3), np.uint8)
        segments = np.arange(1, len(classes) + 1)
        self._colours[: len(classes), :2] = np.stack([segments & 255, segments >> 8], axis=1)

    def write(self, video: str, frame: str, labels: np.ndarray) -> None:
        """Adds one frame's label map [H, W] of train ids; no class becomes no segment."""
        name, number = f"{video}/{frame}", len(self._images) + 1
        height, width = labels.shape
        with atomic_path(self._folder / "panoptic" / f"{name}.png") as aside:
            Image.fromarray(self._colours[labels]).save(aside, format="PNG")
        self._images.append({"id": number, "file_name": f"{name}.jpg", "height": height, "width": width})
        segments = [
            _segment(labels == train_id, train_id + 1)
            for train_id in np.unique(labels).tolist()
            if train_id != self._ignored
        ]
        self._annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})

    def finish(self) -> None:
        """Writes the JSON, last: where it is, every PNG is."""
        categories = [
            {"id": at + 1, "name": name, "supercategory": name, "isthing": 0, "color": self._palette[at].tolist()}
            for at, name in enumerate(self._classes)
        ]
        content = {"images": self._images, "annotations": self._annotations, "categories": categories}
        write_text(self._folder / "panoptic.json", json.dumps(content) + "\n")


def _segment(mask: np.ndarray, number: int) -> dict[str, Any]:
    """Returns COCO's description of a segment, whose box is [x, y, width, height] in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    return {"id": number, "category_id": number, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
