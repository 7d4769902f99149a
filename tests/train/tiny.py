"""Tiny trainings: what the fixtures and their child processes share."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

# Small enough that an iteration takes some tens of milliseconds.
TINY = {"scale": [64, 48], "crop_size": [32, 48], "batch_size": 4, "warmup_iters": 2, "log_interval": 1}
UPERNET, MASK2FORMER = "upernet_convnext-nano_vspw", "mask2former_internimage-nano-h_vspw"


def train_tiny(
    dataset: Mapping[str, Path],
    folder: Path,
    row: str = UPERNET,
    *,
    to: str = "out",
    work: str = "work",
    init: Path | None = None,
    code: str | None = None,
    **settings: Any,
) -> dict[str, Path]:
    """Trains a row with the fewest iterations and returns the published files, which lie in `folder` / `to`."""
    from vss.train.run import train

    suffixes = {"weights": "safetensors", "fingerprint": "json", "config": "json", "log": "jsonl", "audit": "json"}
    files = {name: folder / to / f"{name}.{suffix}" for name, suffix in suffixes.items()}
    train(
        stage="finetune",
        model="tiny",
        settings={"config": row, **TINY, "max_iters": 4, **settings},
        **dataset,
        init=init,
        init_card=None,
        **{"log_file" if name == "log" else name: path for name, path in files.items()},
        work_dir=folder / work,
        gpus=0,
        code=code or "today",
        retrain_on_code_change=code is not None,
    )
    return files


def start(call: Callable[..., object], *args: Any, environment: Mapping[str, str] | None = None, **kwargs: Any) -> Any:
    """Starts a call in a child process, forked from a server that has imported torch but computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vss.train.worker", "vss.train.estimate", "vss.train.run", "vss.configs.resolve"])
    child: BaseProcess = context.Process(target=_child, args=(call, args, kwargs, dict(environment or {})))
    child.start()
    return child


def _child(call: Callable[..., object], args: tuple, kwargs: dict, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    call(*args, **kwargs)
