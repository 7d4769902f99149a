"""A dataset of a few small frames on disk, and trainings on it, here or in a child process."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from train.tiny import UPERNET, start, train_tiny

from tests.raw_dataset import outputs, run_prepare, vspw  # noqa: F401  fixtures
from vss.core.files import sha256_of_file
from vss.core.index import INDEX_COLUMNS, Card, write_card, write_index
from vss.core.labels import LABEL_SPACES

SIZE = (48, 64)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """Returns {index, card} of a dataset with 6 train and 2 val frames: a rectangle of one class on another."""

    def prepare(name: str) -> dict[str, Path]:
        folder = tmp_path_factory.getbasetemp() / f"prepared-{name}"
        files = {"index": folder / "index.csv", "card": folder / "dataset.json"}
        if folder.exists():
            return files
        (folder / "data").mkdir(parents=True)
        space, rng = LABEL_SPACES[name], np.random.default_rng(0)
        rows = []
        for i in range(8):
            first, second = 3, 10 + i % 3
            labels = np.full(SIZE, first, np.uint8)
            top, left = rng.integers(0, 20, 2)
            labels[top : top + 24, left : left + 32] = second
            image = np.stack([labels * 9, labels * 5, 255 - labels * 11], -1) + rng.integers(0, 4, (*SIZE, 3))
            raw = np.asarray(space.raw_ids, np.uint8)[labels]
            cv2.imwrite(str(folder / "data" / f"{i}.jpg"), image.clip(0, 255).astype(np.uint8))
            cv2.imwrite(str(folder / "data" / f"{i}.png"), raw)
            split = "train" if i < 6 else "val"
            rows.append((f"video{i % 2}", f"{i:08d}", split, f"data/{i}.jpg", f"data/{i}.png", *SIZE))
        write_index(files["index"], pd.DataFrame(rows, columns=list(INDEX_COLUMNS)))
        write_card(
            files["card"],
            Card(
                name=name,
                root=str(folder),
                classes=list(space.classes),
                label_map=space.raw_to_train().tolist(),
                drawn=True,
                frames={"train": 6, "val": 2, "test": 0},
                sha256=sha256_of_file(files["index"]),
            ),
        )
        return files

    return prepare


@pytest.fixture
def run_train(tmp_path: Path, prepared: Callable[[str], dict[str, Path]]) -> Callable[..., dict[str, Path]]:
    """Returns `train_tiny` on the dataset that the row is for, in the test's own folder."""

    def run(row: str = UPERNET, **settings: Any) -> dict[str, Path]:
        return train_tiny(prepared("coco_stuff" if row.endswith("coco_stuff") else "vspw"), tmp_path, row, **settings)

    return run


@pytest.fixture
def start_train(tmp_path: Path, prepared: Callable[[str], dict[str, Path]]) -> Callable[..., BaseProcess]:
    """Returns `run_train` in a child process, which is returned."""

    def run(row: str = UPERNET, **settings: Any) -> BaseProcess:
        return start(train_tiny, prepared("vspw"), tmp_path, row, **settings)

    return run
