"""What must hold for any videos: shards add up, flow is optional, a perfect prediction is perfect."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from drawn_clips import LOOKUP, clips, counted, counts_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_dataset import write_dataset, write_labels

from vss.cli import main
from vss.core.confusion import confusion_matrix
from vss.core.index import shard_of
from vss.core.labels import VSPW
from vss.score.boundary import TRIMAP_PIXELS, band_pixels
from vss.score.counts import TABLES, Counts, load_counts, merge_counts, save_counts
from vss.score.summary import overall_scores


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(videos=clips(), shards=st.integers(1, 6), data=st.data())
def test_shards_add_up_to_the_whole(videos, shards, data):
    parts = []
    for member in range(shards):
        mine = {name: clip for name, clip in videos.items() if shard_of(name, shards) == member}
        parts.append(counts_of(mine, shards, member))
    whole = counts_of(videos, 1, 0)
    summed = merge_counts(data.draw(st.permutations(parts)))
    assert _same(summed, merge_counts([whole]))
    assert repr(overall_scores(summed)) == repr(overall_scores(whole)), "to the last bit, in any order of videos"


def _same(one: Counts, other: Counts) -> bool:
    return one.videos == other.videos and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("frames", "trimap", *TABLES)
    )


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_the_truth_scores_one(videos):
    perfect = {
        name: (raw, np.where(LOOKUP[raw] == 255, 5, LOOKUP[raw]).astype(np.uint8)) for name, (raw, _) in videos.items()
    }
    scores = overall_scores(counts_of(perfect, 1, 0))
    for value in (
        scores["mIoU"],
        scores["fwIoU"],
        scores["pixel_acc"],
        scores["strict"]["VC8_correct"],
        scores["VC16"],
        scores["VC16_dvis"],
        scores["VEC8"],
        scores["VEC16"],
        scores["mBIoU"],
        scores["trimap_acc"],
    ):
        assert value == pytest.approx(1) or np.isnan(value)


@settings(max_examples=20, deadline=None)
@given(videos=clips())
def test_counts_survive_the_disk(videos, tmp_path_factory):
    counts = dataclasses.replace(counts_of(videos, 3, 1), unrefined=2, changed=(4, 1, 0))
    path = tmp_path_factory.mktemp("counts") / "x.npz"
    save_counts(path, counts)
    first = path.read_bytes()
    again = load_counts(path)
    assert _same(counts, again)
    no_tables = dict.fromkeys(("frames", "trimap", *TABLES), 0)
    assert dataclasses.replace(again, **no_tables) == dataclasses.replace(counts, **no_tables)
    save_counts(path, again)
    assert path.read_bytes() == first


def test_counts_of_an_earlier_version_are_read(tmp_path):
    """Version 2 had no frames, no occlusion and no calibration."""
    clip = {"a": (np.ones((9, 2, 3), np.uint8), np.zeros((9, 2, 3), np.uint8))}
    counts = counts_of(clip, 1, 0)
    save_counts(tmp_path / "3.npz", counts)
    with np.load(tmp_path / "3.npz") as file:
        about = json.loads(file["about"].tobytes()) | {"version": 2}
        del about["frame_names"]
        old = {name: file[name] for name in file.files if name not in ("visible_cells", "frame_pixels", "calibration")}
    old["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(tmp_path / "2.npz", **old)
    found = load_counts(tmp_path / "2.npz")
    assert found.frame_names == () and len(found.frame_pixels) == 0
    assert repr(overall_scores(found)) == repr(overall_scores(counts))


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_frames_add_up_to_the_video(videos):
    for raw, labels in videos.values():
        counter = counted(raw, labels)
        frames = counter.tables()["frame_pixels"]
        assert frames[:, 1].tolist() == list(range(len(raw)))
        right = (LOOKUP[raw] == labels) & (LOOKUP[raw] != 255)
        assert frames[:, 3].tolist() == right.sum(axis=(1, 2)).tolist()
        assert frames[:, 2].sum() == counter.confusion.sum()


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_windows_equal_the_definition(videos):
    """Window by window, written down as the definition reads."""
    for raw, labels in videos.values():
        tables = counted(raw, labels).tables()
        for length, _, start, official, official_kept, *_, strict, strict_kept, correct in tables["windows"]:
            window = slice(start, start + length)
            constant = (raw[window] == raw[start]).all(axis=0)
            kept = (labels[window] == labels[start]).all(axis=0)
            with_class = constant & (LOOKUP[raw[start]] != 255)
            right = (labels[window] == LOOKUP[raw[window]]).all(axis=0)
            assert (official, official_kept) == (constant.sum(), (constant & kept).sum())
            assert (strict, strict_kept) == (with_class.sum(), (with_class & kept).sum())
            assert correct == (with_class & right).sum()
        expected = sum(max(0, len(raw) - length + 1) for length in (8, 16))
        assert len(tables["windows"]) == expected


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_persistent_classes_equal_the_definition(videos):
    for raw, labels in videos.values():
        expected = []
        for length in (8, 16):
            for start in range(len(raw) - length + 1):
                truth, predicted = LOOKUP[raw[start : start + length]], labels[start : start + length]
                known = (truth != 255).all(axis=0)
                for class_id in range(VSPW.num_classes):
                    in_truth = (truth == class_id).all(axis=0)
                    in_labels = (predicted == class_id).all(axis=0) & known
                    pixels = (in_truth.sum(), in_labels.sum(), (in_truth & in_labels).sum())
                    if any(pixels):
                        expected.append((length, 0, start, class_id, *map(int, pixels)))
        assert sorted(map(tuple, counted(raw, labels).tables()["persistent"].tolist())) == expected


def test_boundaries_equal_erosion_of_every_class():
    """Class by class as boundary_iou_api does it: the mask, padded with zeros, without its erosion."""
    rng = np.random.default_rng(2)
    square = np.ones((3, 3), np.uint8)
    small = [np.array([0, 1, 2, 124, 255], np.uint8)[rng.integers(0, 5, (5, 7))] for _ in range(2)]
    raw, labels = (np.kron(each, np.ones((12, 12), np.uint8)) for each in small)
    labels = np.where(labels == 124, 7, labels).astype(np.uint8)
    truth = LOOKUP[raw]
    width = band_pixels(*raw.shape)
    assert width == round(0.02 * np.hypot(*raw.shape)) > 1

    def band(mask):
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return mask & ~cv2.erode(padded, square, iterations=width)[1:-1, 1:-1].astype(bool)

    tables = counted(raw[None], labels[None]).tables()
    found = {class_id: tuple(pixels) for _, class_id, *pixels in tables["boundary"].tolist()}
    assert len(found) >= 4
    for class_id in range(VSPW.num_classes):
        in_truth = band(truth == class_id)
        in_labels = band((labels == class_id) & (truth != 255))
        pixels = tuple(int(part.sum()) for part in (in_truth, in_labels, in_truth & in_labels))
        assert found.get(class_id, (0, 0, 0)) == pixels
    near = cv2.dilate(truth, np.ones((2 * TRIMAP_PIXELS + 1,) * 2)) != cv2.erode(
        truth, np.ones((2 * TRIMAP_PIXELS + 1,) * 2)
    )
    near &= truth != 255
    assert tables["trimap"].tolist() == [[near.sum(), (near & (truth == labels)).sum()]]


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_a_video_counts_the_confusion_of_its_frames(videos):
    for raw, labels in videos.values():
        expected = confusion_matrix(labels, LOOKUP[raw], VSPW.num_classes)
        np.testing.assert_array_equal(counted(raw, labels).confusion, expected)


def test_flow_follows_a_moving_picture(score):
    """A picture that moves three pixels per frame with its labels: TC along the flow is far above TC without."""
    rng = np.random.default_rng(0)
    texture = np.repeat(np.repeat(rng.integers(0, 256, (24, 40, 3), np.uint8), 4, 0), 4, 1)
    labels = (np.indices((96, 160)).sum(axis=0) // 12 % 5).astype(np.uint8)
    images = [np.ascontiguousarray(texture[:, 3 * step : 3 * step + 120]) for step in range(5)]
    maps = [np.ascontiguousarray(labels[:, 3 * step : 3 * step + 120]) for step in range(5)]
    videos = {"a": [frame + 1 for frame in maps]}
    moving = score(videos, {"a": maps}, images={"a": images}, flow="dis").scores
    still = score(videos, {"a": maps}, images={"a": [images[0]] * 5}, flow="dis").scores
    assert moving["TC_dis"] > still["TC_dis"] + 0.2
    assert moving["TC_dis_first100"] == moving["TC_dis"]
    assert moving["TC_dis_visible"] > moving["TC_dis"], "what leaves the frame is no class 0"
    assert "TC_dis" not in score(videos, {"a": maps}).scores


def test_the_command_counts_flow_where_asked(tmp_path):
    maps = {"a": [np.zeros((16, 24), np.uint8)] * 3}
    dataset = write_dataset(tmp_path, {"a": [frame + 1 for frame in maps["a"]]})
    files = {"labels": write_labels(tmp_path / "0.labels.h5", maps), "index": dataset.index, "card": dataset.card}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    words += ["--split", "val", "--shard", "0", "--shards", "1"]
    for name, flow in (("with", ["--flow", "dis"]), ("without", [])):
        assert main(["score-shard", *words, "--out", str(tmp_path / f"{name}.npz"), *flow]) == 0
    assert load_counts(tmp_path / "with.npz").flow_cells[:, 1:].tolist() == [[0, 0, 2 * 16 * 24]]
    assert load_counts(tmp_path / "without.npz").flow is None
