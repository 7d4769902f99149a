"""A small dataset and a prediction of it, for tests of importing and exporting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_dataset import TinyDataset, write_dataset

from vss.core.labels_file import LabelsReader
from vss.exchange.run import import_prediction

SHAPE = (6, 9)
Labels = dict[str, list[np.ndarray]]


@pytest.fixture
def labels() -> Labels:
    """Predicted train ids of three videos of two frames, the last class and the first among them."""
    rng = np.random.default_rng(3)
    ids = np.array([0, 4, 60, 123], np.uint8)
    return {f"v_{n}-x": [ids[rng.integers(0, 4, SHAPE)] for _ in range(2)] for n in range(3)}


@pytest.fixture
def dataset(tmp_path: Path, labels: Labels) -> TinyDataset:
    """Masks that agree with the prediction at most pixels; frames are 00000000 and 00000001."""
    rng = np.random.default_rng(4)
    masks = {
        video: [np.where(rng.random(SHAPE) < 0.3, 5, frame + 1).astype(np.uint8) for frame in frames]
        for video, frames in labels.items()
    }
    return write_dataset(tmp_path / "dataset", masks)


@pytest.fixture
def imported(tmp_path: Path, dataset: TinyDataset) -> Callable[..., Path]:
    """Imports with the given row of `predictions` and returns the folder of the files; `kinds` are what is written."""

    def call(*kinds: str, shard: int = 0, shards: int = 1, **row: Any) -> Path:
        folder = tmp_path / "imported" / "val"
        import_prediction(
            settings={"prediction": "peer", **row},
            index=dataset.index,
            card=dataset.card,
            split="val",
            shard=shard,
            shards=shards,
            out=[folder / f"{shard:02d}.{kind}" for kind in ("labels.h5", *kinds)],
        )
        return folder

    return call


def labels_of(*files: Path) -> Labels:
    """Label maps by video, frames in order."""
    found: Labels = {}
    for path in files:
        with LabelsReader(path) as reader:
            for video, frame in sorted(reader.keys()):
                found.setdefault(video, []).append(reader.read(video, frame))
    return found


def assert_same(one: Labels, other: Labels) -> None:
    assert one.keys() == other.keys()
    for video, frames in one.items():
        np.testing.assert_array_equal(np.stack(frames), np.stack(other[video]))
