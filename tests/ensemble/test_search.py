"""Choosing weights: it finds what is known to be best, reports what the ensemble really scores, and refuses test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.ensemble.drawn_members import CLASSES, smooth_probabilities, write_index_of, write_scores
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.core.index import Card, write_card
from vss.core.labels_file import LabelsReader
from vss.core.scores_file import ScoresReader
from vss.ensemble import search as searching
from vss.ensemble.members import resized, tempered
from vss.ensemble.run import ensemble
from vss.ensemble.search import search

SIZE = (24, 30)
KEYS = [("v", "1"), ("v", "2"), ("w", "1")]


class Scene:
    """Masks, an index and a card in a folder."""

    def __init__(self, folder: Path, truths: dict, *, split: str = "val") -> None:
        self.folder, self.truths = folder, truths
        self.index = write_index_of(folder / "index.csv", {key: mask.shape for key, mask in truths.items()}, split)
        for (video, frame), mask in truths.items():
            Image.fromarray(mask).save(folder / f"{video}-{frame}.png")
        self.card = folder / "card.json"
        identity = [*range(len(CLASSES)), *[255] * (256 - len(CLASSES))]
        write_card(
            self.card,
            Card("drawn", str(folder), CLASSES, identity, True, {split: 3}, sha256_of_file(self.index)),
        )

    def search(self, scores: list, **settings: Any) -> dict:
        out = self.folder / "chosen.json"
        arguments = {"index": self.index, "card": self.card, "split": "val", "shards": 1, "out": out}
        search(settings=settings, scores=scores, **arguments)
        return read_json(out)

    def miou(self, scores: list, chosen: Path | None = None, **settings: Any) -> float:
        """The mIoU of the ensemble that the stage really writes."""
        out = self.folder / "out.labels.h5"
        arguments = {"index": self.index, "split": "val", "shard": 0, "shards": 1, "out": [out], "chosen": chosen}
        ensemble(settings=settings, scores=scores, **arguments)
        total = 0
        with LabelsReader(out) as reader:
            for key, truth in self.truths.items():
                total = total + confusion_matrix(reader.read(*key), truth, len(CLASSES))
        return mean_iou(total)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Three frames whose truth is drawn, with an ignored stripe."""
    truths = {}
    for k, key in enumerate(KEYS):
        truths[key] = smooth_probabilities(k, SIZE).argmax(axis=0).astype(np.uint8)
        truths[key][:, :4] = 255
    return Scene(tmp_path, truths)


def members_of(scene: Scene, truth_shares: list[float]) -> list[list[Path]]:
    """One scores file per member: a mixture of what gives the truth and of something else."""
    files = []
    for m, share in enumerate(truth_shares):
        frames = {
            key: (share * smooth_probabilities(k, SIZE) + (1 - share) * smooth_probabilities(50 + 10 * m + k, SIZE))
            for k, key in enumerate(KEYS)
        }
        files.append([write_scores(scene.folder / f"{m}.scores.h5", frames)])
    return files


def test_a_useless_member_loses_its_weight_and_the_report_is_what_the_stage_scores(scene) -> None:
    files = members_of(scene, [0.6, 0.0])
    members = [{"name": "good", "weight": 1}, {"name": "noise", "weight": 1}]
    found = scene.search(files, members=members)
    assert found["members"][0]["weight"] == 1
    assert found["members"][1]["weight"] == 0
    assert found["miou"]["given"] == pytest.approx(scene.miou(files, members=members), abs=2e-3)
    chosen = scene.miou(files, chosen=scene.folder / "chosen.json", members=members)
    assert found["miou"]["chosen"] == pytest.approx(chosen, abs=2e-3)
    assert found["miou"]["chosen"] > found["miou"]["given"]
    assert found["alone"]["good"] == pytest.approx(scene.miou(files[:1], members=members[:1]), abs=2e-3)
    assert found["without"]["noise"] == found["alone"]["good"] > found["alone"]["noise"]
    assert found["without"]["good"] is None  # nothing is left that has a weight


def test_the_record_says_what_it_was_chosen_on(scene) -> None:
    files = members_of(scene, [0.6, 0.5])
    settings = {"members": [{"name": "m", "weight": 1}, {"name": "n", "weight": 1}], "prediction": "both"}
    record = scene.search(files, **settings)
    assert record["prediction"] == "both"
    assert record["settings"] == settings
    on = record["chosen_on"]
    assert (on["split"], on["dataset"], on["frames"]) == ("val", "drawn", 3)
    assert on["pixels"] == sum(int((truth != 255).sum()) for truth in scene.truths.values())
    assert 0 < on["pixels_differing"] < on["pixels"]
    assert on["index_sha256"] == sha256_of_file(scene.index)


