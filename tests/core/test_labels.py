"""Label spaces against the published tables, and their invariants."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vss.core.labels import COCO_STUFF, IGNORE_INDEX, LABEL_SPACES, VSPW, overlay_palette, submission_palette

TABLES = {"vspw": "vspw.json", "coco_stuff": "cocostuff164k.json"}


@pytest.fixture(params=sorted(TABLES))
def space_and_table(request, golden_tables):
    path = golden_tables / "labels" / TABLES[request.param]
    return LABEL_SPACES[request.param], json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.golden
def test_raw_to_train_is_the_published_mapping(space_and_table) -> None:
    space, table = space_and_table
    mapping = space.raw_to_train()
    for raw, train in table["raw_to_train"].items():
        assert mapping[int(raw)] == train, raw
    unmapped = set(range(256)) - {int(raw) for raw in table["raw_to_train"]}
    assert all(mapping[raw] == IGNORE_INDEX for raw in unmapped)


@pytest.mark.golden
def test_classes_are_the_published_names_in_order(space_and_table) -> None:
    space, table = space_and_table
    assert list(space.classes) == table["classes"]
    for row in table["table"]:
        if row["name"] is None or row["train"] == IGNORE_INDEX:  # a raw id that stands for no class
            assert row["raw"] not in space.raw_ids
            continue
        assert space.raw_ids[row["train"]] == row["raw"]
        assert space.classes[row["train"]] == row["name"]


@pytest.mark.golden
def test_submission_palette_is_the_official_one(golden_tables) -> None:
    table = json.loads((golden_tables / "labels" / "vspw.json").read_text(encoding="utf-8"))
    assert submission_palette().tolist() == table["palette_256_rgb"]
    assert submission_palette()[1:125].tolist() == table["mmseg_dataset_palette"]


@pytest.mark.golden
def test_official_class_list_of_the_dataset(real_data) -> None:
    official = json.loads((real_data / "VSPW_480p" / "label_num_dic_final.json").read_text(encoding="utf-8"))
    for name, raw in official.items():
        if raw in VSPW.raw_ids:
            assert VSPW.classes[raw - 1] == name


@pytest.mark.parametrize("space", LABEL_SPACES.values(), ids=LABEL_SPACES)
def test_every_raw_id_has_its_train_id(space) -> None:
    there = space.raw_to_train()
    assert np.array_equal(there[list(space.raw_ids)], np.arange(space.num_classes))
    assert set(np.flatnonzero(there != IGNORE_INDEX)) == set(space.raw_ids)
    assert there.dtype == np.uint8 and there.shape == (256,)


def test_vspw_by_hand() -> None:
    mapping = VSPW.raw_to_train()
    assert [int(mapping[raw]) for raw in (0, 1, 124, 125, 252, 254, 255)] == [255, 0, 123, 255, 255, 255, 255]
    assert (VSPW.num_classes, VSPW.classes[0], VSPW.classes[123]) == (124, "wall", "train")
    assert VSPW.known_raw_values() == frozenset(range(125)) | {255}


def test_coco_stuff_has_no_zero_label_to_shift() -> None:
    mapping = COCO_STUFF.raw_to_train()
    assert COCO_STUFF.num_classes == 171
    assert (mapping[0], COCO_STUFF.classes[0]) == (0, "person")
    assert (mapping[181], COCO_STUFF.classes[170]) == (170, "wood")
    assert mapping[11] == IGNORE_INDEX and 11 not in COCO_STUFF.known_raw_values()
    assert 0 not in COCO_STUFF.ignored


def test_overlay_palette_tells_every_class_apart() -> None:
    palette = overlay_palette()
    assert len({tuple(colour) for colour in palette[:171].tolist()}) == 171
    assert palette[IGNORE_INDEX].tolist() == [0, 0, 0]
