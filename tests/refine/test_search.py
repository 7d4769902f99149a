"""Choosing the settings of the vote over time: it finds a better window, the stage uses it, and test is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_dataset import write_dataset, write_labels

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.labels_file import LabelsReader
from vss.flow.run import flow
from vss.refine import search as searching
from vss.refine.run import refine
from vss.refine.search import search_refiner

FRAMES, WRONG = 8, slice(3, 5)  # two frames in a row: a neighbour on each side is not enough to outvote them


@pytest.fixture
def still(tmp_path):
    """A still scene, wrong in a block of two frames; returns arguments that search and refinement share."""
    image = np.random.default_rng(0).integers(0, 255, (6, 8), np.uint8).repeat(8, 0).repeat(8, 1)
    truth = np.where(np.arange(64) < 32, 1, 2).astype(np.uint8)[None].repeat(48, 0)
    labels = np.stack([truth - 1] * FRAMES)
    labels[WRONG, 16:32, 16:48] = 7
    images = {"a": [np.dstack([image] * 3)] * FRAMES}
    dataset = write_dataset(tmp_path, {"a": [truth] * FRAMES}, images=images)
    common: dict[str, Any] = {"index": dataset.index, "card": dataset.card, "split": "val", "shards": 1}
    flow(method="dis", shard=0, out=tmp_path / "flow.h5", **common)
    files = {"labels": write_labels(tmp_path / "0.labels.h5", {"a": list(labels)}), "flow": tmp_path / "flow.h5"}
    return common, files


def test_a_window_is_found_that_outvotes_the_error(still, tmp_path):
    common, files = still
    given, out = {"window": 1}, tmp_path / "chosen.json"
    search_refiner(settings=given, out=out, **{kind: [path] for kind, path in files.items()}, **common)
    found = read_json(out)
    assert found["given"]["window"] == 1 and found["settings"]["window"] > 1
    assert found["miou"]["unrefined"] <= found["miou"]["given"] < found["miou"]["chosen"] == 1
    assert (found["chosen_on"]["split"], found["chosen_on"]["frames"]) == ("val", FRAMES)

    job = {"settings": {"method": "temporal", "settings": given}, "shard": 0, "chosen": out, **files, **common}
    refine(out=tmp_path / "1.labels.h5", **job)
    with LabelsReader(tmp_path / "1.labels.h5") as reader:
        assert all((reader.read(*key) == reader.read("a", "00000000")).all() for key in reader.keys())  # noqa: SIM118
        assert reader.provenance["chosen"] == found["settings"]
    with pytest.raises(UserError, match="was not chosen from the settings given"):
        refine(out=tmp_path / "2.labels.h5", **job | {"settings": {"method": "temporal"}})


def test_settings_stay_as_given_where_nothing_is_gained(still, tmp_path, monkeypatch):
    common, files = still
    monkeypatch.setattr(searching, "_TRIED", {"window": (2, 11), "decay": (0.93, 0.98)})
    search_refiner(settings={}, out=tmp_path / "c.json", **{kind: [path] for kind, path in files.items()}, **common)
    found = read_json(tmp_path / "c.json")
    assert found["settings"] == found["given"] and found["trace"] == []


def test_test_is_refused(still, tmp_path):
    common, files = still
    with pytest.raises(UserError, match="'test', settings may be chosen on 'val' or 'train' only"):
        search_refiner(
            settings={}, out=tmp_path / "c.json", **{k: [v] for k, v in files.items()}, **common | {"split": "test"}
        )
