"""Listing a COCO-Stuff164k folder."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.raw_dataset import save_image, save_mask
from vss.core.errors import UserError
from vss.core.images import read_mask
from vss.core.index import read_card, read_index


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    for year, stems in (("train2017", ("000000000009", "000000000025")), ("val2017", ("000000000139",))):
        for number, stem in enumerate(stems):
            save_image(root / "images" / year / f"{stem}.jpg", (20 + number, 30))
            rows = [[0], [181], [90 - 1], [255]] * 5 + [[7]] * number
            save_mask(root / "stuffthingmaps" / year / f"{stem}.png", rows, (20 + number, 30))
    return root


def test_every_image_is_a_video_of_its_own(coco, run_prepare) -> None:
    done = run_prepare(coco, dataset="coco_stuff")
    table = read_index(done.index)
    assert done.rows() == [("train", s, s) for s in ("000000000009", "000000000025")] + [
        ("val",) + ("000000000139",) * 2
    ]
    assert table["mask"][0] == "stuffthingmaps/train2017/000000000009.png"
    assert table["height"].tolist() == [20, 21, 20]
    card = read_card(done.card)
    labels = read_mask(coco / table["mask"][0], card.raw_to_train)
    # Ascending used ids: 90 - 1 has ten unused ones below it, 181 has eleven; raw 0 stays 0.
    assert labels[:4, 0].tolist() == [0, 170, 79, 255]


def test_unused_raw_ids_are_named(coco, run_prepare) -> None:
    values = np.zeros((20, 30))
    values[0, :3] = 11
    save_mask(coco / "stuffthingmaps" / "val2017" / "000000000139.png", values, (20, 30))
    done = run_prepare(coco, dataset="coco_stuff", on_problem="skip")
    assert [p["found"] for p in done.report()["problems"]] == ["11 on 3 pixels"]
    assert len(done.rows()) == 3


def test_missing_maps_images_and_splits_are_named(coco, run_prepare) -> None:
    (coco / "stuffthingmaps" / "train2017" / "000000000009.png").unlink()
    (coco / "images" / "train2017" / "000000000025.jpg").unlink()
    shutil.rmtree(coco / "images" / "val2017")
    with pytest.raises(UserError, match="mask_missing"):
        run_prepare(coco, dataset="coco_stuff")
    with pytest.raises(UserError, match="no usable frame"):
        run_prepare(coco, dataset="coco_stuff", on_problem="skip")
    save_image(coco / "images" / "train2017" / "000000000025.jpg", (21, 30))
    done = run_prepare(coco, dataset="coco_stuff", on_problem="skip")
    assert done.rows() == [("train", "000000000025", "000000000025")]
    assert done.kinds() == ["image_missing", "mask_missing", "split_missing"]


def test_maps_converted_for_mmsegmentation_are_left_alone(coco, run_prepare) -> None:
    folder = coco / "stuffthingmaps" / "train2017"
    shutil.copy(folder / "000000000009.png", folder / "000000000009_labelTrainIds.png")
    done = run_prepare(coco, dataset="coco_stuff")
    assert done.kinds() == [] and len(done.rows()) == 3
