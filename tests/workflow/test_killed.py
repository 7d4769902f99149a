"""A killed run followed by `snakemake` again ends complete, whatever stage it was killed in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow

# One job of each stage, against the flow so that the jobs before it are done: what it makes, and the log that shows it
# at work.
JOBS = {
    "report": ("report/report.html", "report.log"),
    "submit": ("submit/both.zip", "submit/both.log"),
    "score": ("score/both/val/00.npz", "score/both.val.00.log"),
    "refine": ("predictions/both.ssa/val/00.labels.h5", "refine/both.ssa.val.00.log"),
    "ensemble": ("predictions/both/val/00.labels.h5", "ensemble/both.val.00.log"),
    "infer": ("predictions/convnext.flip/val/00.labels.h5", "infer/convnext.flip.val.00.log"),
    "finetune": ("finetune/convnext/fingerprint.json", "finetune/convnext.log"),
    "pretrain": ("pretrain/m2f/fingerprint.json", "pretrain/m2f.log"),
    "prepare": ("prepare/vspw/index.csv", "prepare/vspw.log"),
}


@pytest.fixture(scope="module")
def killed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run of which a job of every stage is made again and killed at it, and then the rest again."""
    project = finished.copied(tmp_path_factory.mktemp("killed") / "project")
    shutil.rmtree(project.folder / "work")  # trainings begin again
    for output, log in JOBS.values():
        (project.folder / "results" / output).unlink()
        kill_at_work(project, Path("results", "logs", log), target=Path("results", output))
    project.snakemake()
    return project


def kill_at_work(project: Project, log: Path, *, target: Path | None = None) -> None:
    """Starts snakemake and kills it and its jobs, with no chance to clean up, once `log` shows that a job has begun."""
    words = [] if target is None else [str(target)]
    before = _written(project.folder / log)
    run = subprocess.Popen(
        project.command(*words),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while _written(project.folder / log) == before:
        assert run.poll() is None, f"snakemake ended before {log} appeared"
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert target is None or not (project.folder / target).exists(), f"the job of {target} was not killed at work"
    shutil.rmtree(project.folder / ".snakemake" / "locks")  # what `snakemake --unlock` does, without its seconds


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_the_run_ends_complete(killed: Project) -> None:
    assert killed.planned() == {}
    missing = [output for output, _ in JOBS.values() if not (killed.folder / "results" / output).is_file()]
    assert missing == []


def test_nothing_half_written_stays(killed: Project) -> None:
    assert [str(path) for path in killed.folder.glob("results/**/.writing-*")] == []


def test_the_scores_are_those_of_a_run_that_was_left_alone(killed: Project, finished: Project) -> None:
    scores = sorted(
        path.relative_to(finished.folder) for path in finished.folder.glob("results/score/*/val/scores.json")
    )
    assert scores
    for path in scores:
        assert json.loads((killed.folder / path).read_text()) == json.loads((finished.folder / path).read_text()), path


def test_a_change_that_was_killed_halfway_is_finished_by_the_next_run(killed: Project) -> None:
    """The job's old output is gone and everything after it is still there: it must not pass for up to date."""
    log = Path("results/logs/finetune/convnext.log")
    with killed.changed_config(lambda config: config["models"]["convnext"]["finetune"].update(max_iters=4)):
        kill_at_work(killed, log, target=Path("results/finetune/convnext/fingerprint.json"))
        assert killed.planned()["finetune"] == 1
        killed.snakemake()
        assert killed.planned() == {}
        lines = (killed.folder / "results/finetune/convnext/log.jsonl").read_text().splitlines()
        assert max(json.loads(line).get("iter", 0) for line in lines) == 4
