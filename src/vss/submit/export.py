"""A prediction's label maps in the formats that other viewers and evaluators read."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vss.core.errors import UserError
from vss.core.files import atomic_path
from vss.core.index import Card, prepared_folder, read_card
from vss.core.labels import VSPW, overlay_palette, submission_palette
from vss.core.labels_file import LabelsReader
from vss.core.log import log, track
from vss.core.order import natural_key
from vss.exchange.panoptic import PanopticWriter
from vss.submit.png import MaskPngs, entry_name, palette_of, png_of_labels
from vss.submit.run import reader_of_frame, submit

_LABELS = "*.labels.h5"


def export_prediction(*, prediction: str | os.PathLike, form: str, out: str | os.PathLike) -> None:
    """Writes the label maps of a prediction in another format; the files of the prediction stay as they are.

    Args:
        prediction: folder of a split, `results/predictions/<name>/<split>`.
        form: "png" writes `<video>/<frame>.png` of train ids with the dataset's palette (VSPW's official one), and
            `classes.csv`; "masks" the same files as the dataset's own masks hold them (`MaskPngs`);
            "coco-panoptic" `panoptic.json` and `panoptic/<video>/<frame>.png`, one segment per class;
            "submission" the zip of `vss.submit.run.submit`.
        out: folder to make; for a submission the zip.

    The dataset is the one prepared in the same results folder whose index the prediction was made with, or that has
    its classes; only a submission and masks cannot do without.

    Raises:
        UserError: there is no prediction, two of its files hold one frame or have other classes, the folder exists and
            is not empty, an id cannot be a file name; for a submission, what `submit` refuses, or there is no dataset.
    """
    # Which files the prediction has.
    folder, target = Path(prediction), Path(out)
    files = sorted(folder.glob(_LABELS))
    if not files:
        found = sorted(path.parent.name for path in folder.glob(f"*/{_LABELS}"))
        inside = f"; name one of the splits in it: {', '.join(dict.fromkeys(found))}" if found else ""
        raise UserError(f"{folder}: no {_LABELS} files there{inside}")

    # The challenge's zip has a writer of its own, which needs the dataset.
    if form == "submission":
        with LabelsReader(files[0]) as first:
            prepared = _prepared_for(folder, first)
        if prepared is None:
            where = folder.resolve().parents[2] / "prepare"
            raise UserError(f"{folder}: no dataset in {where} has its classes; a submission needs its index")
        split = folder.resolve().name
        submit(labels=files, index=prepared / "index.csv", card=prepared / "dataset.json", out=target, split=split)
        return

    # The others are written frame by frame into a folder that holds nothing else.
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already, and not an empty folder; choose another")
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(LabelsReader(path)) for path in files]
        classes = _classes(readers)
        reader_of = reader_of_frame(readers)
        keys = sorted(reader_of, key=lambda key: (natural_key(key[0]), natural_key(key[1])))
        prepared = _prepared_for(folder, readers[0])
        card = None if prepared is None else read_card(prepared / "dataset.json")
        palette = _palette(classes, card)
        masks = None
        if form == "masks":
            if card is None or card.classes != classes:
                where = folder.resolve().parents[2] / "prepare"
                raise UserError(f"{folder}: no dataset in {where} has its classes; masks need its class table")
            masks = MaskPngs(card)
        panoptic = PanopticWriter(target, classes, palette) if form == "coco-panoptic" else None
        for video, frame in track(keys, what=f"export {folder}", total=len(keys)):
            labels, name = reader_of[video, frame].read(video, frame), entry_name(video, frame)
            if panoptic:
                panoptic.write(video, frame, labels)
            else:
                with atomic_path(target / name) as aside:
                    aside.write_bytes(png_of_labels(labels, palette) if masks is None else masks.png(labels))
        if panoptic:
            panoptic.finish()
        elif masks is None:
            _write_classes(target / "classes.csv", classes)
    log(f"export {folder}: {len(keys)} frames in {target}")


def _prepared_for(folder: Path, reader: LabelsReader) -> Path | None:
    """Returns the folder of the prepared dataset that a prediction is of, None where the results folder has none."""
    above = folder.resolve().parents
    return prepared_folder(above[2], reader.classes, reader.provenance) if len(above) > 2 else None


def _palette(classes: Sequence[str], dataset: Card | None) -> np.ndarray:
    """Returns the palette [C or more, 3] uint8 of a dataset, or where none is known of these classes."""
    if dataset is not None and dataset.classes == classes:
        return palette_of(dataset)
    return submission_palette() if tuple(classes) == VSPW.classes else overlay_palette(num_classes=len(classes))


def _classes(readers: Sequence[LabelsReader]) -> list[str]:
    for reader in readers:
        if reader.classes != readers[0].classes:
            raise UserError(f"{reader.path}: predicts other classes than {readers[0].path}")
    return readers[0].classes


def _write_classes(path: Path, classes: Sequence[str]) -> None:
    """Writes what the ids mean, as a class table, which `ids` of an imported prediction takes."""
    with atomic_path(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "name"))
        writer.writerows(enumerate(classes))
