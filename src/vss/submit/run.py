"""Writes and checks a submission: a zip of `video/frame.png`, P-mode of train ids, or as a dataset's own masks.

What the files hold follows VSPW_baseline test.py (original size, train ids, its palette). Equal predictions give equal
bytes: entries are sorted and carry no time.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vss.configs.datasets import read_dataset_row
from vss.core.errors import UserError
from vss.core.files import BROKEN_ZIP, atomic_path
from vss.core.index import Card, LeftOut, read_dataset, read_index
from vss.core.labels import VSPW, submission_palette
from vss.core.labels_file import LabelsReader
from vss.core.log import log, track
from vss.core.masks import train_ids
from vss.core.order import natural_key
from vss.prepare.listed import listed_rows
from vss.submit.png import MaskPngs, entry_name, palette_of, png_of_labels

_NAMED = 5  # how many missing frames an error names
_MOST_IN_A_PALETTE = 255  # classes; more are written as 16-bit grey
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can hold


def submit(
    *,
    labels: Sequence[str | os.PathLike],
    index: str | os.PathLike,
    card: str | os.PathLike,
    out: str | os.PathLike,
    split: str = "test",
    fill: str | None = None,
    pngs: str | None = None,
) -> None:
    """Packs the label maps of every frame of a split into a submission zip, and reads it back (`check_submission`).

    Args:
        labels: the `*.labels.h5` of every shard of the split.
        index, card: the prepared dataset.
        out: zip to write.
        split: split of the dataset.
        fill: what stands for a listed frame that `on_problem: skip` left out: "previous" takes the labels of
            the frame before it in its video, or of the first one; None refuses.
        pngs: "masks" writes what the dataset's own masks hold (`MaskPngs`); None train ids with a palette.

    Raises:
        UserError: listed frames were left out and are not filled; frames are missing, there twice, of another size than
            the image, or hold a label that is no class; an id cannot be a file name. Nothing is written then.
    """
    table, dataset = read_dataset(index, card)
    num_classes = len(dataset.classes)
    palette, masks = palette_of(dataset), MaskPngs(dataset) if pngs == "masks" else None
    rows = _with_filled(_rows(table, split, index), [item for item in dataset.left_out if item.split == split], fill)
    readers = [LabelsReader(path) for path in labels]
    try:
        reader_of = reader_of_frame(readers)
        sources = list(zip(rows["video"], rows["source"], strict=True))
        _refuse_missing([key for key in sources if key not in reader_of], len(sources), what="predictions")
        with atomic_path(out) as aside:
            _pack(aside, rows, reader_of, num_classes, split, lambda frame: _png_of(frame, palette, masks))
            _check(
                aside,
                rows,
                split=split,
                num_classes=num_classes,
                palette=palette,
                masks_of=None if masks is None else dataset,
            )
    finally:
        for reader in readers:
            reader.close()
    filled = rows[rows["frame"] != rows["source"]]
    for row in filled.itertuples(index=False):
        log(f"submit {split}: {row.video}/{row.frame} was left out of the index; filled with frame {row.source!r}")
    log(f"submit {split}: {len(rows)} frames of {rows['video'].nunique()} videos in {out}")


def _pack(
    path: Path,
    rows: pd.DataFrame,
    reader_of: Mapping[tuple[str, str], LabelsReader],
    num_classes: int,
    split: str,
    png_of: Callable[[np.ndarray], bytes],
) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for row in track(rows.itertuples(index=False), what=f"submit {split}", total=len(rows)):
            reader = reader_of[row.video, row.source]
            frame = reader.read(row.video, row.source)
            problem = _problem(frame, (row.height, row.width), num_classes)
            if problem:
                raise UserError(f"{reader.path}: frame {row.frame!r} of video {row.video!r} {problem}")
            # PNG is compressed already.
            entry = zipfile.ZipInfo(entry_name(row.video, row.frame), _NO_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, png_of(frame))


def _png_of(frame: np.ndarray, palette: np.ndarray, masks: MaskPngs | None) -> bytes:
    return png_of_labels(frame, palette) if masks is None else masks.png(frame)


def _with_filled(rows: pd.DataFrame, left_out: Sequence[LeftOut], fill: str | None) -> pd.DataFrame:
    """Returns a row per listed frame; `source` is the frame whose labels stand for it."""
    rows = rows.assign(source=rows["frame"])
    if not left_out:
        return rows
    frames_of = dict(list(rows.groupby("video")))
    lost = [item for item in left_out if fill != "previous" or not item.frame or item.video not in frames_of]
    if lost:
        named = ", ".join(
            f"{'/'.join(filter(None, (i.video, i.frame))) or i.split} ({i.reason})" for i in lost[:_NAMED]
        )
        more = "" if len(lost) <= _NAMED else ", ..."
        how = "repair them" if fill == "previous" else "repair them, or set submit.fill: previous"
        raise UserError(
            f"submission: {len(lost)} listed frames or videos were left out of the index: {named}{more}; {how}"
        )
    filled = []
    for item in left_out:
        frames = frames_of[item.video]
        before = frames[[natural_key(name) < natural_key(item.frame) for name in frames["frame"]]]
        nearest = (before.iloc[-1] if len(before) else frames.iloc[0]).to_dict()
        filled.append(nearest | {"frame": item.frame})
    every = pd.concat([rows, pd.DataFrame(filled)], ignore_index=True)
    order = sorted(range(len(every)), key=lambda at: (natural_key(every["video"][at]), natural_key(every["frame"][at])))
    return every.iloc[order]


def check_submission(
    path: str | os.PathLike, against: str | os.PathLike, *, split: str = "test", num_classes: int = 124
) -> None:
    """Checks a submission zip by reading every frame back.

    Args:
        path: of the zip.
        against: the frames that it should have: index.csv of a prepared dataset, or a folder in VSPW_480p's layout, of
            which the split's list and the images' headers are read.
        split: split of the dataset.
        num_classes: number of classes.

    Raises:
        UserError: the zip is broken; a frame of the split is missing or an entry is not one of its frames; a frame is
            not a P-mode PNG with VSPW's palette, of the image's size, with ids 0..num_classes-1.
    """
    if Path(against).is_dir():
        rows = _rows_of_folder(Path(against), split)
    else:
        rows = _rows(read_index(against), split, against)
    _check(path, rows, split=split, num_classes=num_classes, palette=submission_palette())
    log(f"{path}: {len(rows)} frames of {rows['video'].nunique()} videos, each as listed in {against}")


def _rows_of_folder(root: Path, split: str) -> pd.DataFrame:
    """Returns index rows of a split of a raw dataset in VSPW's layout."""
    rows = listed_rows(read_dataset_row(VSPW.name, {"format": VSPW.name, "root": str(root)}), root, split)
    sizes = [_size_of(root / image) for image in rows["image"]]
    return rows.assign(height=[height for height, _ in sizes], width=[width for _, width in sizes])


