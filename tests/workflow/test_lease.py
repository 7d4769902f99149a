"""GPU leases: never two holders of one card, freed by the kernel however the holder ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vss.core.errors import UserError
from vss.workflow import lease

HOLDER = """
import sys, time
from pathlib import Path
from vss.workflow.lease import acquire
cards = acquire(int(sys.argv[2]), folder=Path(sys.argv[1]))
print(",".join(cards), flush=True)
time.sleep(float(sys.argv[3]))
"""


def hold(folder: Path, gpus: int, seconds: float, cards: str = "0,1") -> subprocess.Popen:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": cards}
    command = [sys.executable, "-c", HOLDER, str(folder), str(gpus), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def vss_lease(*words: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {key: value for key, value in os.environ.items() if key not in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")}
    command = [sys.executable, "-m", "vss", "lease", *words]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


def test_two_holders_get_different_cards(tmp_path: Path) -> None:
    first, second = hold(tmp_path, 1, 30), hold(tmp_path, 1, 30)
    cards = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    first.kill()
    second.kill()
    assert cards == {"0", "1"}


def test_a_killed_holder_frees_its_cards(tmp_path: Path) -> None:
    first = hold(tmp_path, 2, 60)
    assert first.stdout.readline().strip() == "0,1"
    second = hold(tmp_path, 1, 0)
    time.sleep(1)
    assert second.poll() is None, "the second holder must wait"
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline().strip() == "0"


def test_a_job_for_two_cards_is_not_passed_for_ever_by_jobs_for_one(tmp_path: Path) -> None:
    held = [hold(tmp_path, 1, 60), hold(tmp_path, 1, 60)]
    taken = [process.stdout.readline().strip() for process in held]
    both = hold(tmp_path, 2, 0)
    until(lambda: len(list(tmp_path.glob("ticket-*"))) == 1)
    later = hold(tmp_path, 1, 0)
    until(lambda: len(list(tmp_path.glob("ticket-*"))) == 2)
    held[0].kill()
    time.sleep(1.2)
    assert later.poll() is None, "the free card belongs to the job that came first"
    held[1].kill()
    assert both.stdout.readline().strip() == "0,1"
    assert later.stdout.readline().strip() in taken


def test_a_card_that_nobody_before_can_use_is_not_left_idle(tmp_path: Path) -> None:
    held = hold(tmp_path, 1, 60, cards="0")
    held.stdout.readline()
    both = hold(tmp_path, 2, 60, cards="0,1")
    until(lambda: len(list(tmp_path.glob("ticket-*"))) == 1)
    assert hold(tmp_path, 1, 0, cards="2,1").stdout.readline().strip() == "2"
    for process in (held, both):
        process.kill()


def test_the_ticket_of_a_killed_waiter_counts_no_more(tmp_path: Path) -> None:
    held = hold(tmp_path, 1, 60)
    held.stdout.readline()
    both = hold(tmp_path, 2, 0)
    until(lambda: len(list(tmp_path.glob("ticket-*"))) == 1)
    both.kill()
    both.wait()
    assert hold(tmp_path, 1, 0).stdout.readline().strip() == "1"
    held.kill()


@pytest.mark.parametrize("name", ["gpu-0.lock", "queue.lock", "ticket-000000000001"])
@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_lock_file_is_neither_followed_nor_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    folder, victim = tmp_path / "vss-gpu-leases", tmp_path / "victim"
    folder.mkdir()
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "link":
        (folder / name).symlink_to(victim)
    else:
        (folder / name).mkdir()
    done = vss_lease("1", "--", "echo", "ran", CUDA_VISIBLE_DEVICES="0", TMPDIR=str(tmp_path))
    assert not victim.exists()
    if name.startswith("ticket"):  # not a live ticket: passed over
        assert done.stdout.strip() == "ran"
    else:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"{folder / name}: not a plain file" in done.stderr


def test_the_lock_survives_exec_and_the_command_sees_its_card(tmp_path: Path) -> None:
    done = vss_lease(
        "1", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", CUDA_VISIBLE_DEVICES="3,5", TMPDIR=str(tmp_path)
    )
    assert done.stdout.strip() in {"3", "5"}
    assert (tmp_path / "vss-gpu-leases").is_dir()


def test_without_gpus_the_command_simply_runs() -> None:
    assert vss_lease("0", "--", "echo", "ran").stdout.strip() == "ran"


def test_inside_slurm_the_scheduler_has_chosen() -> None:
    done = vss_lease("1", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", CUDA_VISIBLE_DEVICES="7", SLURM_JOB_ID="1")
    assert done.stdout.strip() == "7"


def test_a_larger_slurm_allocation_is_leased_card_by_card(tmp_path: Path) -> None:
    slurm = {"CUDA_VISIBLE_DEVICES": "0,1,2", "SLURM_JOB_ID": "8", "TMPDIR": str(tmp_path)}
    done = vss_lease("2", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", **slurm)
    assert done.stdout.strip() == "0,1"
    assert (tmp_path / "vss-gpu-leases-8").is_dir()


def test_other_users_can_take_the_locks(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        vss_lease("1", "--", "true", CUDA_VISIBLE_DEVICES="0", TMPDIR=str(tmp_path))
    finally:
        os.umask(old)
    folder = tmp_path / "vss-gpu-leases"
    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert (folder / "gpu-0.lock").stat().st_mode & 0o444 == 0o444


def test_fewer_than_no_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="lease: -1 GPUs requested; 0 or more can be leased"):
        lease.lease(-1, ["--", "true"])


def test_more_gpus_than_the_machine_has_is_one_line() -> None:
    done = vss_lease("3", "--", "true", CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "3 GPUs requested, 1 visible" in done.stderr


def test_a_card_that_is_named_twice_is_not_waited_for() -> None:
    done = vss_lease("2", "--", "true", CUDA_VISIBLE_DEVICES="0,0")
    assert done.returncode == 2
    assert "2 GPUs requested, 1 visible" in done.stderr


def test_a_driver_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexec sleep 30\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(lease, "_SMI_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"nvidia-smi has not answered for 0\.2 s"):
        lease.visible_cards()


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_status_is_the_commands(code: int) -> None:
    assert vss_lease("0", "--", "sh", "-c", f"exit {code}").returncode == code
