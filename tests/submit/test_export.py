"""Exported predictions: what is imported again has the same labels, and other tools find what their formats promise."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import TinyDataset, write_dataset, write_labels

from vss.cli import main
from vss.core.errors import UserError
from vss.core.images import read_mask
from vss.core.index import read_card, write_card
from vss.core.labels import VSPW, submission_palette
from vss.core.labels_file import LabelsReader
from vss.core.masks import MaskCoding
from vss.exchange.run import import_prediction
from vss.submit.export import export_prediction
from vss.submit.run import submit

SHAPE = (5, 7)


@pytest.fixture
def labels() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(8)
    return {name: [rng.integers(0, 124, SHAPE).astype(np.uint8) for _ in range(2)] for name in ("a b", "c_1")}


@pytest.fixture
def dataset(tmp_path: Path, labels) -> TinyDataset:
    masks = {video: [frame + 1 for frame in frames] for video, frames in labels.items()}
    return write_dataset(tmp_path / "results" / "prepare" / "vspw", masks, split="test", with_masks=False)


@pytest.fixture
def prediction(tmp_path: Path, labels, dataset) -> Path:
    """The folder of a prediction of two shards."""
    folder = tmp_path / "results" / "predictions" / "net.single" / "test"
    for shard, (video, frames) in enumerate(labels.items()):
        write_labels(folder / f"{shard:02d}.labels.h5", {video: frames})
    return folder


def imported_again(tmp_path: Path, dataset: TinyDataset, expected: dict, **row: str) -> None:
    """Imports what was exported and compares it with the prediction."""
    out = tmp_path / "again" / "00.labels.h5"
    import_prediction(settings=row, index=dataset.index, card=dataset.card, split="test", shard=0, shards=1, out=[out])
    with LabelsReader(out) as reader:
        for video, frames in expected.items():
            for at, frame in enumerate(frames):
                np.testing.assert_array_equal(reader.read(video, f"{at:08d}"), frame)


def unknown_pixels(labels: dict, prediction: Path) -> None:
    """Takes the class away from some pixels."""
    labels["a b"][0][1] = 255
    write_labels(prediction / "00.labels.h5", {"a b": labels["a b"]})


def test_png_folders_come_back(tmp_path, labels, dataset, prediction) -> None:
    unknown_pixels(labels, prediction)
    words = ["export-prediction", str(prediction), "--format", "png", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    with Image.open(tmp_path / "out" / "a b" / "00000001.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == submission_palette().ravel().tolist()
    imported_again(tmp_path, dataset, labels, labels=str(tmp_path / "out"))
    imported_again(tmp_path, dataset, labels, labels=str(tmp_path / "out"), ids=str(tmp_path / "out" / "classes.csv"))


def test_coco_panoptic_comes_back(tmp_path, labels, dataset, prediction) -> None:
    unknown_pixels(labels, prediction)
    export_prediction(prediction=prediction, form="coco-panoptic", out=tmp_path / "out")
    imported_again(tmp_path, dataset, labels, labels=str(tmp_path / "out"), layout="coco_panoptic")
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(VSPW.classes)
    assert [image["file_name"] for image in content["images"]] == [
        f"{video}/{at:08d}.jpg" for video in labels for at in range(2)
    ]
    assert (content["images"][0]["height"], content["images"][0]["width"]) == SHAPE
    # What COCO's panoptic evaluator relies on: ids are those of the PNG, areas and boxes those of the segments.
    annotation = content["annotations"][0]
    with Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]) as image:
        colours = np.asarray(image.convert("RGB")).astype(int)
    ids = colours @ np.array([1, 256, 65536])
    assert {segment["id"] for segment in annotation["segments_info"]} == set(np.unique(ids)) - {0}
    for segment in annotation["segments_info"]:
        rows, columns = np.nonzero(ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert segment["area"] == len(rows) and segment["category_id"] == segment["id"]
        assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())


COLOURS = tuple((number % 7 * 30, number, 255 - number) for number in range(125))


@pytest.mark.parametrize(
    ("coding", "shift", "mode"),
    [
        (MaskCoding(), 0, "L"),
        (MaskCoding(bits=16), 300, "I;16"),
        (MaskCoding("red"), 0, "RGB"),
        (MaskCoding("colours", colours=COLOURS), 0, "RGB"),
    ],
    ids=lambda value: value.values if isinstance(value, MaskCoding) else str(value),
)
def test_masks_come_back_as_the_dataset_has_them(
    tmp_path, labels, dataset, prediction, coding: MaskCoding, shift: int, mode: str
) -> None:
    card = read_card(dataset.card)
    label_map = [*[255] * shift, *card.label_map]
    write_card(dataset.card, replace(card, coding=coding, label_map=label_map, ignored=(0,)))
    unknown_pixels(labels, prediction)
    export_prediction(prediction=prediction, form="masks", out=tmp_path / "out")
    path = tmp_path / "out" / "a b" / "00000001.png"
    with Image.open(path) as image:
        assert image.mode == mode
    if mode != "RGB":
        assert int(np.array(Image.open(path))[0, 0]) == shift + 1 + int(labels["a b"][1][0, 0])
    back = read_card(dataset.card)
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            found = read_mask(tmp_path / "out" / video / f"{at:08d}.png", back.raw_to_train, coding)
            np.testing.assert_array_equal(found, frame)
    # The submission of it is read back likewise; pixels without a class are refused as in any other.
    files = {"labels": sorted(prediction.glob("*.h5")), "index": dataset.index, "card": dataset.card}
    with pytest.raises(UserError, match="holds label 255"):
        submit(**files, out=tmp_path / "masks.zip", pngs="masks")
    labels["a b"][0][1] = 3
    write_labels(prediction / "00.labels.h5", {"a b": labels["a b"]})
    submit(**files, out=tmp_path / "masks.zip", pngs="masks")
    with zipfile.ZipFile(tmp_path / "masks.zip") as archive:
        assert archive.read("a b/00000001.png") == path.read_bytes()


def test_a_submission_comes_back(tmp_path, labels, dataset, prediction) -> None:
    export_prediction(prediction=prediction, form="submission", out=tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    imported_again(tmp_path, dataset, labels, labels=str(tmp_path / "unpacked"), layout="vspw")


def test_a_dataset_of_its_own_is_exported_in_its_colours(tmp_path: Path) -> None:
    """The dataset is found by the index that the prediction was made with, or by its classes."""
    labels = {"a": [np.array([[0, 1, 255]], np.uint8)]}
    made = write_dataset(tmp_path / "results" / "prepare" / "street", {"a": [np.ones((1, 3), np.uint8)]}, split="test")
    card = replace(read_card(made.card), name="street", classes=["road", "car"], colours=("#804080", "#00008e"))
    write_card(made.card, replace(card, label_map=[255, 0, 1] + [255] * 253))
    folder = tmp_path / "results" / "predictions" / "net.single" / "test"
    for provenance in ({"index_sha256": card.sha256}, {}):
        write_labels(folder / "00.labels.h5", labels, classes=card.classes, provenance=provenance)
        for form in ("png", "coco-panoptic", "submission"):
            target = tmp_path / f"{form}-{len(provenance)}"
            if form == "submission":  # a submission has a class for every pixel
                whole = {"a": [np.array([[0, 1, 1]], np.uint8)]}
                write_labels(folder / "00.labels.h5", whole, classes=card.classes, provenance=provenance)
            export_prediction(prediction=folder, form=form, out=target)
            if form == "coco-panoptic":
                categories = json.loads((target / "panoptic.json").read_text())["categories"]
                assert [(each["name"], each["color"]) for each in categories] == [
                    ("road", [128, 64, 128]),
                    ("car", [0, 0, 142]),
                ]
                continue
            png = target / "a" / "00000000.png"
            if form == "submission":
                with zipfile.ZipFile(target) as archive:
                    png = io.BytesIO(archive.read("a/00000000.png"))
            with Image.open(png) as image:
                assert image.getpalette()[:6] == [128, 64, 128, 0, 0, 142]
    made.card.unlink()
    with pytest.raises(UserError, match=r"no dataset in .*prepare has its classes"):
        export_prediction(prediction=folder, form="submission", out=tmp_path / "none.zip")


def test_what_cannot_be_exported_is_one_line(tmp_path, labels, dataset, prediction) -> None:
    def refused(words: str, **given: object) -> None:
        call = {"prediction": prediction, "form": "png", "out": tmp_path / "out", **given}
        with pytest.raises(UserError) as caught:
            export_prediction(**call)
        assert words in str(caught.value) and "\n" not in str(caught.value)

    refused("no *.labels.h5 files there; name one of the splits in it: test", prediction=prediction.parent)
    refused("absent: no *.labels.h5 files there", prediction=tmp_path / "absent")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    refused("full: is there already, and not an empty folder", out=tmp_path / "full")
    write_labels(prediction / "02.labels.h5", {"c_1": labels["c_1"]})
    refused("frame '00000000' of video 'c_1' is also in")
    write_labels(prediction / "02.labels.h5", {}, classes=["a", "b"])
    refused("02.labels.h5: predicts other classes than")
    write_labels(prediction / "02.labels.h5", {"../up": labels["c_1"]})
    refused("id '../up' cannot be a file name")
    assert not list(tmp_path.glob("up/*"))
