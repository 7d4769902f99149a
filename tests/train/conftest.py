"""A dataset of a few small frames on disk, and a call of `train` with the fewest words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from vss import formats
from vss.labels import LABEL_SPACES

SIZE = (48, 64)
# Small enough that an iteration takes some tens of milliseconds.
TINY = {"scale": [64, 48], "crop_size": [32, 48], "batch_size": 4, "warmup_iters": 2, "log_interval": 1}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # forked children must not inherit a thread pool


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
            image = np.stack([labels * 9, labels * 5, 255 - labels * 11], -1) + rng.integers(0, 20, (*SIZE, 3))
            raw = np.asarray(space.raw_ids, np.uint8)[labels]
            cv2.imwrite(str(folder / "data" / f"{i}.jpg"), image.clip(0, 255).astype(np.uint8))
            cv2.imwrite(str(folder / "data" / f"{i}.png"), raw)
            split = "train" if i < 6 else "val"
            rows.append((f"video{i % 2}", f"{i:08d}", split, f"data/{i}.jpg", f"data/{i}.png", *SIZE))
        formats.write_index(files["index"], pd.DataFrame(rows, columns=list(formats.INDEX_COLUMNS)))
        formats.write_card(
            files["card"],
            formats.Card(
                name=name,
                root=str(folder),
                classes=list(space.classes),
                label_map=space.raw_to_train().tolist(),
                drawn=True,
                frames={"train": 6, "val": 2, "test": 0},
                sha256=formats.sha256_of_file(files["index"]),
            ),
        )
        return files

    return prepare


@pytest.fixture
def run_train(tmp_path: Path, prepared: Callable[[str], dict[str, Path]]) -> Callable[..., dict[str, Path]]:
    """Returns a function that trains a row and returns the published files."""

    def run(
        row: str = "upernet_convnext-nano_vspw",
        *,
        to: str = "out",
        work: str = "work",
        init: Path | None = None,
        **settings: Any,
    ) -> dict[str, Path]:
        from vss.train.run import train

        suffixes = {"weights": "safetensors", "fingerprint": "json", "config": "json", "log": "jsonl", "audit": "json"}
        files = {name: tmp_path / to / f"{name}.{suffix}" for name, suffix in suffixes.items()}
        dataset = "coco_stuff" if row.endswith("coco_stuff") else "vspw"
        train(
            stage="finetune",
            model="tiny",
            settings={"config": row, **TINY, "max_iters": 4, **settings},
            **prepared(dataset),
            init=init,
            init_card=None,
            **files,
            work_dir=tmp_path / work,
            gpus=0,
        )
        return files

    return run


@pytest.fixture
def forked() -> Callable[..., Any]:
    """Returns a function that starts a call in a forked child and returns its process id; exceptions become status 1.

    Forking spares the child the seconds that importing torch and MMSegmentation takes.
    """

    def start(call: Callable[[], object], environment: Mapping[str, str] | None = None) -> int:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            os.environ.update(environment or {})
            call()
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    return start
