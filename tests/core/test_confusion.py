"""The confusion matrix, by hand and on the small real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vss.core.confusion import confusion_matrix, iou, mean_iou
from vss.core.errors import UserError
from vss.core.images import read_mask, read_raw_mask
from vss.core.labels import VSPW


def test_rows_are_the_truth_and_ignored_pixels_do_not_count() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 255]], np.uint8)
    labels = np.array([[0, 1, 1], [255, 0, 2]], np.uint8)
    expected = [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_array_equal(confusion_matrix(labels, truth, 3), expected)


@pytest.mark.parametrize("width", [1, 50], ids=["noise", "runs"])
def test_runs_of_equal_pixels_are_counted_as_single_pixels_are(width: int) -> None:
    truth, labels = (np.random.default_rng(seed).integers(0, 5, (20, 60)).repeat(width, axis=1) for seed in range(2))
    expected = np.zeros((5, 6), np.int64)
    np.add.at(expected, (truth, labels), 1)
    found = confusion_matrix(labels.astype(np.uint8), truth.astype(np.uint8), 5)
    np.testing.assert_array_equal(found, expected)


def test_iou_by_hand_and_the_two_conventions() -> None:
    # Class 0: 1 hit, 1 taken for class 2. Class 1: 1 hit, 1 missed. Class 2 is only predicted. Class 3 is nowhere.
    confusion = np.array([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(iou(confusion), [1 / 2, 1 / 2, 0, np.nan])
    assert mean_iou(confusion, "vspw") == 1 / 2
    assert mean_iou(confusion, "mmseg") == pytest.approx(1 / 3)


def test_no_labelled_pixel_gives_no_number() -> None:
    truth = np.full((2, 2), 255, np.uint8)
    confusion = confusion_matrix(np.zeros((2, 2), np.uint8), truth, 3)
    assert confusion.sum() == 0
    assert np.isnan(mean_iou(confusion))


@pytest.mark.parametrize("where", ["labels", "truth"])
def test_a_value_that_is_no_class_is_refused(where: str) -> None:
    maps = {"labels": np.zeros((2, 2), np.uint8), "truth": np.zeros((2, 2), np.uint8)}
    maps[where][0, 0] = 7
    with pytest.raises(UserError, match="outside"):
        confusion_matrix(num_classes=7, **maps)


def test_sizes_must_agree() -> None:
    with pytest.raises(UserError, match="size"):
        confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 3)


@pytest.mark.parametrize(
    ("net", "expected"),
    [("espnet_camvid", 0.6983), ("espnetv2_s2.0_cityscapes", 0.5684), ("espnet_q8_cityscapes", 0.3629)],
)
def test_real_predictions_reach_their_published_number(real_data: Path, net: str, expected: float) -> None:
    masks = real_data / "VSPW_480p" / "data" / "camvid_0016E5" / "mask"
    total = np.zeros((VSPW.num_classes, VSPW.num_classes + 1), np.int64)
    for path in sorted((real_data / "preds" / net / "camvid_0016E5").glob("*.png")):
        labels = VSPW.raw_to_train()[read_raw_mask(path)]  # 0 = "others" becomes 255: no class
        total += confusion_matrix(labels, read_mask(masks / path.name, VSPW.raw_to_train()), VSPW.num_classes)
    assert mean_iou(total) == pytest.approx(expected, abs=5e-5)