def test_weights_stay_where_they_are_unless_searched(scene) -> None:
    files = members_of(scene, [0.6, 0.0])
    members = [{"name": "m", "weight": 3}, {"name": "n", "weight": 2}]
    found = scene.search(files, members=members, search_weights=False)
    assert [entry["weight"] for entry in found["members"]] == [3, 2]
    assert found["trace"] == []


def test_temperature_undoes_a_known_sharpening(tmp_path) -> None:
    # The truth is drawn from p; a member that says p^2 is overconfident by exactly T = 2.
    rng = np.random.default_rng(0)
    soft = {key: smooth_probabilities(k, SIZE) ** 0.3 for k, key in enumerate(KEYS)}
    p = {key: dense / dense.sum(axis=0) for key, dense in soft.items()}
    truths = {
        key: (dense.cumsum(axis=0) < rng.random(SIZE)).sum(axis=0).clip(0, len(CLASSES) - 1).astype(np.uint8)
        for key, dense in p.items()
    }
    scene = Scene(tmp_path, truths)
    sharp = {key: dense**2 / (dense**2).sum(axis=0) for key, dense in p.items()}
    files = [[write_scores(tmp_path / "s.scores.h5", sharp)], [write_scores(tmp_path / "p.scores.h5", p)]]
    members = [{"name": "sharp", "weight": 1}, {"name": "p", "weight": 1}]
    found = scene.search(files, members=members, search_weights=False, fit_temperature=True)
    temperatures = {entry["name"]: entry["temperature"] for entry in found["members"]}
    assert temperatures["sharp"] == pytest.approx(2, rel=0.25)
    assert temperatures["p"] == pytest.approx(1, rel=0.15)
    assert found["nll"]["sharp"]["fitted"] < found["nll"]["sharp"]["given"]
    assert found["nll"]["sharp"]["fitted"] == pytest.approx(found["nll"]["p"]["fitted"], rel=0.05)


def test_sampling_keeps_within_its_bounds(scene, monkeypatch) -> None:
    monkeypatch.setattr(searching, "MAX_FRAMES", 2)
    monkeypatch.setattr(searching, "MAX_PIXELS", 400)  # of two members
    files = members_of(scene, [0.6, 0.5])
    found = scene.search(files, members=[{"name": "m", "weight": 1}, {"name": "n", "weight": 1}])
    assert found["chosen_on"]["frames"] == 2
    assert 100 < found["chosen_on"]["pixels"] <= 200


def test_frames_taken_in_parts_choose_the_same(scene, monkeypatch) -> None:
    files = members_of(scene, [0.6, 0.5])
    settings = {"members": [{"name": "m", "weight": 1}, {"name": "n", "weight": 1}], "fit_temperature": True}
    whole = scene.search(files, **settings)
    monkeypatch.setattr(searching, "_PIXELS_AT_ONCE", 50)
    parts = scene.search(files, **settings)
    assert whole.pop("nll").keys() == parts.pop("nll").keys()  # sums of other parts round otherwise
    assert parts == whole


def test_refusals(scene) -> None:
    files = members_of(scene, [0.6])
    arguments = {"scores": files, "index": scene.index, "card": scene.card, "shards": 1, "out": scene.folder / "x"}
    one = {"members": [{"name": "m", "weight": 1}]}
    with pytest.raises(UserError, match=r"'test'.*'val' or 'train' only"):
        search(settings=one, split="test", **arguments)
    with pytest.raises(UserError, match="no frames with masks"):
        search(settings=one, split="train", **arguments)
    with pytest.raises(UserError, match="class_weights: cannot be searched"):
        search(settings={"members": [{"name": "m", "class_weights": {CLASSES[0]: 2}}]}, split="val", **arguments)
    assert not (scene.folder / "x").exists()


def test_masks_without_a_label_are_refused(tmp_path) -> None:
    scene = Scene(tmp_path, {key: np.full(SIZE, 255, np.uint8) for key in KEYS})
    with pytest.raises(UserError, match="no mask has a labelled pixel"):
        scene.search(members_of(scene, [0.6]), members=[{"name": "m"}], fit_temperature=True)


def test_tempering_and_resizing_keep_probabilities(scene) -> None:
    ((path,),) = members_of(scene, [0.6])
    with ScoresReader(path) as reader:
        planes = reader.read_planes(*KEYS[0])
    for temperature in (0.25, 1.0, 3.0):
        dense = tempered(planes, temperature).dense()
        np.testing.assert_array_equal(dense.argmax(axis=0), planes.labels)
        np.testing.assert_allclose(dense.sum(axis=0), 1, atol=0.03)
    expected = planes.dense() ** np.float32(1 / 3)
    np.testing.assert_allclose(tempered(planes, 3.0).dense(), expected / expected.sum(axis=0), atol=1e-5)
    larger = resized(planes, (37, 55))
    assert larger.planes.shape[1:] == larger.labels.shape == (37, 55)
    np.testing.assert_array_equal(larger.labels, larger.dense().argmax(axis=0))
