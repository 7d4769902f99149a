"""Log lines on resume, checkpoints kept, several processes, and the quick validation."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train.tiny import MASK2FORMER, TINY, job_for, start

from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.train import workdir
from vss.train.checkpoint import ResumableCheckpointHook, check_best, checkpoints, discard_damaged
from vss.train.hooks import LogHook
from vss.train.job import write_job
from vss.train.launch import run_processes
from vss.train.run import _even_share
from vss.train.whole import is_whole, save_whole


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"iter": i}) + "\n" for i in (10, 20, 30)) + '{"iter": 4')
    hook = LogHook(path=str(path), tensorboard=str(tmp_path / "tb"), interval=1, what="toy")
    hook.before_train_epoch(SimpleNamespace(iter=20))
    hook.write({"iter": 25, "loss": 1.0})
    hook.after_run(None)
    assert [json.loads(line)["iter"] for line in path.read_text().splitlines()] == [10, 20, 25]
    assert list((tmp_path / "tb").glob("events*"))


def test_newest_checkpoints_are_kept_and_strangers_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = ResumableCheckpointHook(folder=str(tmp_path), interval=1, keep=2)
    monkeypatch.setattr(ResumableCheckpointHook, "collect", staticmethod(lambda runner: {"state_dict": {}}))
    (tmp_path / ".writing-iter_99.pth").write_bytes(b"half")
    for i in (9, 10, 11):
        hook.save(SimpleNamespace(model=None), i)
    assert list(checkpoints(tmp_path)) == [10, 11]


def saved_checkpoints(folder: Path, monkeypatch: pytest.MonkeyPatch, iterations: tuple[int, ...]) -> list[Path]:
    hook = ResumableCheckpointHook(folder=str(folder), interval=1, keep=len(iterations))
    weights = {"weight": torch.arange(999, dtype=torch.float32)}
    monkeypatch.setattr(ResumableCheckpointHook, "collect", staticmethod(lambda runner: {"state_dict": weights}))
    for iteration in iterations:
        hook.save(SimpleNamespace(model=None), iteration)
    return list(checkpoints(folder).values())


@pytest.mark.parametrize("flip", range(30))
def test_a_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: int) -> None:
    _, newest = saved_checkpoints(tmp_path, monkeypatch, (1, 2))
    content = bytearray(newest.read_bytes())
    position, bit = np.random.default_rng(flip).integers((len(content), 8))
    content[position] ^= 1 << int(bit)
    newest.write_bytes(content)
    discard_damaged(tmp_path)
    assert list(checkpoints(tmp_path)) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_1.pth", "iter_1.pth.sha256"]


@pytest.mark.parametrize("flip", range(8))
def test_a_flipped_bit_of_the_best_weights_is_found(tmp_path: Path, flip: int) -> None:
    best = tmp_path / "best.safetensors"
    for content in (b"of the first validation", b"of a better one"):
        save_whole(best, lambda aside, content=content: aside.write_bytes(content))
        check_best(tmp_path)
    damaged = bytearray(best.read_bytes())
    damaged[flip] ^= 1 << flip
    best.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"best\.safetensors: damaged: .* delete {tmp_path} to train again"):
        check_best(tmp_path)


def test_a_kill_between_a_file_and_its_digest_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.safetensors"
    save_whole(path, lambda aside: aside.write_bytes(b"old"))

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill_at_the_second_call(os.replace, kill))
    with pytest.raises(KeyboardInterrupt):
        save_whole(path, lambda aside: aside.write_bytes(b"new"))
    assert path.read_bytes() == b"old" and is_whole(path)


def kill_at_the_second_call(real: Callable, kill: Callable) -> Callable:
    calls = []

    def replace(*paths: object) -> None:
        calls.append(paths)
        (real if len(calls) == 1 else kill)(*paths)

    return replace


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", None])
def test_checkpoints_of_earlier_versions_are_checked_by_their_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    for path in saved_checkpoints(tmp_path, monkeypatch, (1, 2)):
        path.with_name(f"{path.name}.sha256").unlink()
    newest = tmp_path / "iter_2.pth"
    flipped = newest.read_bytes().replace(np.float32(500).tobytes(), np.float32(501).tobytes())
    newest.write_bytes(flipped if content is None else content)
    discard_damaged(tmp_path)
    assert list(checkpoints(tmp_path)) == [1]


def test_a_full_disk_is_one_line_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_on_a_full_disk(checkpoint: object, path: Path) -> None:
        with open("/dev/full", "wb") as full:
            save(checkpoint, full)

    save = torch.save
    monkeypatch.setattr(torch, "save", write_on_a_full_disk)
    with pytest.raises(UserError, match=r"iter_1\.pth: cannot be written, .* full, \d+ MiB are free; make space"):
        saved_checkpoints(tmp_path, monkeypatch, (1,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoiled", ["weights", "optimizer"])
def test_a_state_that_is_not_finite_is_refused_and_the_one_before_kept(tmp_path: Path, spoiled: str) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    runner = SimpleNamespace(
        model=model, optim_wrapper=optimizer, param_schedulers=[], iter=0, max_iters=9, call_hook=lambda *_, **__: None
    )
    hook = ResumableCheckpointHook(folder=str(tmp_path), interval=1, keep=1)

    def step(gradient: float) -> None:
        model.weight.grad = torch.full((1, 2), gradient)
        optimizer.step()

    step(1.0)
    hook.after_train_iter(runner, 0)
    kept = (tmp_path / "iter_1.pth").read_bytes()
    # The square of a finite gradient may overflow in the second moment; the weights stand still from then on.
    step(torch.inf if spoiled == "weights" else 1e30)
    assert model.weight.isfinite().all() == (spoiled == "optimizer")
    runner.iter = 1
    named = "state_dict weight" if spoiled == "weights" else "optimizer state 0 exp_avg_sq"
    with pytest.raises(UserError, match=f"stopped at iteration 2: {named} is not finite"):
        hook.after_train_iter(runner, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_1.pth", "iter_1.pth.sha256"]
    assert (tmp_path / "iter_1.pth").read_bytes() == kept


def test_two_processes_train_mask2former_in_micro_batches(
    prepared: Callable[[str], dict[str, Path]], tmp_path: Path
) -> None:
    """The processes count each other's masks once per step, in step."""
    settings = {"config": MASK2FORMER, **TINY, "max_iters": 2, "cfg_options": {"micro_batch": 1}}
    write_job(job_for(published_settings(resolve(settings)), prepared("vspw"), tmp_path / "two"), tmp_path / "job.json")
    run_processes([sys.executable, "-m", "vss.train.worker", str(tmp_path / "job.json")], count=2)
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines] == [1, 2]
    assert all(0 < line["decode.loss_dice"] <= 5 and line["decode.loss_cls"] > 0 for line in lines)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "two" / "weights.safetensors").values())


