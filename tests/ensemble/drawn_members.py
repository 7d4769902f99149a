"""Drawn class probabilities as scores files, and an index of their frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from vss.core.index import INDEX_COLUMNS, write_index
from vss.core.scores_file import ScoresWriter

CLASSES = [f"class {c}" for c in range(9)]
Key = tuple[str, str]


def smooth_probabilities(seed: int, size: tuple[int, int], num_classes: int = len(CLASSES)) -> np.ndarray:
    """Class probabilities [C, H, W] float32 as a network makes them: coarse logits, resized, softmax."""
    rng = np.random.default_rng(seed)
    H, W = size
    coarse = rng.normal(0, 3, (num_classes, max(H // 6, 2), max(W // 6, 2))).astype(np.float32)
    logits = np.stack([cv2.resize(plane, (W, H), interpolation=cv2.INTER_LINEAR) for plane in coarse])
    logits = np.exp(logits - logits.max(axis=0))
    return logits / logits.sum(axis=0)


def write_scores(
    path: Path, frames: Mapping[Key, np.ndarray], classes: list[str] = CLASSES, prediction: str | None = None
) -> Path:
    """Writes a scores file with the given frames, which says whose they are where `prediction` is given."""
    provenance = {"settings": {"prediction": prediction}} if prediction else {"made": "by a test"}
    with ScoresWriter(path, classes=classes, provenance=provenance) as writer:
        for (video, frame), probabilities in frames.items():
            writer.write(video, frame, probabilities)
    return path


def write_index_of(path: Path, sizes: Mapping[Key, tuple[int, int]], split: str = "val") -> Path:
    """Writes an index of frames with the given sizes."""
    rows = [(v, f, split, f"{v}/{f}.jpg", f"{v}-{f}.png", h, w) for (v, f), (h, w) in sizes.items()]
    write_index(path, pd.DataFrame(rows, columns=list(INDEX_COLUMNS)))
    return path
