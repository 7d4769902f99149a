"""Pseudo-labels are a prepared dataset that trainings read; what may be labelled is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ensemble.drawn_members import write_scores
from mmcv.transforms import RandomFlip
from mmseg.datasets.transforms import RandomCrop
from tiny_dataset import write_dataset

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.index import read_card, read_dataset
from vss.core.labels import VSPW
from vss.pseudo.run import pseudo
from vss.train.datasets import IndexDataset, LoadIndexImage, LoadIndexLabels, LoadNegatives, PackIndexSample

SIZE = (12, 20)
UNLABELLED = [("a", 1), ("a", 2), ("b", 0)]


def scores_of(labels: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Probabilities [C, H, W] of a prediction: `sure` for its label, the rest shared by the others."""
    C = len(VSPW.classes)
    dense = np.repeat(((1 - sure) / (C - 1))[None], C, 0).astype(np.float32)
    np.put_along_axis(dense, labels[None].astype(int), sure[None].astype(np.float32), 0)
    return dense


@pytest.fixture
def dataset(tmp_path: Path):
    """Two videos of train, of whose frames three have no mask."""
    masks = {"a": [np.full(SIZE, 9, np.uint8)] * 3, "b": [np.full(SIZE, 9, np.uint8)] * 2}
    return write_dataset(tmp_path / "data", masks, split="train", unlabelled=UNLABELLED)


@pytest.fixture
def teacher(dataset) -> dict:
    rng = np.random.default_rng(0)
    found = {}
    for video, position in UNLABELLED:
        labels = np.where(np.arange(SIZE[1]) < 8, 2, 5).astype(np.uint8)[None].repeat(SIZE[0], 0)
        found[video, f"{position:08d}"] = scores_of(labels, rng.uniform(0.3, 0.95, SIZE))
    return found


def make(tmp_path: Path, dataset, scores: list, **settings) -> Path:
    folder = tmp_path / "made"
    pseudo(
        settings={"of": ["m.single"], **settings} if scores else settings,
        scores=scores,
        index=dataset.index,
        card=dataset.card,
        out_index=folder / "index.csv",
        out_card=folder / "dataset.json",
        summary=folder / "summary.json",
    )
    return folder


def test_unlabelled_frames_become_a_dataset_to_train_on(tmp_path, dataset, teacher):
    scores = write_scores(tmp_path / "0.scores.h5", teacher, list(VSPW.classes), "m.single")
    folder = make(tmp_path, dataset, [[scores]], keep=0.5, keep_of={VSPW.classes[5]: 1.0})
    table, card = read_dataset(folder / "index.csv", folder / "dataset.json")
    assert [(row.video, int(row.frame), row.split) for row in table.itertuples()] == [
        (*key, "train") for key in UNLABELLED
    ]
    assert card.label_space == "vspw" and card.drawn

    # As a training reads them: train ids, half of class 2, all of class 5.
    files = {"index": folder / "index.csv", "card": folder / "dataset.json"}
    samples = IndexDataset(**files, split="train", pipeline=[LoadIndexImage(), LoadIndexLabels()])
    labels = np.stack([samples[i]["gt_seg_map"] for i in range(3)])
    assert samples[0]["img"].shape == (*SIZE, 3)
    left, right = labels[..., :8], labels[..., 8:]
    assert set(np.unique(left)) == {2, 255} and abs((left == 2).mean() - 0.5) < 0.01 and (right == 5).all()
    summary = read_json(folder / "summary.json")
    assert (summary["kept"][2], summary["kept"][5]) == ((left == 2).sum(), right.size)

    # The same labels give the same index, others another one.
    again = make(tmp_path, dataset, [[scores]], keep=0.5, keep_of={VSPW.classes[5]: 1.0})
    assert read_card(again / "dataset.json").sha256 == card.sha256
    assert read_card(make(tmp_path, dataset, [[scores]], keep=0.4) / "dataset.json").sha256 != card.sha256


