"""Parameters and optimizer state sharded over processes: the same training, continued by any number of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train.tiny import PER_SAMPLE, TINY, UPERNET, free_port, job_for, run_in_ranks

from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.train.checkpoint import checkpoints, discard_damaged
from vss.train.job import TrainingJob
from vss.train.worker import work


def train_and_continue(job: TrainingJob, port: int) -> None:
    """Trains to the end, and again from the newest checkpoint, whose weights become the job's."""
    work(job)
    torch.distributed.destroy_process_group()
    if os.environ["RANK"] == "0":
        weights = Path(job.folder) / "weights.safetensors"
        weights.rename(weights.with_name("first.safetensors"))
    os.environ["MASTER_PORT"] = str(port)
    work(job)


def largest_difference(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_two_processes_that_share_the_states_do_what_one_does(prepared: Callable, tmp_path: Path) -> None:
    settings = {"config": UPERNET, **TINY, "max_iters": 2, "checkpoint_interval": 1, "precision": "float32"}
    files, configs = prepared("vspw"), {}
    for fsdp in (False, True):
        configs[fsdp] = published_settings(resolve({**settings, "cfg_options": {**PER_SAMPLE, "fsdp": fsdp}}))
    alone, shared = (job_for(configs[fsdp], files, tmp_path / str(fsdp)) for fsdp in (False, True))
    work(alone)
    run_in_ranks(train_and_continue, shared, free_port())
    weights = tmp_path / "True" / "weights.safetensors"
    assert largest_difference(weights, tmp_path / "False" / "weights.safetensors") < 2e-4
    assert sha256_of_file(weights) == sha256_of_file(weights.with_name("first.safetensors"))

    # Each process has kept half: of the weights, and of both moments.
    kept = checkpoints(tmp_path / "True")[1]
    sizes = [(kept / f"rank{rank}.pth").stat().st_size for rank in range(2)]
    assert max(sizes) < 0.6 * (tmp_path / "False" / "iter_1.pth").stat().st_size
    assert len(read_json(kept / "shards.json")["sharded"]) > 100

    # One process continues from there as well.
    one = job_for(configs[True], files, tmp_path / "one")
    shutil.copytree(kept, tmp_path / "one" / kept.name)
    work(one)
    assert largest_difference(weights, tmp_path / "one" / "weights.safetensors") < 2e-4

    # A damaged part is a damaged checkpoint.
    content = bytearray((kept / "rank1.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (kept / "rank1.pth").write_bytes(content)
    discard_damaged(tmp_path / "True")
    assert not kept.exists()


@pytest.mark.parametrize("option", [{"ema": 0.1}, {"val_interval": 2}])
def test_what_needs_whole_parameters_is_refused(run_train: Callable, option: dict) -> None:
    with pytest.raises(UserError, match=r"^fsdp shards what ema, validation .*; set ema: null, val_interval: 0"):
        run_train(cfg_options={"fsdp": True, **option})
