"""Tiny trainings: what the fixtures and their child processes share."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
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


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_on_two_nodes(
    dataset: Mapping[str, Path], folder: Path, *, published: bool = True, **settings: Any
) -> list[int | None]:
    """Runs `train_tiny` as the processes of two nodes, of one rank each; returns their exit statuses.

    Where nothing is to be published, the first one ends with status 7 when the ranks have come to their end.
    """
    address = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [
        start(_train_on_a_node, dataset, folder, published, environment={**address, "NODE_RANK": rank}, **settings)
        for rank in ("0", "1")
    ]
    for node in nodes:
        node.join()
    return [node.exitcode for node in nodes]


def _train_on_a_node(dataset: Mapping[str, Path], folder: Path, published: bool, **settings: Any) -> None:
    from vss.train import launch, run

    launch.subprocess = SimpleNamespace(Popen=ForkedRank, TimeoutExpired=subprocess.TimeoutExpired)
    if not published:
        run._keep_weights = lambda *_: sys.exit(7)
    train_tiny(dataset, folder, **settings)


class ForkedRank:
    """A rank forked from its node's process, which has imported torch, where `run_processes` starts an interpreter."""

    def __init__(self, command: list[str], *, env: Mapping[str, str], close_fds: bool) -> None:
        from vss.train.worker import main

        self._status: int | None = None
        self._process = os.fork()
        if not self._process:
            os.environ.update(env)
            os._exit(main(command[-1]))

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._process, signal.SIGKILL)

    def poll(self) -> int | None:
        if self._status is None:
            ended, status = os.waitpid(self._process, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("rank", timeout)
            time.sleep(0.01)
        assert self._status is not None
        return self._status
