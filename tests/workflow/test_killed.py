"""A killed run followed by `snakemake` again ends complete, stage by stage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow

# One job of each stage: its output and its log.
JOBS = {
    "prepare": ("prepare/vspw/index.csv", "prepare/vspw.log"),
    "pretrain": ("pretrain/m2f/fingerprint.json", "pretrain/m2f.log"),
    "finetune": ("finetune/convnext/fingerprint.json", "finetune/convnext.log"),
    "infer": ("predictions/convnext.flip/val/00.labels.h5", "infer/convnext.flip.val.00.log"),
    "ensemble": ("predictions/both/val/00.labels.h5", "ensemble/both.val.00.log"),
    "refine": ("predictions/both.ssa/val/00.labels.h5", "refine/both.ssa.val.00.log"),
    "score": ("score/both/val/00.npz", "score/both.val.00.log"),
    "submit": ("submit/both.zip", "submit/both.log"),
    "report": ("report/report.html", "report.log"),
}


@pytest.fixture(scope="module")
def killed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project that these tests may break."""
    folder = tmp_path_factory.mktemp("killed")
    copy = Project(folder)
    for kept in ("results", "work", ".snakemake"):
        shutil.copytree(finished.folder / kept, folder / kept, symlinks=True)
    return copy


@pytest.mark.parametrize("stage", JOBS)
def test_a_killed_job_is_finished_by_the_next_run(killed: Project, stage: str) -> None:
    output, log = (killed.folder / "results" / JOBS[stage][0], killed.folder / "results" / "logs" / JOBS[stage][1])
    output.unlink()
    if stage in ("pretrain", "finetune"):
        shutil.rmtree(killed.folder / "work" / stage)  # so that there is something left to train
    log.unlink(missing_ok=True)
    run = subprocess.Popen(
        killed.command("--force", str(output.relative_to(killed.folder))),
        cwd=killed.folder,
        env=killed.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _wait_for(log)
    time.sleep(0.3)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not output.exists()
    killed.snakemake("--unlock")
    killed.snakemake()
    assert output.is_file()
    assert killed.planned() == {}
    assert not list(killed.folder.glob("results/**/.writing-*")), "what a killed job left must not stay for ever"


def _wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)
