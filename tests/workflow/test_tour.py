"""The tour of what the default leaves out is planned whole; CI runs a part of it."""

from __future__ import annotations

import yaml

from tests.workflow.conftest import REPOSITORY, Project, shell_commands

TOUR = "workflow/configs/tour.yaml"
CONFIG = yaml.safe_load((REPOSITORY / TOUR).read_text(encoding="utf-8"))


def test_every_model_and_prediction_of_the_tour_is_planned(tmp_path) -> None:
    done = Project(tmp_path).snakemake("--dry-run", "--printshellcmds", "--configfile", TOUR)
    for model, row in CONFIG["models"].items():
        what = "Finetune" if "finetune" in row else "Average the last weights of"
        assert f"{what} {model}\n" in done.stdout
    for prediction in CONFIG["predictions"]:
        assert f"{CONFIG['results']}/predictions/{prediction}/" in done.stdout
    assert max(map(len, shell_commands(done.stdout))) < 1000
