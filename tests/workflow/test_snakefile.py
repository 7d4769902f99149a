"""The Snakefile itself: lint, dry run, profile, mistakes, what a config file on the command line means."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.workflow.conftest import REPOSITORY, Project, shell_commands


def test_a_dry_run_plans_every_stage(project: Project) -> None:
    stages = {"prepare", "pretrain", "finetune", "infer", "ensemble", "refine", "score", "submit", "report"}
    assert stages <= set(project.planned())


def test_a_dry_run_plans_weights_that_are_already_trained(project: Project) -> None:
    (project.folder / "published.safetensors").write_bytes(b"weights")

    def use_them(config: dict) -> None:
        config["models"]["done"] = {"weights": "published.safetensors", "config": "upernet_convnext-nano_vspw"}

    with project.changed_config(use_them):
        assert project.planned("results/finetune/done/weights.safetensors") == {"import_weights": 1}


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_a_config_file_that_would_break_snakemake_is_one_line(project: Project, profile: str) -> None:
    path = project.folder / "tiny.yaml"
    before = path.read_text()
    path.write_text("a: " + "[" * 900)  # the libyaml of PyYAML 6.0.4 refuses more than 1,000 itself
    try:
        done = project.snakemake("--dry-run", "--workflow-profile", profile, check=False)
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == ["config: tiny.yaml, line 1: is nested more than 100 levels deep"]


def test_the_workstation_profile_is_found(project: Project) -> None:
    done = project.snakemake("--dry-run")
    assert "Using workflow specific profile" in done.stdout + done.stderr


def test_the_graph_can_be_drawn(project: Project) -> None:
    assert project.snakemake("--dag").stdout.strip().startswith("digraph")


def test_nothing_heavy_is_imported_for_a_dry_run() -> None:
    code = (
        "import sys; from snakemake.cli import main\n"
        "try: main(['-n', '--cores', '1'])\n"
        "except SystemExit: pass\n"
        "sys.exit(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.long
def test_why_a_training_failed_outlives_the_next_try(tmp_path: Path) -> None:
    """Snakemake deletes the log of a job that it starts again."""
    project = Project(tmp_path / "project")
    text = (project.folder / "tiny.yaml").read_text().replace("max_iters: 3, batch_size: 2", "batch_size: 1")
    (project.folder / "tiny.yaml").write_text(text)
    done = project.snakemake("--retries", "1", "results/finetune/convnext/weights.safetensors", check=False)
    assert done.returncode != 0
    kept = (project.folder / "work" / "finetune" / "convnext" / "failed.log").read_text()
    assert kept.count("batch norm alone on one device cannot train on 1 image") == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1 and lines[0].startswith("failed: results/logs/finetune/convnext.log: vss finetune: ")


def test_a_config_file_stands_alone(project: Project) -> None:
    """Snakemake by itself would merge tiny.yaml into config.yaml, whose models would leak in."""
    done = project.snakemake("--dry-run")
    assert "internimage-xl" not in done.stdout + done.stderr
    assert project.planned()["finetune"] == 2


def test_command_line_values_override_the_config_file(project: Project) -> None:
    done = project.snakemake("--config", "protocol=nonsense", "--dry-run", check=False)
    assert "config: protocol: is 'nonsense'" in done.stderr


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("models: {}\n", "config: "),
        ("predictions: {convnext.singel: {}}\n", "did you mean 'single'"),
        ("tta: {single: {flip: false}, flip: {flip: true}, single: {flip: true}}\n", "key 'single' is there twice"),
    ],
)
def test_a_mistake_stops_the_run_in_one_line(project: Project, mistake: str, words: str) -> None:
    key = mistake.split(":")[0]
    lines = (project.folder / "tiny.yaml").read_text().split("\n\n")
    text = "\n\n".join(part for part in lines if not part.startswith(f"{key}:"))
    (project.folder / "mistake.yaml").write_text(f"{text}\n{mistake}")
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", "mistake.yaml"]
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("config: ")]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "Building DAG" not in done.stderr


@pytest.mark.slow
def test_the_whole_run_leaves_every_result(finished: Project) -> None:
    results = finished.folder / "results"
    for name in (
        "prepare/vspw/index.csv",
        "pretrain/m2f/weights.safetensors",
        "finetune/m2f/audit.json",
        "finetune/m2f/fingerprint.json",
        "predictions/both/val/00.labels.h5",
        "predictions/m2f.single/val/01.scores.h5",
        "predictions/both.ssa/val/00.labels.h5",
        "score/both/val/scores.json",
        "submit/both.zip",
        "report/report.html",
        "report/table.csv",
    ):
        assert (results / name).is_file(), name
    assert not (results / "predictions/convnext.single/val/00.scores.h5").exists()
    scores = json.loads((results / "score/both/val/scores.json").read_text())
    assert 0 <= scores["mIoU"] <= 1


@pytest.mark.slow
def test_nothing_half_written_is_left(finished: Project) -> None:
    assert not list(finished.folder.glob("results/**/.writing-*"))


@pytest.mark.slow
def test_snakemakes_own_report(finished: Project) -> None:
    finished.snakemake("--report", "report.html")
    assert (finished.folder / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_the_success_message_shows_the_table(finished: Project) -> None:
    (finished.folder / "results/report/table.csv").unlink()
    done = finished.snakemake()
    assert "convnext" in done.stdout
    assert "results/report/report.html" in done.stdout


@pytest.mark.slow
def test_real_sample_is_planned_whole(project: Project, real_data: Path) -> None:
    shutil.copytree(REPOSITORY / "workflow" / "configs", project.folder / "workflow" / "configs", dirs_exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", "workflow/configs/real-sample.yaml"]
    roots = {"vspw": {"root": str(real_data / "VSPW_480p")}, "coco_stuff": {"root": str(real_data / "coco_stuff")}}
    command += ["--config", f"data={json.dumps(roots)}"]
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "finetune" in done.stdout + done.stderr


@cache
def printed_commands(project: Project, config: str = "tiny.yaml") -> list[str]:
    """Returns the shell commands of all jobs, as a dry run prints them; asks Snakemake once."""
    return shell_commands(
        project.snakemake("--dry-run", "--forceall", "--printshellcmds", "--configfile", config).stdout
    )


def stage_of(command: str) -> str | None:
    """Returns the command of vss in a shell command: "vss lease 1 -- vss infer ..." is "infer"."""
    found = re.match(r"(?:vss lease \d -- )?vss (\S+)", command)
    return found[1] if found else None


def test_no_command_of_the_default_config_is_long(project: Project) -> None:
    commands = printed_commands(project, "config.yaml")
    assert {"prepare", "finetune", "infer", "score-split", "report"} <= set(map(stage_of, commands))
    assert max(map(len, commands)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "score-split", "ensemble", "report"])
def test_a_printed_command_can_be_run_by_hand(finished: Project, name: str) -> None:
    command = next(command for command in printed_commands(finished) if stage_of(command) == name)
    paths = [str(finished.folder / "src"), str(finished.folder / "cuda_ops")]
    environment = finished.environment() | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=finished.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, command
