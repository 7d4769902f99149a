"""A GPU whose memory is full: the training goes on with fewer images at once, or says what to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from safetensors.torch import load_file
from train.tiny import PER_SAMPLE, UPERNET

from vss.core.errors import UserError
from vss.train import run
from vss.train.worker import MEMORY_FULL

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


def test_a_full_memory_continues_from_the_checkpoint_with_smaller_parts_of_the_same_batch(
    run_train: Train, full_at: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"max_iters": 4, "checkpoint_interval": 2, "cfg_options": PER_SAMPLE}
    undisturbed = run_train(**settings, to="other", work="other")
    full_at(3)
    files = run_train(**settings)
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


def test_ranks_end_with_the_status_of_the_one_whose_memory_is_full() -> None:
    # Rank 0 ends because of rank 1, and is looked at first.
    rank = "import os, sys, time; rank = int(os.environ['RANK']); time.sleep(0.2 * (1 - rank));"
    command = [sys.executable, "-c", f"{rank} sys.exit({MEMORY_FULL} if rank else 1)"]
    with pytest.raises(SystemExit) as ended:
        run.run_processes(command, count=2)
    assert ended.value.code == MEMORY_FULL
