"""Imported predictions take part in the whole flow, and only what a changed file touches runs again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import TINY, Project
from vss.core.images import read_mask
from vss.core.index import read_dataset
from vss.core.labels import submission_palette
from vss.core.labels_file import LabelsReader
from vss.core.shards import shard_of
from vss.prepare.run import prepare
from vss.score.folders import score_folder
from vss.submit.png import png_of_labels

pytestmark = pytest.mark.slow


def predict(folder: Path, root: Path, index: pd.DataFrame, table: np.ndarray) -> None:
    """Writes what two other systems might predict: label maps of one, class probabilities of the other."""
    rng = np.random.default_rng(2)
    for row in index[index["split"] != "train"].itertuples():
        labels = rng.integers(0, 124, (row.height, row.width)).astype(np.uint8)
        if row.mask:
            truth = read_mask(root / row.mask, table)
            labels = np.where((rng.random(truth.shape) < 0.7) & (truth != 255), truth, labels[0, 0]).astype(np.uint8)
        path = folder / "peer" / row.split / row.video / f"{row.frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_of_labels(labels, submission_palette()))
        planes = np.full((124, *labels.shape), 0.3 / 123, np.float16)
        np.put_along_axis(planes, labels[None, ::-1].astype(int), 0.7, 0)
        path = folder / "other" / row.video / f"{row.frame}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, planes)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run without any model of our own: two imported predictions, an ensemble of them, a refinement."""
    project = Project(tmp_path_factory.mktemp("imported"))
    tiny = yaml.safe_load(TINY.read_text())
    drawn = tmp_path_factory.mktemp("drawn")
    files = {name: drawn / f"{name}.json" for name in ("card", "check")}
    settings = {"root": None, "drawn": tiny["data"]["vspw"]["drawn"]}
    prepare(dataset="vspw", settings=settings, index=drawn / "index.csv", **files, workers=1)
    index, card = read_dataset(drawn / "index.csv", files["card"])
    predict(project.folder, Path(card.root), index, card.raw_to_train)
    (project.folder / "root.txt").write_text(card.root)
    (project.folder / "published.safetensors").write_bytes(b"of a model that nothing uses")
    config = {
        "data": tiny["data"],
        "models": {"unused": {"weights": "published.safetensors", "config": "upernet_convnext-nano_vspw"}},
        "tta": {"single": {}},
        "ensembles": {"mixed": {"members": {"peer": 1, "other": 2}}},
        "refiners": {"ssa": {"method": "ssa"}},
        "predictions": {
            "peer": {"title": "A peer", "labels": "peer/{split}", "splits": ["val", "test"]},
            "other": {"scores": "other/{video}/{frame}.npz", "on_extra": "skip", "splits": ["val", "test"]},
            "mixed": {},
            "peer.ssa": {},
        },
        "targets": {"submit": ["peer", "mixed"]},
        "report": {"frames": 1},
    }
    (project.folder / "tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    project.snakemake()
    return project


def test_its_scores_are_those_of_its_folder(imported: Project) -> None:
    found = json.loads((imported.folder / "results/score/peer/val/scores.json").read_text())
    of_folder = score_folder(imported.folder / "peer" / "val", (imported.folder / "root.txt").read_text())
    assert of_folder == {key: found[key] for key in of_folder}
    assert found["mIoU"] > 0.2


def test_it_is_averaged_refined_reported_and_submitted(imported: Project) -> None:
    results = imported.folder / "results"
    config = json.loads((results / "predictions/peer/test/00.config.json").read_text())
    assert config["stage"] == "import" and config["imported"]["files"] == 2
    with LabelsReader(results / "predictions/peer.ssa/val/00.labels.h5") as refined:
        assert refined.provenance["of"]["files"] == "peer/{split}/{video}/{frame}.png"
    with LabelsReader(results / "predictions/mixed/val/00.labels.h5") as mixed:
        assert [member["name"] for member in mixed.provenance["members"]] == ["peer", "other"]
    table = pd.read_csv(results / "report/table.csv").set_index("prediction")
    assert list(table["title"]) == ["A peer", "other", "mixed", "A peer + ssa"]
    assert "A peer" in (results / "report/report.html").read_text()
    assert all((results / "submit" / f"{name}.zip").is_file() for name in ("peer", "mixed"))


def test_only_what_a_changed_file_touches_runs_again(imported: Project) -> None:
    video = sorted((imported.folder / "peer" / "val").iterdir())[0]
    frame = sorted(video.iterdir())[0]
    before, times = frame.read_bytes(), (frame.stat().st_atime_ns, frame.stat().st_mtime_ns)
    frame.write_bytes(png_of_labels(np.zeros((48, 85), np.uint8), submission_palette()))
    after = {"import_prediction": 1, "ensemble": 1, "refine": 1, "score_shard": 3, "score": 3, "report": 1}
    shown = f"Import peer on val shard {shard_of(video.name, 2):02d}"
    assert imported.planned(shows=shown) == after
    frame.write_bytes(before)
    os.utime(frame, ns=times)
    assert imported.planned() == {}
