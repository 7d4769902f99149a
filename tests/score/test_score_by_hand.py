"""The score stage on cases worked out by hand. Raw mask ids are train ids + 1; 0 and 255 have no class."""

from __future__ import annotations

import numpy as np
import pytest


def grid(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def still(frame: np.ndarray, frames: int) -> list[np.ndarray]:
    return [frame] * frames


def test_class_absent_but_predicted(score):
    # Truth: class 0 twice, class 1 twice. Predicted: 0, 7 / 1, 1. IoU 0: 1/2, 1: 2/2, 7: 0/1.
    scored = score({"a": [grid([1, 1], [2, 2])]}, {"a": [grid([0, 7], [1, 1])]})
    assert scored.scores["mIoU"] == pytest.approx((1 / 2 + 1) / 2)
    assert scored.scores["mIoU_mmseg"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scored.scores["pixel_acc"] == pytest.approx(3 / 4)
    assert scored.scores["pixel_acc_class"] == pytest.approx((1 / 2 + 1) / 2)
    assert scored.scores["fwIoU"] == pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 1)
    assert scored.scores["counts"]["classes_in_truth"] == 2
    assert scored.scores["counts"]["classes_only_predicted"] == 1
    row = scored.per_class.set_index("class_id").loc[7]
    assert (row["iou"], row["precision"], row["pixels_predicted"]) == (0, 0, 1)
    assert np.isnan(row["recall"])


def test_what_the_missed_pixels_of_a_class_are_taken_for_is_named(score):
    # Ten pixels of class 0: five right, two are 3, one each is 5, 9 and no class; class 1 is all right.
    labels = [0, 0, 0, 0, 0, 3, 3, 5, 255, 9, 1]
    scored = score({"a": [grid([1] * 10 + [2])]}, {"a": [grid(labels)]})
    row = scored.per_class.set_index("class_id")["taken_for"]
    assert row[0] == "stair 20.0%; escalator 10.0%; rail 10.0%"
    assert row.isna()[1] and row.isna()[3]


def test_video_mean_weighs_videos_and_not_pixels(score):
    masks = {"a": [grid([1, 1])] * 3, "b": [grid([1, 2])]}
    labels = {"a": [grid([0, 0])] * 3, "b": [grid([1, 1])]}
    scored = score(masks, labels)
    assert scored.scores["video_mIoU"] == pytest.approx((1 + (0 + 1 / 2) / 2) / 2)
    assert scored.scores["mIoU"] == pytest.approx((6 / 7 + 1 / 2) / 2)
    assert scored.per_video["mIoU"].tolist() == pytest.approx([1, 1 / 4])


@pytest.mark.parametrize(("length", "other"), [(8, 16), (16, 8)])
def test_one_frame_more_than_the_window_makes_one_window(score, length, other):
    mask = grid([1, 2], [3, 4])
    changed = grid([0, 1], [2, 9])
    labels = [*still(grid([0, 1], [2, 3]), length - 1), changed, grid([5, 5], [5, 5])]
    scored = score({"a": still(mask, length + 1)}, {"a": labels})
    assert scored.scores["counts"]["windows"][f"VC{length}"] == 1
    # The only official window starts at 0 and holds `changed`, not the last frame: 3 of 4 pixels kept.
    assert scored.scores[f"VC{length}"] == pytest.approx(3 / 4)
    # The strict rule also counts the window with the last frame, where nothing is kept.
    assert scored.scores["strict"][f"VC{length}"] == pytest.approx((3 / 4 + 0) / 2)
    assert scored.scores["counts"]["windows"][f"VC{other}"] == max(0, length + 1 - other)


@pytest.mark.parametrize("frames", [1, 7, 8])
def test_videos_not_longer_than_the_window_have_none(score, frames):
    scored = score({"a": still(grid([1, 2]), frames)}, {"a": still(grid([0, 1]), frames)})
    assert scored.scores["counts"]["windows"] == {"VC8": 0, "VC16": 0}
    assert scored.scores["VC8"] is None and scored.scores["VC16"] is None
    assert scored.scores["strict"]["VC8"] == (1 if frames == 8 else None)
    assert np.isnan(scored.per_video["VC8"][0])


def test_constant_wrong_prediction_is_consistent(score):
    scored = score({"a": still(grid([1, 2], [3, 4]), 20)}, {"a": still(grid([9, 9], [9, 9]), 20)})
    assert scored.scores["mIoU"] == 0
    assert scored.scores["VC8"] == 1 and scored.scores["VC16"] == 1
    assert scored.scores["strict"]["VC8"] == 1
    assert scored.scores["strict"]["VC8_correct"] == 0


def test_flickering_prediction_is_not(score):
    labels = [grid([0, 1 + position % 2]) for position in range(9)]
    scored = score({"a": still(grid([1, 2]), 9)}, {"a": labels})
    assert scored.scores["VC8"] == 1 / 2


@pytest.mark.parametrize("void", [0, 252, 255])
def test_frames_without_a_class(score, void):
    scored = score({"a": still(grid([void, void]), 9)}, {"a": still(grid([0, 5]), 9)})
    for name in ("mIoU", "mIoU_mmseg", "fwIoU", "pixel_acc", "video_mIoU"):
        assert scored.scores[name] is None, name
    assert scored.scores["counts"]["pixels"] == 0
    assert scored.scores["VC8"] == 1, "the official rule compares raw values, void too"
    assert scored.scores["strict"]["VC8"] is None


def test_frames_without_a_class_add_nothing(score):
    masks, labels = {"a": [grid([1, 2])]}, {"a": [grid([0, 0])]}
    alone = score(masks, labels).scores
    both = score(masks | {"b": [grid([255, 255])]}, labels | {"b": [grid([7, 7])]}).scores
    for name in ("mIoU", "mIoU_mmseg", "fwIoU", "pixel_acc", "video_mIoU"):
        assert both[name] == alone[name], name


def test_others_and_void_are_two_values_or_one(score):
    masks = [grid([0, 1]), *still(grid([255, 1]), 16)]
    scored = score({"a": masks}, {"a": still(grid([3, 0]), 17)})
    labels_flicker = [grid([position % 2, 0]) for position in range(17)]
    flicker = score({"a": masks}, {"a": labels_flicker})
    assert scored.scores["VC16"] == 1 and scored.scores["cffm_compat"]["VC16"] == 1
    assert flicker.scores["VC16"] == 1, "pixel 0 goes from 0 to 255: not constant"
    assert flicker.scores["cffm_compat"]["VC16"] == 1 / 2, "merged, it is constant and the prediction is not"
    assert flicker.scores["strict"]["VC16"] == 1


def test_a_stray_value_is_void_to_strict_alone(score):
    masks = [grid([252 if position % 2 else 255, 1]) for position in range(17)]
    scored = score({"a": masks}, {"a": [grid([position % 2, 0]) for position in range(17)]}).scores
    # Pixel 0 flickers in the prediction. Were 252 and 255 one value, its truth would be constant, and VC 1/2.
    assert scored["VC16"] == scored["cffm_compat"]["VC16"] == scored["strict"]["VC16"] == 1
    constant = score(
        {"a": still(grid([252, 1]), 17)}, {"a": [grid([position % 2, 0]) for position in range(17)]}
    ).scores
    assert constant["VC16"] == constant["cffm_compat"]["VC16"] == 1 / 2
    assert constant["strict"]["VC16"] == 1


def test_cffm_leaves_out_short_videos(score):
    masks = {"long": still(grid([1, 2]), 17), "short": still(grid([1, 2]), 16)}
    labels = {"long": still(grid([0, 1]), 17), "short": still(grid([1, 0]), 16)}
    scored = score(masks, labels)
    assert scored.scores["cffm_compat"]["videos"] == 1
    assert scored.scores["cffm_compat"]["mIoU"] == 1
    assert scored.scores["mIoU"] < 1


def test_windows_are_pooled_over_videos(score):
    # Nine frames: one window. Eleven frames: three windows. Equal weight each.
    masks = {"a": still(grid([1, 2]), 9), "b": still(grid([1, 2]), 11)}
    labels = {"a": still(grid([0, 1]), 9), "b": [grid([0, position % 2]) for position in range(11)]}
    scored = score(masks, labels)
    assert scored.scores["VC8"] == pytest.approx((1 + 3 * 1 / 2) / 4)
    assert scored.per_video["VC8"].tolist() == [1, 1 / 2]
    for name in ("VC16_dvis", "VC8_cffm", "VC8_strict"):
        assert scored.per_video[name].tolist() == [1, 1 / 2], name
    # Of the second video's second pixel every other frame is right, and the windows that end there.
    assert scored.per_video["VC8_correct"].tolist() == [1, 1 / 2]
    assert scored.per_video["mIoU_mmseg"].tolist() == pytest.approx([1, (11 / 17 + 5 / 11) / 2])
    assert scored.per_video["VEC8"].tolist() == pytest.approx([1, 1 / 2])


def test_windows_do_not_span_a_change_of_size(score):
    masks = {"a": [*still(grid([1, 2]), 9), *still(grid([1, 2, 3]), 9)]}
    labels = {"a": [*still(grid([0, 1]), 9), *still(grid([0, 1, 2]), 9)]}
    scored = score(masks, labels)
    # Eleven windows start at 0..10; those at 2..8 hold frames of both sizes.
    assert scored.scores["counts"]["windows"]["VC8"] == 3
    assert scored.scores["VC8"] == 1


def test_unknown_pixels_are_missed_pixels(score):
    scored = score({"a": [grid([1, 1, 2, 2])]}, {"a": [grid([0, 255, 1, 1])]})
    assert scored.scores["mIoU"] == pytest.approx((1 / 2 + 1) / 2)
    assert scored.scores["mIoU_mmseg"] == scored.scores["mIoU"]
    assert scored.scores["pixel_acc"] == pytest.approx(3 / 4)


def test_a_constant_wrong_prediction_is_not_effective(score):
    # Class 0 is kept by both on 1 of 2 pixels, class 1 by the truth alone, class 9 by the prediction alone.
    scored = score({"a": still(grid([1, 1, 2]), 8)}, {"a": still(grid([0, 9, 9]), 8)}).scores
    assert scored["strict"]["VC8"] == 1
    assert scored["VEC8"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert scored["VEC16"] is None


def test_a_pixel_that_was_void_persists_nowhere(score):
    masks = [*still(grid([1, 2]), 7), grid([1, 255])]
    scored = score({"a": masks}, {"a": still(grid([0, 1]), 8)}).scores
    assert scored["VEC8"] == 1, "of class 1 nothing persists in either"


def test_boundary_iou_by_hand(score):
    # 1 x 4 pixels: the band is a pixel wide, and every pixel of a row of one pixel lies at the edge of the image.
    scored = score({"a": [grid([1, 1, 2, 2])]}, {"a": [grid([0, 0, 0, 1])]})
    assert scored.scores["mBIoU"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scored.scores["trimap_acc"] == pytest.approx(3 / 4)
    assert scored.per_class["boundary_iou"].dropna().tolist() == pytest.approx([2 / 3, 1 / 2])
    inner = np.full((9, 9), 1, np.uint8)
    wrong = np.zeros((9, 9), np.uint8)
    wrong[4, 4] = 5  # far from the edge: not in the truth's band, in that of the prediction
    middle = score({"a": [inner]}, {"a": [wrong]}).scores
    assert middle["trimap_acc"] is None
    # The truth's band is the outer ring of 32; the prediction's also has the 8 around the wrong pixel, as class 0.
    assert middle["mBIoU"] == pytest.approx(32 / 40)


def test_frames_without_a_mask_are_not_scored_and_end_a_window(score):
    # Nine frames, one without a mask, nine frames; video b has none. What is predicted where no mask is does not count.
    mask, right, wrong = grid([1, 2], [3, 4]), grid([0, 1], [2, 3]), grid([9, 9], [9, 9])
    masks = {"a": still(mask, 19), "b": still(mask, 3)}
    labels = {"a": [*still(right, 9), wrong, *still(right, 9)], "b": still(wrong, 3)}
    scored = score(masks, labels, unlabelled=[("a", 9), *(("b", frame) for frame in range(3))])
    assert scored.scores["mIoU"] == 1 and scored.scores["pixel_acc"] == 1
    assert scored.scores["counts"]["frames"] == 18 and scored.scores["counts"]["videos"] == 1
    # Windows of 8: two in each nine; of the last one, which the official rule leaves out, strict counts both.
    assert scored.scores["counts"]["windows"] == {"VC8": 3, "VC16": 0}
    assert scored.scores["VC8"] == 1 and scored.scores["strict"]["VC8"] == 1 and scored.scores["VC16"] is None
    assert scored.per_video["frames"].tolist() == [18]
