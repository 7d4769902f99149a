"""Dropping scores: only of predictions whose scores nothing reads, and never label maps."""

from __future__ import annotations

from pathlib import Path

import pytest

from vss.core.errors import UserError
from vss.workflow.drop import drop_scores, drop_unneeded

CONFIG = """
results: {results}
data: {{vspw: {{shards: {{val: 2, test: 4}}}}}}
models: {{swin: {{}}, convnext: {{}}}}
tta: {{single: {{}}}}
predictions: {{both: {{}}}}
ensembles:
  both: {{members: {{swin.single: 1, convnext.single: 2}}}}
"""

VALID = "data: {vspw: {}}\nmodels: {swin: {}}\ntta: {single: {}}\npredictions: {swin.single: {}}\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with scores of two needed predictions and of one that nothing needs."""
    for name in ("swin.single", "convnext.single", "swin.six"):
        folder = tmp_path / "out" / "predictions" / name / "val"
        folder.mkdir(parents=True)
        for shard in ("00", "01"):
            (folder / f"{shard}.scores.h5").write_bytes(b"s" * 1500)
            (folder / f"{shard}.labels.h5").write_bytes(b"l")
    (tmp_path / "config.yaml").write_text(CONFIG.format(results=tmp_path / "out"))
    return tmp_path / "out"


def names(results: Path) -> set[str]:
    return {str(path.relative_to(results / "predictions")) for path in results.rglob("*.h5")}


def test_lists_first_and_deletes_when_requested(results, tmp_path, capsys) -> None:
    before = names(results)
    drop_scores(config_file=tmp_path / "config.yaml", yes=False)
    assert names(results) == before
    said = capsys.readouterr().err
    assert "swin.six: 2 files, 3.0 kB" in said
    assert "convnext" not in said
    drop_scores(config_file=tmp_path / "config.yaml", yes=True)
    assert before - names(results) == {"swin.six/val/00.scores.h5", "swin.six/val/01.scores.h5"}
    drop_scores(config_file=tmp_path / "config.yaml", yes=True)
    assert "no class scores" in capsys.readouterr().err.splitlines()[-1]


def test_returns_the_files(results) -> None:
    found = drop_unneeded(results / "predictions", {"swin.six"}, shards={}, delete=False)
    assert {path.parts[-3] for path in found} == {"swin.single", "convnext.single"}


def test_shards_that_a_split_no_longer_has_go(results, tmp_path) -> None:
    path, before = tmp_path / "config.yaml", names(results)
    path.write_text(path.read_text().replace("val: 2", "val: 1"))
    drop_scores(config_file=path, yes=True)
    gone = {"swin.six/val/00.scores.h5", *(f"{name}/val/01.scores.h5" for name in ("swin.six", "swin.single"))}
    assert before - names(results) == gone | {"convnext.single/val/01.scores.h5"}


def test_what_is_being_written_stays(results, tmp_path) -> None:
    writing = results / "predictions" / "swin.six" / "val" / ".writing-00.scores.h5.host.1.x.scores.h5"
    writing.write_bytes(b"s")
    drop_scores(config_file=tmp_path / "config.yaml", yes=True)
    assert writing.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("{", "is not valid YAML"),
        ("", "is no map of keys"),
        ("ensembles: {}", "key 'data' is missing"),
        (f"{VALID}ensembles: [a]", r"ensembles: is \['a'\] \(a list\), must be a map"),
        (f"{VALID}ensembles: {{both: {{}}}}", r"ensembles\.both: key 'members' is missing"),
    ],
)
def test_a_config_that_is_not_understood_deletes_nothing(results, tmp_path, text, says) -> None:
    before, path = names(results), tmp_path / "config.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        drop_scores(config_file=path, yes=True)
    assert names(results) == before


@pytest.mark.parametrize(
    "rows",
    [
        "pseudo: {sure: {of: [swin.six]}}\n",
        "refiners: {vote: {method: temporal, settings: {votes: scores}}}\ntargets: {submit: [swin.six.vote]}\n",
    ],
)
def test_what_pseudo_labels_and_votes_are_made_of_stays(rows, results, tmp_path) -> None:
    path, before = tmp_path / "config.yaml", names(results)
    path.write_text(path.read_text() + rows)
    drop_scores(config_file=path, yes=True)
    assert names(results) == before
