"""A report passed to a tracker: backends that need no network."""

from __future__ import annotations

import importlib.util
import json

import pytest

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.report.tracker import track
from vss.workflow.checks import check_tracker


@pytest.fixture
def passed(finished_run, written, tmp_path):
    """Returns pass_to(backend, **options): what was noted, and the folder that the backend wrote to."""

    def pass_to(backend, **options):
        folder = tmp_path / "tracker"
        track(
            settings={"backend": backend, "options": options},
            record=written["record"],
            pictures=[written["predictions"]],
            logs=finished_run["inputs"]["logs"],
            folder=folder,
            out=tmp_path / "passed.json",
        )
        return read_json(tmp_path / "passed.json"), folder

    return pass_to


def test_a_local_backend_gets_scores_curves_and_pictures(passed, finished_run):
    passed("local")  # by a job that was killed: its lines are not there twice
    noted, folder = passed("local")
    assert noted["curves"] == 40 and noted["pictures"] == ["predictions.png"] and noted["backend"] == "local"
    lines = [json.loads(line) for line in (folder / "scalars.json").read_text().splitlines()]
    scores = read_json(finished_run["inputs"]["scores"]["net.single"])
    assert len(lines) == 41 and lines[-1]["net.single/mIoU"] == pytest.approx(100 * scores["mIoU"], abs=1e-4)
    first = lines[0]
    assert (first["step"], first["pretrain/net/loss"], first["pretrain/net/iter"]) == (5, 3.0, 5)
    assert list((folder / "vis_image").glob("predictions*")) and "decode" not in first
    assert "protocol = 'paper'" in (folder / "config.py").read_text()


def test_tensorboard_gets_them(passed):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, folder = passed("tensorboard")
    found = events.EventAccumulator(str(folder)).Reload()
    assert [event.step for event in found.Scalars("finetune/net/loss")] == list(range(5, 101, 5))
    assert found.Tags()["images"] == ["predictions.png"]


def test_mistakes_are_one_line(passed):
    with pytest.raises(UserError, match=r"tracker: local failed \(.*unexpected keyword argument 'server'.*\); see"):
        passed("local", server="x")
    with pytest.raises(UserError, match=r"tracker\.backend: is 'clearml', must be one of 'local'"):
        passed("clearml")
    with pytest.raises(UserError, match=r"tracker\.backend: is null, must be one of local"):
        passed(None)


def test_a_library_that_is_not_installed_is_refused_before_any_job(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tracker\.backend: wandb is not installed: run `pip install 'vss\[wandb\]'`"):
        check_tracker("wandb")
