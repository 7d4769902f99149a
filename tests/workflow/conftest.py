"""A finished run of the tiny config in a copy of the project, which tests may change and put back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.raw_dataset import vspw  # noqa: F401  a fixture

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
# One job of each stage, in the order of the flow: what it makes, and the log that shows it at work. Of the two shards
# of val the first is empty.
KILLED = {
    "prepare": ("prepare/vspw/index.csv", "prepare/vspw.log"),
    "pretrain": ("pretrain/m2f/fingerprint.json", "pretrain/m2f.log"),
    "finetune": ("finetune/convnext/fingerprint.json", "finetune/convnext.log"),
    "infer": ("predictions/convnext.flip/val/01.labels.h5", "infer/convnext.flip.val.01.log"),
    "ensemble": ("predictions/both/val/01.labels.h5", "ensemble/both.val.01.log"),
    "refine": ("predictions/both.ssa/val/01.labels.h5", "refine/both.ssa.val.01.log"),
    "score": ("score/both/val/01.npz", "score/both.val.01.log"),
    "submit": ("submit/both.zip", "submit/both.log"),
    "report": ("report/report.html", "report.log"),
}
PARTS = ("Snakefile", "config.yaml", "workflow", "envs", "src", "cuda_ops", "pyproject.toml")


class Project:
    """A copy of the project in a folder of its own, with its config in tiny.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            source = REPOSITORY / part
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
            shutil.copytree(source, folder / part, ignore=ignore) if source.is_dir() else shutil.copy(source, folder)
        (folder / "profiles").symlink_to("workflow/profiles")
        shutil.copy(TINY, folder / "tiny.yaml")

    def copied(self, folder: Path) -> Project:
        """Returns a copy in `folder`, with all that has run."""
        copy = object.__new__(Project)
        copy.folder = shutil.copytree(self.folder, folder, symlinks=True)
        return copy

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml", "--cores", "2", *words]

    def environment(self) -> dict[str, str]:
        hidden = ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "SNAKEMAKE_PROFILE")
        return {key: value for key, value in os.environ.items() if key not in hidden} | {"CUDA_VISIBLE_DEVICES": ""}

    def snakemake(self, *words: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs snakemake on the tiny config and returns what it printed."""
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            logs = "\n".join(
                f"== {log}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("results/logs/**/*.log"))
            )
            pytest.fail(f"snakemake {' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}\n{logs[-9000:]}")
        return done

    def planned(self, *words: str, shows: str = "") -> Counter:
        """Returns how many jobs of each rule a dry run would execute; what it prints must have `shows` in it."""
        done = self.snakemake("--dry-run", *words)
        text = done.stdout + done.stderr
        assert shows in text, text
        if "Nothing to be done" in text:
            return Counter()
        table = re.search(r"Job stats:\njob +count\n-+ +-+\n(.*?)\ntotal", text, re.DOTALL)
        assert table, text
        jobs = Counter({name: int(count) for name, count in (line.split() for line in table[1].splitlines())})
        del jobs["all"]
        return jobs

    @contextmanager
    def changed_config(self, change: Callable[[dict], None]) -> Iterator[None]:
        """Changes the config for the length of a block."""
        path = self.folder / "tiny.yaml"
        before = path.read_text()
        config = yaml.safe_load(before)
        change(config)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        try:
            yield
        finally:
            path.write_text(before)

    @contextmanager
    def changed_file(self, name: str, change: Callable[[str], str]) -> Iterator[None]:
        """Changes a source file for the length of a block."""
        path = self.folder / name
        before = path.read_text()
        after = change(before)
        assert after != before
        path.write_text(after)
        try:
            yield
        finally:
            path.write_text(before)


def shell_commands(text: str) -> list[str]:
    """Returns the commands that a dry run with --printshellcmds printed."""
    return re.findall(r"^Shell command: (.+)$", text, re.MULTILINE)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which nothing has run."""
    return Project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which the tiny config has run to its end."""
    copy = Project(tmp_path_factory.mktemp("finished"))
    copy.snakemake()
    return copy


def kill_at_work(project: Project, output: str, log: str) -> None:
    """Starts snakemake for one result and kills it and its jobs, with no chance to clean up, once the log is written.

    Args:
        project: where to run.
        output: the result, in the folder `results`.
        log: the log that shows its job at work, in the folder `results/logs`.
    """
    target, shown = Path("results", output), project.folder / "results" / "logs" / log
    before = _written(shown)
    run = subprocess.Popen(
        project.command(str(target)),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while _written(shown) == before:
        assert run.poll() is None, f"snakemake ended before {log} appeared"
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (project.folder / target).exists(), f"the job of {target} was not killed at work"
    shutil.rmtree(project.folder / ".snakemake" / "locks")  # what `snakemake --unlock` does, without its seconds


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
