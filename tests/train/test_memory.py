"""A GPU whose memory is full: the training goes on with fewer images at once, or says what to change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from safetensors.torch import load_file
from train.tiny import PER_SAMPLE, TINY, UPERNET, job_for, start, train_tiny

from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.train import launch, run, worker
from vss.train.job import TrainingJob, read_job, write_job
from vss.train.launch import MEMORY_FULL
from vss.train.loop import MemoryFullError, MicroBatchLoop

Train = Callable[..., dict[str, Path]]


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that makes the n-th backward pass, and only that one, find no memory."""

    def arrange(number: int) -> None:
        backward, calls = OptimWrapper.backward, []

        def counted(self: OptimWrapper, loss: torch.Tensor, **options: Any) -> None:
            calls.append(1)
            if len(calls) == number:
                raise torch.OutOfMemoryError
            backward(self, loss, **options)

        monkeypatch.setattr(OptimWrapper, "backward", counted)

    return arrange


SETTINGS: dict[str, Any] = {"max_iters": 4, "checkpoint_interval": 2, "cfg_options": PER_SAMPLE}


@pytest.fixture(scope="module")
def undisturbed(
    prepared: Callable[[str], dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Returns the files of a training in one process whose memory is never full."""
    return train_tiny(prepared("vspw"), tmp_path_factory.mktemp("undisturbed"), **SETTINGS)


def test_a_full_memory_continues_from_the_checkpoint_with_smaller_parts_of_the_same_batch(
    undisturbed: dict[str, Path],
    run_train: Train,
    full_at: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    full_at(3)
    files = run_train(**SETTINGS)
    assert "memory is full with 4 images at once; continues from iteration 2 with 2" in capsys.readouterr().err
    lines = [json.loads(line) for line in files["log"].read_text().splitlines()]
    assert [line["iter"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [(line["iter"], line["micro_batch"]) for line in lines if "micro_batch" in line] == [(2, 2)]
    one, other = load_file(files["weights"]), load_file(undisturbed["weights"])
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 2e-4
    assert files["config"].read_bytes() == undisturbed["config"].read_bytes()


def test_a_network_that_looks_at_the_images_held_at_once_is_not_given_fewer(
    run_train: Train, full_at: Callable[[int], None]
) -> None:
    full_at(2)
    with pytest.raises(UserError, match=r"iteration 2: .* full with 4 images .* lower micro_batch .*\(batch norm"):
        run_train(UPERNET)


def test_one_image_that_does_not_fit_ends_the_training(run_train: Train, full_at: Callable[[int], None]) -> None:
    full_at(1)
    with pytest.raises(UserError, match=r"iteration 1: .* full with 1 images at once; lower micro_batch or crop_size"):
        run_train(cfg_options={**PER_SAMPLE, "micro_batch": 1})


def test_a_full_memory_of_a_hook_before_the_step_is_one_of_the_step() -> None:
    """As of a teacher, which labels the batch there."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    loop = MicroBatchLoop.__new__(MicroBatchLoop)
    loop._seed, loop._iter, loop._accumulate, loop._runner = 0, 6, 2, SimpleNamespace(call_hook=full)
    with pytest.raises(MemoryFullError, match=r"^training stopped at iteration 7: .* full with 4 images at once"):
        loop.run_iter({"inputs": [None] * 8})


class ForkedRank:
    """A rank forked from a server that has imported torch, where `run_processes` starts an interpreter."""

    def __init__(self, command: list[str], *, env: Mapping[str, str], close_fds: bool) -> None:
        place = {name: env[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
        self._process = start(rank_1_is_full_with_two_images, command[-1], environment=place)
        self.kill = self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("rank", timeout)
        return self._process.exitcode


def rank_1_is_full_with_two_images(job_file: str) -> None:
    """Does what a rank's interpreter does; the third backward pass of two images finds no memory in rank 1."""
    backward, calls = OptimWrapper.backward, []

    def counted(self: OptimWrapper, loss: torch.Tensor, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        backward(self, loss, **options)

    if os.environ["RANK"] == "1" and read_job(Path(job_file)).config.training.micro_batch == 2:
        OptimWrapper.backward = counted
    sys.exit(worker.main(job_file))


def test_a_full_memory_of_one_rank_makes_two_continue_and_do_what_one_does(
    undisturbed: dict[str, Path],
    prepared: Callable[[str], dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"config": UPERNET, **TINY, **SETTINGS, "cfg_options": {**PER_SAMPLE, "micro_batch": 2}}
    job: TrainingJob | None = job_for(published_settings(resolve(settings)), prepared("vspw"), tmp_path / "two")
    monkeypatch.setattr(
        launch, "subprocess", SimpleNamespace(Popen=ForkedRank, TimeoutExpired=subprocess.TimeoutExpired)
    )
    # Two processes, which take the CPU as no rank of a training on GPUs would.
    monkeypatch.setattr(run, "write_job", lambda job, path: write_job(replace(job, gpus=0), path))
    job = replace(job, gpus=2)
    while job is not None:
        job = run._train_or_shrink(tmp_path / "two", job)

    assert capsys.readouterr().err.count("full with 2 images at once; continues from iteration 2 with 1") == 1
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [(line["iter"], line["micro_batch"]) for line in lines if "micro_batch" in line] == [(2, 1)]
    one, two = load_file(undisturbed["weights"]), load_file(tmp_path / "two" / "weights.safetensors")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-4
    assert undisturbed["audit"].read_bytes() == (tmp_path / "two" / "audit.json").read_bytes()


def test_ranks_end_with_the_status_of_the_one_whose_memory_is_full() -> None:
    # Rank 0 ends because of rank 1, and is looked at first.
    rank = "import os, sys, time; rank = int(os.environ['RANK']); time.sleep(0.2 * (1 - rank));"
    command = [sys.executable, "-c", f"{rank} sys.exit({MEMORY_FULL} if rank else 1)"]
    with pytest.raises(SystemExit) as ended:
        launch.run_processes(command, count=2)
    assert ended.value.code == MEMORY_FULL