def _size_of(path: Path) -> tuple[int, int]:
    """Returns height and width by an image's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"{path}: not a readable image ({error.strerror or 'unknown format'})") from None


def _check(
    path: str | os.PathLike,
    rows: pd.DataFrame,
    *,
    split: str,
    num_classes: int,
    palette: np.ndarray,
    masks_of: Card | None = None,
) -> None:
    """Checks a submission zip against the rows of its frames (`check_submission`).

    Args:
        masks_of: the dataset whose masks its PNGs are like; None where they are train ids with a palette.
    """
    if masks_of is not None:
        modes = masks_of.coding.modes
    else:
        modes = ("P",) if num_classes <= _MOST_IN_A_PALETTE else ("I;16",)
    listed = {entry_name(row.video, row.frame): row for row in rows.itertuples(index=False)}
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            found = Counter(names)
            _refuse_missing(
                [(w.video, w.frame) for name, w in listed.items() if name not in found], len(listed), what=path
            )
            if extra := sorted(name for name, times in found.items() if times > 1 or name not in listed):
                raise UserError(f"{path}: entry {extra[0]!r} is not a frame of the split, or is there twice")
            for name, row in track(listed.items(), what=f"check submission of {split}", total=len(listed)):
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    if image.format != "PNG" or image.mode not in modes:
                        expected = " or ".join(modes)
                        raise UserError(
                            f"{path}: {name} is {image.format} of mode {image.mode}, expected PNG of mode {expected}"
                        )
                    if modes == ("P",) and image.getpalette() != palette.ravel().tolist():
                        raise UserError(f"{path}: {name} has another palette than the dataset's")
                    stored = (
                        np.array(image)
                        if masks_of is None
                        else train_ids(masks_of.coding.raw_ids(image), masks_of.raw_to_train)
                    )
                    problem = _problem(stored, (row.height, row.width), num_classes)
                if problem:
                    raise UserError(f"{path}: {name} {problem}")
    except BROKEN_ZIP as error:
        raise UserError(f"{path}: not a readable submission ({error})") from None


def _rows(table: pd.DataFrame, split: str, index: str | os.PathLike) -> pd.DataFrame:
    rows = table[table["split"] == split]
    if rows.empty:
        raise UserError(f"{index}: no frame of split {split!r}; splits are {sorted(table['split'].unique())}")
    return rows


def reader_of_frame(readers: Sequence[LabelsReader]) -> dict[tuple[str, str], LabelsReader]:
    """Returns the reader of each (video, frame).

    Raises:
        UserError: two files hold one frame.
    """
    reader_of: dict[tuple[str, str], LabelsReader] = {}
    for reader in readers:
        for video, frame in reader.keys():  # noqa: SIM118 (a reader is no dict)
            if (video, frame) in reader_of:
                other = reader_of[video, frame].path
                raise UserError(f"{reader.path}: frame {frame!r} of video {video!r} is also in {other}")
            reader_of[video, frame] = reader
    return reader_of


def _refuse_missing(missing: Sequence[tuple[str, str]], total: int, *, what: object) -> None:
    if missing:
        named = ", ".join(f"{video}/{frame}" for video, frame in missing[:_NAMED])
        more = "" if len(missing) <= _NAMED else ", ..."
        raise UserError(f"{what}: {len(missing)} of {total} frames are missing: {named}{more}")


def _problem(frame: np.ndarray, size: tuple[int, int], num_classes: int) -> str | None:
    if frame.shape != size:
        return f"is {frame.shape[1]}x{frame.shape[0]}, its image is {size[1]}x{size[0]}"
    if int(frame.max()) >= num_classes:
        return f"holds label {int(frame.max())}; a submission may hold 0..{num_classes - 1}"
    return None
