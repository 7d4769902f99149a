"""Signals that reach the Snakemake of a batch job alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Like Snakemake in a job: its own SIGTERM handler, set later, lets what runs go on; it waits for a shell.
PARENT = """
import signal, subprocess, sys
from vss.workflow.signals import pass_on_to_jobs
pass_on_to_jobs()
signal.signal(signal.SIGTERM, lambda number, frame: None)
sys.exit(subprocess.run(["bash", "-c", "set -euo pipefail; trap '' USR1; trap : TERM; " + sys.argv[1]]).returncode)
"""
CHILD = """
import signal, sys, time
def stop(number, frame):
    print("received", number, flush=True)
    sys.exit(143)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""


def parent_of(command: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, command], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_training_below_hears_it_and_its_status_comes_back(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    process = parent_of(f"{sys.executable} {tmp_path}/child.py || exit $?")
    process.send_signal(number)
    assert process.wait(30) == 143
    assert process.stdout.read() == f"received {int(number)}\n"


def test_what_does_not_listen_goes_on_after_usr1() -> None:
    process = parent_of("echo ready; sleep 1.5; echo done")
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 0
    assert process.stdout.read() == "done\n"


def test_a_shell_that_is_signalled_too_waits_for_its_training_and_keeps_the_log(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    process = parent_of(f"{sys.executable} {tmp_path}/child.py || {{ status=$?; echo kept; exit $status; }}")
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == 143
    assert process.stdout.read().endswith("kept\n")