def run_in(folder: Path) -> None:
    with workdir.locked(folder):
        run_processes(["sh", "-c", f"echo $$ > '{folder}/pid'; exec sleep 600"], count=1)


def test_processes_left_by_a_killed_parent_keep_the_work_folder(tmp_path: Path) -> None:
    parent = start(run_in, tmp_path)
    pid = wait_for_text(tmp_path / "pid")
    parent.kill()
    parent.join()
    with open(tmp_path / "lock") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(int(pid), signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_EX)


ORPHAN = """
import time
from vss.train.worker import _stop_with_the_parent
_stop_with_the_parent()
print('rank', flush=True)
time.sleep(60)
print('outlived its parent')
"""


def test_a_rank_stops_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ORPHAN!r}])"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert any(line == "rank\n" for line in parent.stdout)
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == ""  # ends when the rank, which holds the pipe, is gone


def wait_for_text(path: Path) -> str:
    while not (path.exists() and path.read_text().strip()):
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize(
    ("gpus", "batch_size", "nodes", "used"),
    [(0, 3, 1, 0), (1, 3, 1, 1), (2, 3, 1, 1), (3, 3, 1, 3), (4, 6, 1, 3), (8, 16, 2, 8), (6, 16, 2, 4), (0, 4, 2, 0)],
)
def test_as_many_gpus_as_share_the_batch_evenly(gpus: int, batch_size: int, nodes: int, used: int) -> None:
    assert _even_share(gpus, batch_size, nodes=nodes) == used
