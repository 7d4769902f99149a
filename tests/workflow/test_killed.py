"""A killed run followed by `snakemake` again ends complete, whatever stage it was killed in.

That its results are those of an undisturbed run is shown by `make storm`, which kills at random moments.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflow.conftest import KILLED, Project, kill_at_work

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which the tiny config was killed in every stage and has then run to its end."""
    copy = Project(tmp_path_factory.mktemp("killed"))
    for output, log in KILLED.values():
        kill_at_work(copy, output, log)
    copy.snakemake()
    return copy


def test_the_run_ends_complete(killed: Project) -> None:
    assert killed.planned() == {}
    missing = [output for output, _ in KILLED.values() if not (killed.folder / "results" / output).is_file()]
    assert missing == []


def test_nothing_half_written_stays(killed: Project) -> None:
    assert [str(path) for path in killed.folder.glob("results/**/.writing-*")] == []


def test_a_change_that_was_killed_halfway_is_finished_by_the_next_run(killed: Project, tmp_path: Path) -> None:
    """The job's old output is gone and everything after it is still there: it must not pass for up to date."""
    project = killed.copied(tmp_path / "project")
    wanted = "results/score/convnext.single/val/scores.json"
    with project.changed_config(lambda config: config["models"]["convnext"]["finetune"].update(max_iters=4)):
        kill_at_work(project, *KILLED["finetune"])
        assert project.planned(wanted)["finetune"] == 1
        project.snakemake(wanted)
        assert project.planned(wanted) == {}
        lines = (project.folder / "results/finetune/convnext/log.jsonl").read_text().splitlines()
        assert max(json.loads(line).get("iter", 0) for line in lines) == 4
