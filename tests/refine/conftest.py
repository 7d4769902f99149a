"""A tiny dataset of coloured discs on grounds, with a coarse prediction of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

from vss import formats
from vss.labels import VSPW

GROUND, DISC, BAR = 18, 48, 60  # road, car, person
COLOURS = {GROUND: (90, 90, 95), DISC: (200, 40, 40), BAR: (40, 60, 210)}


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one disc and one bar on a ground: RGB [H, W, 3] uint8 and train ids [H, W] uint8."""
    truth = np.full((height, width), GROUND, np.uint8)
    radius = int(min(height, width) * rng.uniform(0.18, 0.28))
    centre = int(width * rng.uniform(0.25, 0.4)), int(height * rng.uniform(0.35, 0.65))
    cv2.circle(truth, centre, radius, DISC, -1)
    left = int(width * rng.uniform(0.6, 0.75))
    cv2.rectangle(truth, (left, height // 5), (left + width // 7, height - height // 6), BAR, -1)
    image = np.zeros((height, width, 3), np.float32)
    for label, colour in COLOURS.items():
        image[truth == label] = colour
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return image, truth


def coarse(truth: np.ndarray, factor: int = 8) -> np.ndarray:
    """Returns a label map as a network of low resolution would give it: blocks of `factor` pixels."""
    small = truth[factor // 2 :: factor, factor // 2 :: factor]
    return cv2.resize(small, truth.shape[::-1], interpolation=cv2.INTER_NEAREST)


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
            cv2.imwrite(str(root / "mask" / f"{name}.png"), VSPW.train_to_raw()[truth])
            rows.append((video, frame, split, f"image/{name}.png", f"mask/{name}.png", height, width))
            truths[video, frame], predictions[video, frame] = truth, coarse(truth)
    index, card, labels = tmp_path / "index.csv", tmp_path / "dataset.json", tmp_path / "val.labels.h5"
    formats.write_index(index, pd.DataFrame(rows, columns=formats.INDEX_COLUMNS))
    formats.write_card(
        card,
        formats.Card(
            name="vspw",
            root=str(root),
            classes=list(VSPW.classes),
            label_map=VSPW.raw_to_train().tolist(),
            drawn=True,
            frames={"train": 2, "val": 4},
            sha256=formats.sha256_of_file(index),
        ),
    )
    with formats.LabelsWriter(labels, classes=VSPW.classes, provenance={"model": "coarse"}) as writer:
        # Reversed: pairing must not rest on the order.
        for (video, frame), prediction in reversed(predictions.items()):
            if video != videos[0][1]:
                writer.write(video, frame, prediction)
    return SimpleNamespace(
        folder=tmp_path, index=index, card=card, labels=labels, truths=truths, predictions=predictions
    )
