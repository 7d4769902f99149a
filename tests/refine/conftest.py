"""A tiny dataset of coloured discs on grounds, with a coarse prediction of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from tests.refine.scenes import coarse, scene
from vss.core.files import sha256_of_file
from vss.core.index import INDEX_COLUMNS, Card, write_card, write_index
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsWriter


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Networks this small run fastest on one thread, and do not disturb what else runs on the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def dataset(tmp_path: Path) -> SimpleNamespace:
    """Three videos (train, val, val) of two frames, with names that are hard to handle, and a prediction of val."""
    rng = np.random.default_rng(7)
    root = tmp_path / "raw"
    rows, truths, predictions = [], {}, {}
    videos = (("train", "1_a--b", (64, 96)), ("val", "2 \u00e9--\u4e2d", (64, 96)), ("val", ".3", (72, 80)))
    for split, video, (height, width) in videos:
        for frame in ("00000001", "0 2"):
            image, truth = scene(rng, height, width)
            name = f"{len(rows)}"
            for folder in ("image", "mask"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "image" / f"{name}.png"), image[:, :, ::-1])
            cv2.imwrite(str(root / "mask" / f"{name}.png"), (truth + (truth != 255)).astype(np.uint8))
            rows.append((video, frame, split, f"image/{name}.png", f"mask/{name}.png", height, width))
            truths[video, frame], predictions[video, frame] = truth, coarse(truth)
    index, card, labels = tmp_path / "index.csv", tmp_path / "dataset.json", tmp_path / "val.labels.h5"
    write_index(index, pd.DataFrame(rows, columns=INDEX_COLUMNS))
    write_card(
        card,
        Card(
            name="vspw",
            root=str(root),
            classes=list(VSPW.classes),
            label_map=VSPW.raw_to_train().tolist(),
            drawn=True,
            frames={"train": 2, "val": 4},
            sha256=sha256_of_file(index),
        ),
    )
    with LabelsWriter(labels, classes=VSPW.classes, provenance={"model": "coarse"}) as writer:
        # Reversed: pairing must not rest on the order.
        for (video, frame), prediction in reversed(predictions.items()):
            if video != videos[0][1]:
                writer.write(video, frame, prediction)
    return SimpleNamespace(
        folder=tmp_path, index=index, card=card, labels=labels, truths=truths, predictions=predictions
    )
