"""What a shard's score is: integers, which add. One file per shard: npz without pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vss.core.errors import UserError
from vss.core.files import BROKEN_NPZ, atomic_path, canonical_json
from vss.score.boundary import BOUNDARY_COLUMNS
from vss.score.calibration import BINS, CALIBRATION_COLUMNS
from vss.score.consistency import PERSISTENT_COLUMNS, WINDOW_COLUMNS

FORMAT = "vss-counts"
VERSION = 3
EARLIER = (2,)  # without the tables and names that came later
CELL_COLUMNS = ("video", "row", "column", "pixels")
TRIMAP_COLUMNS = ("pixels", "right")
FRAME_COLUMNS = ("video", "position", "pixels", "right")
CHANGED_COLUMNS = ("became_right", "became_wrong", "stayed_wrong")
# The columns of every table that names the video in a column.
TABLES = {
    "cells": CELL_COLUMNS,
    "flow_cells": CELL_COLUMNS,
    "visible_cells": CELL_COLUMNS,
    "windows": WINDOW_COLUMNS,
    "persistent": PERSISTENT_COLUMNS,
    "boundary": BOUNDARY_COLUMNS,
    "frame_pixels": FRAME_COLUMNS,
    "calibration": CALIBRATION_COLUMNS,
}


@dataclass(frozen=True)
class Counts:
    """The counts of some videos of one split.

    Attributes:
        split: split of the dataset.
        shards: number of shards of the split.
        members: which of them are counted here.
        classes: class names, position = train id.
        flow: name of the optical flow behind `flow_cells`, None where there is none.
        videos: ids; the position is the video number in the tables below.
        frames: frames of each video [V] int64.
        cells: non-zero cells of each video's confusion matrix [K, 4] int64, columns `CELL_COLUMNS`.
        flow_cells: likewise between each prediction and the next one, warped.
        visible_cells: likewise of the pixels that are not occluded in the next frame.
        windows: [W, 10] int64, columns `WINDOW_COLUMNS`.
        persistent: one row per window and class that persists in it [K, 7] int64, columns `PERSISTENT_COLUMNS`.
        boundary: pixels of each video's classes in boundary bands [K, 5] int64, columns `BOUNDARY_COLUMNS`.
        frame_pixels: labelled pixels of each frame and those labelled right [F, 4] int64, columns `FRAME_COLUMNS`.
        calibration: pixels by confidence [K, 5] int64, columns `CALIBRATION_COLUMNS`; no rows where it was not counted.
        trimap: labelled pixels of each video near a contour of the truth, and those labelled right [V, 2] int64.
        frame_names: ids of each video's frames, in order; empty in files of an earlier version.
        unrefined: frames of the prediction that a refiner could not refine; also such as have no mask.
        changed: labelled pixels that a refinement changed, by how (`CHANGED_COLUMNS`); empty where it was not counted.
    """

    split: str
    shards: int
    members: tuple[int, ...]
    classes: tuple[str, ...]
    flow: str | None
    videos: tuple[str, ...]
    frames: np.ndarray
    cells: np.ndarray
    flow_cells: np.ndarray
    visible_cells: np.ndarray
    windows: np.ndarray
    persistent: np.ndarray
    boundary: np.ndarray
    frame_pixels: np.ndarray
    calibration: np.ndarray
    trimap: np.ndarray
    frame_names: tuple[tuple[str, ...], ...] = ()
    unrefined: int = 0
    changed: tuple[int, ...] = ()

    def confusion(self, videos: Sequence[int] | None = None, *, table: str = "cells") -> np.ndarray:
        """Returns the confusion matrix [C, C + 1] int64 summed over some videos, by default over all.

        Args:
            videos: numbers of videos.
            table: which of the tables with `CELL_COLUMNS`.
        """
        num_classes = len(self.classes)
        cells = getattr(self, table)
        if videos is not None:
            cells = cells[np.isin(cells[:, 0], list(videos))]
        matrix = np.zeros((num_classes, num_classes + 1), np.int64)
        np.add.at(matrix, (cells[:, 1], cells[:, 2]), cells[:, 3])
        return matrix

    def calibration_by_video(self) -> np.ndarray:
        """Returns the calibration counts of each video [V, BINS, 3] int64."""
        total = np.zeros((len(self.videos), BINS, 3), np.int64)
        np.add.at(total, (self.calibration[:, 0], self.calibration[:, 1]), self.calibration[:, 2:])
        return total


def cells_of(confusion: np.ndarray, video: int) -> np.ndarray:
    """Returns the non-zero cells [K, 4] int64 of a video's confusion matrix."""
    row, column = np.nonzero(confusion)
    return np.stack([np.full_like(row, video), row, column, confusion[row, column]], axis=1).astype(np.int64)