def test_classes_that_are_ruled_out_go_through_a_training_s_transforms(tmp_path, dataset, teacher):
    """Where no label is kept, all but the two most probable classes are wrong; a crop, flipped, has them in place."""
    for key, dense in teacher.items():  # the second most probable class has all the rest
        sure, labels = dense.max(0), dense.argmax(0)
        teacher[key] = np.zeros_like(dense)
        np.put_along_axis(teacher[key], np.stack([labels, 7 - labels]), np.stack([sure, 1 - sure]), 0)
    scores = write_scores(tmp_path / "0.scores.h5", teacher, list(VSPW.classes), "m.single")
    folder = make(tmp_path, dataset, [[scores]], keep=0.5, negatives=True)
    pipeline = [
        *(LoadIndexImage(), LoadIndexLabels(), LoadNegatives(num_classes=124)),
        *(RandomCrop(crop_size=(8, 12)), RandomFlip(prob=1.0)),
        PackIndexSample(meta_keys=("frame",)),
    ]
    files = {"index": folder / "index.csv", "card": folder / "dataset.json"}
    samples = IndexDataset(**files, split="train", with_negatives=True, pipeline=pipeline)
    for each in (samples[i]["data_samples"] for i in range(3)):
        labels, which = each.gt_sem_seg.data, each.negatives.data
        assert labels.shape == which.shape == (1, 8, 12)
        assert ((labels == 255) == (which > 0)).all() and (which > 0).any()
        assert each.surely_wrong.shape[1] == 124 and not each.surely_wrong[which[which > 0] - 1][:, [2, 5]].any()


def test_frames_that_an_average_of_the_student_will_label_are_listed(tmp_path, dataset):
    folder = make(tmp_path, dataset, [], teacher="ema", least=0.9, stride=2)
    table, card = read_dataset(folder / "index.csv", folder / "dataset.json")
    assert list(zip(table["video"], table["frame"].astype(int), table["mask"], strict=True)) == [
        ("a", 2, ""),
        ("b", 0, ""),
    ]
    assert card.frames == {"train": 2} and read_json(folder / "summary.json")["frames"] == 2
    assert (folder / "masks").is_dir()  # the rule's output


def test_of_several_predictions_only_what_all_agree_on_is_kept(tmp_path, dataset, teacher):
    other = {key: np.roll(dense, 4, axis=2) for key, dense in teacher.items()}
    names = ["m.single", "n.single"]
    scores = [
        [write_scores(tmp_path / f"{name}.scores.h5", found, list(VSPW.classes), name)]
        for name, found in zip(names, (teacher, other), strict=True)
    ]
    folder = make(tmp_path, dataset, scores, of=names, keep=1.0)
    kept = read_json(folder / "summary.json")["kept"]
    # Shifted by four columns of twenty, they agree on 4 + 8 columns.
    assert sum(kept) == 3 * SIZE[0] * 12


def test_a_teacher_that_is_wrong_is_not_amplified(tmp_path, dataset, teacher):
    """Of an unsure region labelled wrongly, less is kept than the teacher has wrong."""
    rng = np.random.default_rng(1)
    truth = np.where(np.arange(SIZE[1]) < 8, 2, 5)[None].repeat(SIZE[0], 0)
    for key in teacher:
        wrong = rng.random(SIZE) < 0.3
        labels = np.where(wrong, 9 - truth // 2, truth).astype(np.uint8)
        teacher[key] = scores_of(labels, np.where(wrong, rng.uniform(0.3, 0.7, SIZE), rng.uniform(0.5, 0.95, SIZE)))
    scores = write_scores(tmp_path / "0.scores.h5", teacher, list(VSPW.classes), "m.single")
    folder = make(tmp_path, dataset, [[scores]], keep=0.7, least=0.5)
    table, card = read_dataset(folder / "index.csv", folder / "dataset.json")
    labels = np.stack([card.read_mask(mask) for mask in table["mask"]])
    errors = (labels != truth[None])[labels != 255].mean()
    own = np.mean([dense.argmax(0) != truth for dense in teacher.values()])
    assert own > 0.25 and errors < 0.8 * own


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "pseudo.split: is 'test', which is scored; .* transductive"),
        ({"split": "val"}, "transductive: true, which every table will say"),
        ({"keep_of": {"no such": 0.5}}, "pseudo.keep_of: 'no such' is no class of vspw"),
        ({"keep": 2}, "pseudo.*keep: is 2, must be at most 1"),
        ({"split": "test", "transductive": True}, "nothing to label"),
    ],
)
def test_mistakes(tmp_path, dataset, teacher, settings, message):
    scores = write_scores(tmp_path / "0.scores.h5", teacher, list(VSPW.classes), "m.single")
    with pytest.raises(UserError, match=message):
        make(tmp_path, dataset, [[scores]], **settings)
