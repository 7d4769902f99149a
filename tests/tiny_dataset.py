"""A dataset of a few tiny frames on disk, from arrays: for tests of the stages that read only files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from vss.core.files import sha256_of_file
from vss.core.index import INDEX_COLUMNS, Card, write_card, write_index
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsWriter


@dataclass(frozen=True)
class TinyDataset:
    """Where the index and the card of a written dataset are."""

    index: Path
    card: Path


def write_dataset(
    folder: Path,
    masks: Mapping[str, Sequence[np.ndarray]],
    *,
    split: str = "val",
    with_masks: bool = True,
    images: Mapping[str, Sequence[np.ndarray]] | None = None,
    unlabelled: Sequence[tuple[str, int]] = (),
) -> TinyDataset:
    """Writes videos of raw VSPW masks [H, W] uint8 and grey or given RGB images; frames 00000000, 00000001, ...

    Frames (video, position) of `unlabelled` have no mask, and so have all of them without `with_masks`.
    """
    rows = []
    for number, (video, frames) in enumerate(masks.items()):
        for position, mask in enumerate(frames):
            frame = f"{position:08d}"
            image_path, mask_path = f"{number}/{frame}.jpg", f"{number}/{frame}.png"
            image = images[video][position] if images else np.full((*mask.shape, 3), 128, np.uint8)
            (folder / str(number)).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / image_path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            labelled = with_masks and (video, position) not in unlabelled
            if labelled:
                assert cv2.imwrite(str(folder / mask_path), mask)
            rows.append((video, frame, split, image_path, mask_path if labelled else "", *mask.shape))
    index, card = folder / "index.csv", folder / "dataset.json"
    write_index(index, pd.DataFrame(rows, columns=list(INDEX_COLUMNS)))
    write_card(
        card,
        Card(
            name="vspw",
            root=str(folder),
            classes=list(VSPW.classes),
            label_map=VSPW.raw_to_train().tolist(),
            drawn=True,
            frames={split: len(rows)},
            sha256=sha256_of_file(index),
        ),
    )
    return TinyDataset(index, card)


def write_labels(
    path: Path,
    labels: Mapping[str, Sequence[np.ndarray]],
    *,
    classes: Sequence[str] = VSPW.classes,
    provenance: Mapping[str, Any] | None = None,
    unrefined: str = "",
) -> Path:
    """Writes label maps [H, W] uint8 of train ids with the frame names of `write_dataset`.

    The first frame of every video is marked as `unrefined`, where that says why.
    """
    with LabelsWriter(path, classes=list(classes), provenance=dict(provenance or {})) as writer:
        for video, frames in labels.items():
            for position, frame in enumerate(frames):
                writer.write(video, f"{position:08d}", frame, unrefined="" if position else unrefined)
    return path