def save_counts(path: str | os.PathLike, counts: Counts) -> None:
    """Writes counts; equal counts give equal bytes."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "split": counts.split,
        "shards": counts.shards,
        "members": counts.members,
        "classes": counts.classes,
        "flow": counts.flow,
        "videos": counts.videos,
        "frame_names": counts.frame_names,
        **({"unrefined": counts.unrefined} if counts.unrefined else {}),
        **({"changed": counts.changed} if counts.changed else {}),
    }
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(
            file,
            about=np.frombuffer(canonical_json(about).encode(), np.uint8),
            frames=counts.frames,
            trimap=counts.trimap,
            **{name: getattr(counts, name) for name in TABLES},
        )


def load_counts(path: str | os.PathLike) -> Counts:
    """Reads counts.

    Raises:
        UserError: the file is missing, broken, or of another format or version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            found = (about.get("format"), about.get("version"))
            earlier = found[1] in EARLIER
            nothing = {name: np.zeros((0, len(columns)), np.int64) for name, columns in TABLES.items()}
            tables = {
                name: nothing[name] if earlier and name not in file.files else file[name]
                for name in ("frames", "trimap", *TABLES)
            }
        if found[0] != FORMAT or found[1] not in (*EARLIER, VERSION):
            raise UserError(f"{path}: format is {found}, expected {(FORMAT, VERSION)}")
        return Counts(
            split=about["split"],
            shards=about["shards"],
            members=tuple(about["members"]),
            classes=tuple(about["classes"]),
            flow=about["flow"],
            videos=tuple(about["videos"]),
            frame_names=tuple(map(tuple, about.get("frame_names", ()))),
            unrefined=about.get("unrefined", 0),
            changed=tuple(about.get("changed", ())),
            **tables,
        )
    except BROKEN_NPZ as error:
        raise UserError(f"{path}: not a readable score shard ({error or type(error).__name__})") from None


def merge_counts(parts: Sequence[Counts]) -> Counts:
    """Returns the counts of all parts together, videos in the order of their ids.

    The result does not depend on how the videos were dealt to the parts.

    Raises:
        UserError: the parts are not all of one split and kind, or a shard or video is there twice.
    """
    first = parts[0]
    for part in parts[1:]:
        for name in ("split", "shards", "classes", "flow"):
            if getattr(part, name) != getattr(first, name):
                raise UserError(f"score shards differ in {name}: {getattr(first, name)!r} and {getattr(part, name)!r}")
    videos = [video for part in parts for video in part.videos]
    members = [member for part in parts for member in part.members]
    for what, names in (("video", videos), ("shard", members)):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"score shards overlap: {what} {twice[0]!r} is in more than one of them")
    offsets = np.cumsum([0] + [len(part.videos) for part in parts])[:-1]
    order = np.array(sorted(range(len(videos)), key=videos.__getitem__), np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    def gather(name: str, video_column: int) -> np.ndarray:
        tables = []
        for part, offset in zip(parts, offsets, strict=True):
            table = getattr(part, name).copy()
            table[:, video_column] = place[table[:, video_column] + offset]
            tables.append(table)
        joined = np.concatenate(tables)
        return joined[np.lexsort(joined.T[::-1])]

    names = [of_video for part in parts for of_video in part.frame_names]
    changed = [part.changed for part in parts]
    return Counts(
        split=first.split,
        shards=first.shards,
        members=tuple(sorted(members)),
        classes=first.classes,
        flow=first.flow,
        videos=tuple(videos[at] for at in order),
        frames=np.concatenate([part.frames for part in parts])[order],
        trimap=np.concatenate([part.trimap for part in parts])[order],
        frame_names=tuple(names[at] for at in order) if len(names) == len(videos) else (),
        unrefined=sum(part.unrefined for part in parts),
        changed=tuple(map(sum, zip(*changed, strict=True))) if all(changed) else (),
        **{name: gather(name, columns.index("video")) for name, columns in TABLES.items()},
    )
