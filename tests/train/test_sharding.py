"""Parameters and optimizer state sharded over processes: the same training, continued by any number of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from train.tiny import PER_SAMPLE, TINY, UPERNET, job_for, train_on_two_nodes

from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.train.checkpoint import checkpoints, discard_damaged
from vss.train.worker import work


def largest_difference(one: Path, other: Path) -> float:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_two_nodes_that_share_the_states_do_what_one_process_does(prepared: Callable, tmp_path: Path) -> None:
    settings = {"max_iters": 2, "checkpoint_interval": 1, "precision": "float32"}
    options, files, configs = {**settings, "cfg_options": {**PER_SAMPLE, "fsdp": True}}, prepared("vspw"), {}
    for fsdp in (False, True):
        row = {"config": UPERNET, **TINY, **settings, "cfg_options": {**PER_SAMPLE, "fsdp": fsdp}}
        configs[fsdp] = published_settings(resolve(row))
    work(job_for(configs[False], files, tmp_path / "alone"))
    alone = tmp_path / "alone" / "weights.safetensors"

    # The first node fails when the ranks are done, which the other one notices; then both continue from iteration 1.
    assert train_on_two_nodes(files, tmp_path, published=False, **options) == [7, 1]
    (folder,) = (tmp_path / "work").iterdir()
    kept, first = checkpoints(folder)[1], sha256_of_file(folder / "weights.safetensors")
    shutil.copytree(kept, tmp_path / kept.name)
    assert train_on_two_nodes(files, tmp_path, **options) == [0, 0]
    weights, kept = tmp_path / "out" / "weights.safetensors", tmp_path / kept.name
    assert largest_difference(weights, alone) < 2e-4
    assert sha256_of_file(weights) == first

    # Each process has kept half: of the weights, and of both moments.
    sizes = [(kept / f"rank{rank}.pth").stat().st_size for rank in range(2)]
    assert max(sizes) < 0.6 * (tmp_path / "alone" / "iter_1.pth").stat().st_size
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
    discard_damaged(tmp_path)
    assert not kept.exists()


@pytest.mark.parametrize("option", [{"ema": 0.1}, {"val_interval": 2}])
def test_what_needs_whole_parameters_is_refused(run_train: Callable, option: dict) -> None:
    with pytest.raises(UserError, match=r"^fsdp shards what ema, validation .*; set ema: null, val_interval: 0"):
        run_train(cfg_options={"fsdp": True, **option})
