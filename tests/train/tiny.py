"""Tiny trainings: what the fixtures and their child processes share."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from vss.configs.resolved import ConfigDocument, read_training_config
from vss.train.job import TrainingJob, TrainingPart

# Small enough that an iteration takes some tens of milliseconds.
TINY = {"scale": [64, 48], "crop_size": [32, 48], "batch_size": 4, "warmup_iters": 2, "log_interval": 1}
UPERNET, MASK2FORMER = "upernet_convnext-nano_vspw", "mask2former_internimage-nano-h_vspw"
# Options of UPERNET without batch norm, whose statistics are those of a process, and without dropout.
PER_SAMPLE: dict[str, Any] = {
    f"model.{head}.{key}": value
    for head in ("decode_head", "auxiliary_head")
    for key, value in (("norm_cfg", {"type": "GN", "num_groups": 4}), ("dropout_ratio", 0.0))
}


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
        weights=files["weights"],
        work_dir=folder / work,
        gpus=0,
        code=code or "today",
        retrain_on_code_change=code is not None,
    )
    return files


def job_for(document: ConfigDocument, files: Mapping[str, Path], folder: Path) -> TrainingJob:
    """Returns a job on the CPU in a new folder."""
    folder.mkdir()
    return TrainingJob(
        what="toy",
        config=read_training_config(document),
        index=str(files["index"]),
        card=str(files["card"]),
        parts=(TrainingPart(str(files["index"]), str(files["card"])),),
        init=None,
        init_classes=None,
        folder=str(folder),
        gpus=0,
    )


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


def run_in_ranks(call: Callable[..., object], *args: Any, count: int = 2) -> None:
    """Runs a call in processes that form a gloo group; fails, and ends all, where one of them does."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    ranks = [start(call, *args, environment={**address, **place}) for place in places]
    running = list(ranks)
    while running and not any(rank.exitcode for rank in ranks):
        connection.wait([rank.sentinel for rank in running])
        running = [rank for rank in running if rank.is_alive()]
    for rank in running:
        rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * count


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
