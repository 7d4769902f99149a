"""What goes beyond the paper at full size, planned from dummy folders and dummy weights."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.workflow.conftest import REPOSITORY, Project, shell_commands

BEYOND = "workflow/configs/beyond.yaml"
CONFIG = yaml.safe_load((REPOSITORY / BEYOND).read_text(encoding="utf-8"))


def test_every_lever_is_planned(tmp_path: Path) -> None:
    project = Project(tmp_path)
    root = project.folder / CONFIG["data"]["vspw"]["root"]
    for split in ("train", "val", "test"):
        for part in ("origin", "mask"):
            (root / "data" / f"{split}_video" / part).mkdir(parents=True)
        (root / f"{split}.txt").write_text(f"{split}_video\n")
    for model in CONFIG["models"].values():
        for file in (model.get("weights"), model.get("finetune", {}).get("init")):
            if file is not None:
                (project.folder / file).parent.mkdir(exist_ok=True)
                (project.folder / file).touch()

    done = project.snakemake("--dry-run", "--printshellcmds", "--configfile", BEYOND).stdout
    trained = {name for name, model in CONFIG["models"].items() if "finetune" in model}
    assert set(re.findall(r"Finetune (\S+)\n", done)) == trained
    assert set(re.findall(r"Score (\S+) on val", done)) == set(CONFIG["predictions"])
    assert "Average the last weights of eomt-soup" in done and "Make the pseudo-labels agreed" in done
    assert "Import the weights of internimage-h-m2f-coco" in done and "Zip the submission all.temporal" in done
    assert max(map(len, shell_commands(done))) < 1000
