"""The paper at full size, planned: every job of Tables 1 to 4, from dummy dataset folders and dummy weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import REPOSITORY, Project, shell_commands

PAPER = "workflow/configs/pvuw2023.yaml"
CONFIG = yaml.safe_load((REPOSITORY / PAPER).read_text(encoding="utf-8"))


def weight_files() -> list[str]:
    parts = [*CONFIG["refiners"].values(), *CONFIG["models"].values()]
    parts += [
        model[stage] for model in CONFIG["models"].values() for stage in ("pretrain", "finetune") if stage in model
    ]
    return sorted({part[key] for part in parts for key in ("weights", "init") if key in part})


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a dry run prints where the two datasets' folders and the published files lie at their places."""
    project = Project(tmp_path_factory.mktemp("paper"))
    vspw, coco = (Path(project.folder, CONFIG["data"][name]["root"]) for name in ("vspw", "coco_stuff"))
    for split in ("train", "val", "test"):
        video = vspw / "data" / f"{split}_video"
        for part in ("origin", "mask"):
            (video / part).mkdir(parents=True)
        (vspw / f"{split}.txt").write_text(f"{split}_video\n")
    for part in ("images", "stuffthingmaps"):
        for split in ("train2017", "val2017"):
            (coco / part / split).mkdir(parents=True)
    for name in weight_files():
        file = project.folder / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    done = project.snakemake("--dry-run", "--printshellcmds", "--configfile", PAPER)
    return done.stdout + done.stderr


def jobs(text: str, message: str) -> set[str]:
    """Returns what the messages of a dry run name, such as the models of "Finetune (.+)"."""
    return set(re.findall(message, text))


def test_both_datasets_are_prepared_and_every_model_is_trained(dry_run: str) -> None:
    assert jobs(dry_run, r"Prepare (\w+)") == {"vspw", "coco_stuff"}
    assert jobs(dry_run, r"Pretrain (\S+)\n") == {"internimage-h-m2f-coco"}
    assert jobs(dry_run, r"Finetune (\S+)\n") == {
        "swin-l",
        "convnext-xl",
        "internimage-xl",
        "internimage-h",
        "internimage-h-m2f",
        "internimage-h-m2f-coco",
    }


def test_every_row_of_the_four_tables_is_predicted_and_scored(dry_run: str) -> None:
    rows = {name for name, row in CONFIG["predictions"].items() if row["table"] in (1, 2, 3, 4)}
    assert len(rows) == 13
    assert jobs(dry_run, r"Score (\S+) on val") == rows
    shards = {f"{shard:02d}" for shard in range(CONFIG["data"]["vspw"]["shards"]["val"])}
    for row in rows:
        assert jobs(dry_run, rf"Count {re.escape(row)} on val shard (\d\d)") == shards


def test_members_refiners_and_the_submission_are_planned(dry_run: str) -> None:
    inferred = jobs(dry_run, r"Infer (\S+) on val")
    for ensemble in CONFIG["ensembles"].values():
        assert set(ensemble["members"]) <= inferred
    assert jobs(dry_run, r"Ensemble (\S+) on val") == set(CONFIG["ensembles"])
    assert jobs(dry_run, r"Refine \S+ by (\S+) on val") == {"cascadepsp", "ssa"}
    assert len(jobs(dry_run, r"Propose masks \((sam-\w+)\) on val")) == 1
    assert jobs(dry_run, r"Zip the submission (\S+)") == set(CONFIG["targets"]["submit"])
    assert "Train the refinement network" not in dry_run
    assert "Write the report" in dry_run


def test_no_command_is_long(dry_run: str) -> None:
    assert max(map(len, shell_commands(dry_run))) < 1000
