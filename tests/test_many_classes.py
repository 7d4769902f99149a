"""More than 255 classes: label maps of two bytes per pixel, from masks to scores, exports and imports."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from infer.stand_ins import ConvSegmentor
from PIL import Image

from tests.raw_dataset import Prepared, outputs, run_prepare  # noqa: F401  fixtures
from vss.configs.resolve import resolve
from vss.configs.schema import read_section
from vss.configs.tta import Tta
from vss.core.codec import decode, encode
from vss.core.confusion import confusion_matrix
from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.index import read_dataset
from vss.core.label_space import ignore_index, label_dtype
from vss.core.labels import label_picture, overlay_palette
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.scores_file import ScoresReader
from vss.ensemble.run import _argmax
from vss.exchange.readers import votes
from vss.exchange.run import import_prediction
from vss.infer.engine import Engine
from vss.refine.proposals import Partitions
from vss.refine.ssa import vote_proposals
from vss.refine.temporal import PredictedFrame, TemporalSettings, smooth
from vss.refine.tubes import MaskedFrame, TubesSettings, vote_in_tubes
from vss.score.folders import score_folder
from vss.score.shard import score_shard
from vss.score.summary import summarise
from vss.score.video import VideoCounter
from vss.submit.export import export_prediction

CLASSES, VOID = 300, 65_535
SIZE = (24, 32)


def blocks(rng: np.random.Generator, highest: int) -> np.ndarray:
    """Returns a label map [24, 32] uint16 of blocks of 8x8 pixels, some of them without a class."""
    ids = rng.integers(0, highest, (3, 4)).astype(np.uint16)
    ids[rng.random(ids.shape) < 0.1] = VOID
    return ids.repeat(8, axis=0).repeat(8, axis=1)


@pytest.fixture
def prepared(tmp_path: Path, run_prepare: Callable[..., Prepared]) -> Prepared:  # noqa: F811
    """Prepares two clips of three frames in val and one in train, with 16-bit masks of 300 classes."""
    root, rng = tmp_path / "many", np.random.default_rng(0)
    for clip, frames in {"train/a": 1, "val/b": 3, "val/c": 3}.items():
        split, video = clip.split("/")
        for number in range(frames):
            for kind, array in (("images", np.zeros((*SIZE, 3), np.uint8)), ("masks", blocks(rng, CLASSES))):
                path = root / split / video / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    with open(root / "classes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "name"), *((number, f"class {number}") for number in range(CLASSES))])
    pattern = "{split}/{video}/%s/{frame}.png"
    return run_prepare(root, dataset="many", images=pattern % "images", masks=pattern % "masks", classes="classes.csv")


def test_from_masks_to_scores_exports_and_imports(prepared: Prepared, tmp_path: Path) -> None:
    # Masks are read in two bytes, 255 a class like any other.
    table, card = read_dataset(prepared.index, prepared.card)
    rows = table[table["split"] == "val"]
    truth = {(row.video, row.frame): card.read_mask(row.mask) for row in rows.itertuples()}
    assert len(card.classes) == CLASSES and all(mask.dtype == np.uint16 for mask in truth.values())
    assert max(mask[mask != VOID].max() for mask in truth.values()) > 255 and not card.label_map.count(255) > 1

    # A stored prediction: the truth, but for a fifth of the pixels.
    rng = np.random.default_rng(1)
    folder = prepared.index.parents[2] / "predictions" / "peer" / "val"
    folder.mkdir(parents=True)
    predicted, provenance = {}, {"index_sha256": card.sha256}
    with LabelsWriter(folder / "0.labels.h5", classes=card.classes, provenance=provenance) as writer:
        for key, mask in truth.items():
            other = (rng.random(SIZE) < 0.2) | (mask == VOID)
            predicted[key] = np.where(other, rng.integers(0, CLASSES, SIZE), mask).astype(np.uint16)
            writer.write(*key, predicted[key])
    with LabelsReader(folder / "0.labels.h5") as reader:
        assert np.array_equal(reader.read("b", "1"), predicted["b", "1"])

    # Its scores are those of the definition.
    dataset = {"index": prepared.index, "card": prepared.card}
    where = {"split": "val", "shard": 0, "shards": 1}
    score_shard(labels=folder / "0.labels.h5", **dataset, **where, out=tmp_path / "0.npz", flow="dis")
    out = {name: tmp_path / f"{name}.file" for name in ("scores", "per_class", "per_video")}
    summarise(shards=[tmp_path / "0.npz"], card=prepared.card, **out)
    all_truth, all_labels = (np.stack([each[key] for key in truth]) for each in (truth, predicted))
    ious = [
        ((all_labels == c) & (all_truth == c)).sum()
        / (((all_labels == c) & (all_truth != VOID)) | (all_truth == c)).sum()
        for c in np.unique(all_truth[all_truth != VOID])
    ]
    scores = read_json(out["scores"])
    assert scores["mIoU"] == pytest.approx(np.mean(ious)) and 0.3 < scores["mIoU"] < 0.9

    # Exported, and imported again, it is the same: as PNGs of 16 bits, which are scored, and as COCO's segments.
    for form, layout in (("png", {"labels": "{}"}), ("coco-panoptic", {"labels": "{}", "layout": "coco_panoptic"})):
        exported = tmp_path / form
        export_prediction(prediction=folder, form=form, out=exported)
        files = [tmp_path / f"{form}.labels.h5", tmp_path / f"{form}.scores.h5"]
        settings = {key: value.format(exported) for key, value in layout.items()}
        import_prediction(settings=settings, **dataset, **where, out=files)
        with LabelsReader(files[0]) as reader, ScoresReader(files[1]) as probabilities:
            assert all(np.array_equal(reader.read(*key), labels) for key, labels in predicted.items())
            assert np.array_equal(probabilities.read("c", "2").argmax(axis=0), predicted["c", "2"])
    again = score_folder(tmp_path / "png", prepared.index.parent, split="val")
    assert again["mIoU"] == scores["mIoU"]
    export_prediction(prediction=folder, form="submission", out=tmp_path / "many.zip")


@pytest.mark.parametrize(
    ("value", "most", "message"),
    [
        (CLASSES, 4096, r"holds the id 300; train ids are 0\.\.299, and 65535 for no class"),
        (0, 299, "many: has 300 classes, at most 299 can be scored; merge some by train_name"),
    ],
)
def test_a_mistake_is_one_line(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: int, most: int, message: str
) -> None:
    monkeypatch.setattr("vss.score.shard.MOST_COUNTED_CLASSES", most)
    for key in ("b/0", "b/1", "b/2", "c/0", "c/1", "c/2"):
        path = tmp_path / "peer" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(SIZE, value, np.uint16)).save(path)
    with pytest.raises(UserError, match=message):
        score_folder(tmp_path / "peer", prepared.index.parent)


def test_limits_of_the_two_kinds() -> None:
    assert [str(label_dtype(number)) for number in (1, 255, 256, 65_534)] == ["uint8", "uint8", "uint16", "uint16"]
    assert [ignore_index(label_dtype(number)) for number in (255, 256)] == [255, VOID]
    assert len(np.unique(overlay_palette(num_classes=CLASSES)[:CLASSES], axis=0)) == CLASSES
    assert label_picture(np.full(SIZE, 299, np.uint16), overlay_palette()).mode == "I;16"


def widened(labels: np.ndarray) -> np.ndarray:
    """Returns a label map of one byte as one of two: other ids in the same order, no class staying none."""
    return np.where(labels == 255, VOID, labels.astype(np.uint16) * 30 + 200).astype(np.uint16)


def test_counts_are_those_of_one_byte() -> None:
    rng = np.random.default_rng(3)
    narrow, wide = VideoCounter(0, 3), VideoCounter(0, CLASSES)
    truth = blocks(rng, 3).astype(np.uint8)  # 65535 becomes 255
    for _ in range(9):
        labels = np.where(rng.random(SIZE) < 0.1, rng.integers(0, 3, SIZE), truth).astype(np.uint8)
        truth = np.where(rng.random(SIZE) < 0.02, 1, truth).astype(np.uint8)
        narrow.add(raw=truth, truth=truth, labels=labels)
        wide.add(raw=widened(truth), truth=widened(truth), labels=widened(labels))
    found, expected = wide.tables(), narrow.tables()
    for name in ("windows", "frame_pixels", "trimap"):
        assert np.array_equal(found[name], expected[name]), name
    for name, column in (("persistent", 3), ("boundary", 1)):
        expected[name][:, column] = widened(expected[name][:, column])
        assert len(found[name]) and np.array_equal(found[name], expected[name]), name
    ids = [200, 230, 260]
    assert np.array_equal(wide.confusion[np.ix_(ids, [*ids, CLASSES])], narrow.confusion)
    assert wide.confusion.sum() == narrow.confusion.sum() > 0
    assert np.array_equal(confusion_matrix(widened(labels), widened(truth), CLASSES).sum(), (truth != 255).sum())
    with pytest.raises(UserError, match=r"prediction has a value outside 0\.\.299 and 65535"):
        confusion_matrix(widened(labels) + np.uint16(50), widened(truth), CLASSES)


def test_votes_are_those_of_one_byte() -> None:
    rng = np.random.default_rng(4)
    still = (np.zeros((6, 8, 2), np.float32),) * 2
    grey, maps = np.full(SIZE, 90, np.uint8), Partitions.from_label_maps([np.arange(768).reshape(SIZE) // 40])
    frames = [rng.integers(0, 3, SIZE).astype(np.uint8) for _ in range(4)]
    frames[1][:5] = 255
    temporal = read_section(TemporalSettings, "temporal", {}, where="refine temporal")
    tubes = read_section(TubesSettings, "tubes", {"keep_area": 4}, where="refine tubes")

    def voted(labels: list[np.ndarray]) -> list[np.ndarray]:
        flows = [still] * (len(labels) - 1) + [None]
        pairs = list(zip(labels, flows, strict=True))
        smoothed = smooth((PredictedFrame("v", each, grey, flow) for each, flow in pairs), temporal)
        in_tubes = vote_in_tubes((MaskedFrame("v", each, maps, flow) for each, flow in pairs), tubes)
        return [*smoothed, *in_tubes, *(vote_proposals(each, maps, keep_area=9, min_purity=0.3) for each in labels)]

    for narrow, wide in zip(voted(frames), voted([widened(each) for each in frames]), strict=True):
        assert wide.dtype == np.uint16 and np.array_equal(wide, widened(narrow))


def test_probabilities_are_stored_and_averaged() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, (6, 8)).repeat(4, axis=0).repeat(4, axis=1)
    dense = np.full((CLASSES, *SIZE), 0.2 / (CLASSES - 1), np.float32)
    np.put_along_axis(dense, labels[None], 0.8, 0)
    planes = decode(encode(dense))
    assert planes.labels.dtype == np.uint16 and np.array_equal(planes.labels, labels)
    assert np.abs(planes.dense() - dense).max() < 0.01
    assert np.array_equal(_argmax(np.concatenate([planes.planes, planes.rest[None]]), planes.classes, CLASSES), labels)


@pytest.mark.parametrize(("classes", "ignored"), [(255, {}), (CLASSES, {"ignore_index": VOID})])
def test_a_training_ignores_what_has_no_class(classes: int, ignored: dict[str, int]) -> None:
    space = {"name": "many", "classes": [f"class {number}" for number in range(classes)]}
    config = resolve({"config": "upernet_convnext-nano_vspw", "label_space": space})
    crop = next(each for each in config.train_pipeline if each["type"] == "RandomCrop")
    heads = [config.model.decode_head, config.model.auxiliary_head]
    found = [{key: each[key] for key in ("ignore_index",) if key in each} for each in (crop, *heads)]
    assert found == [ignored] * 3
    assert config.model.data_preprocessor.seg_pad_val == ignore_index(label_dtype(classes))


def test_a_model_predicts_them() -> None:
    engine = Engine(ConvSegmentor(classes=CLASSES), tta=Tta(), mean=(0, 0, 0), std=(1, 1, 1))
    frames = [engine.resize(np.full((*SIZE, 3), grey, np.uint8)) for grey in (0, 200)]
    found = engine.predict(frames, with_probabilities=True)
    assert found.labels.dtype == torch.uint16
    assert np.array_equal(found.labels.numpy(), found.probabilities.argmax(1).numpy())


def test_a_single_class_is_stored_too() -> None:
    planes = decode(encode(np.ones((1, *SIZE), np.float32)))
    assert planes.dense() == pytest.approx(1, abs=1e-5) and not planes.labels.any()
    labels = np.zeros(SIZE, np.uint8)
    labels[0] = 255
    assert decode(votes(labels, 0.9, 1)).dense() == pytest.approx(1, abs=1e-5)
