"""What must hold for any videos: shards add up, flow is optional, a perfect prediction is perfect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_dataset import write_dataset, write_labels

from vss.cli import main
from vss.core.confusion import confusion_matrix
from vss.core.index import shard_of
from vss.core.labels import VSPW
from vss.score.consistency import VideoWindows
from vss.score.counts import Counts, cells_of, load_counts, merge_counts, save_counts
from vss.score.summary import overall_scores

LOOKUP = VSPW.raw_to_train()


def counts_of(videos: dict[str, tuple[np.ndarray, np.ndarray]], shards: int, member: int) -> Counts:
    cells, windows = [cells_of(np.zeros((0, 0)), 0)], [VideoWindows(0).table()]
    for number, (raw, labels) in enumerate(videos.values()):
        cells.append(cells_of(confusion_matrix(labels, LOOKUP[raw], 124), number))
        video = VideoWindows(number)
        for frame, predicted in zip(raw, labels, strict=True):
            video.add(raw=frame, truth=LOOKUP[frame], labels=predicted)
        windows.append(video.table())
    return Counts(
        split="val", shards=shards, members=(member,), classes=VSPW.classes, flow=None, videos=tuple(videos),
        frames=np.array([len(raw) for raw, _ in videos.values()], np.int64),
        cells=np.concatenate(cells), flow_cells=cells[0], windows=np.concatenate(windows),
    )  # fmt: skip


@st.composite
def clips(draw):
    """Videos with slowly changing masks and predictions, of 1 to 20 frames."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    videos = {}
    for name in names:
        shape = (int(rng.integers(1, 21)), 2, 3)
        raw = np.array([0, 1, 2, 124, 255], np.uint8)[rng.integers(0, 5, shape)]
        labels = np.array([0, 1, 123, 7, 255], np.uint8)[rng.integers(0, 5, shape)]
        for values in (raw, labels):
            for frame in range(1, shape[0]):
                values[frame] = np.where(rng.random(shape[1:]) < 0.9, values[frame - 1], values[frame])
        videos[name] = (raw, labels)
    return videos


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
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("frames", "cells", "flow_cells", "windows")
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
    ):
        assert value == pytest.approx(1) or np.isnan(value)


@settings(max_examples=20, deadline=None)
@given(videos=clips())
def test_counts_survive_the_disk(videos, tmp_path_factory):
    counts = counts_of(videos, 3, 1)
    path = tmp_path_factory.mktemp("counts") / "x.npz"
    save_counts(path, counts)
    first = path.read_bytes()
    again = load_counts(path)
    assert _same(counts, again)
    assert dataclasses.replace(again, frames=0, cells=0, flow_cells=0, windows=0) == dataclasses.replace(
        counts, frames=0, cells=0, flow_cells=0, windows=0
    )
    save_counts(path, again)
    assert path.read_bytes() == first


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_windows_equal_the_definition(videos):
    """Window by window, written down as the definition reads."""
    for raw, labels in videos.values():
        video = VideoWindows(0)
        for frame, predicted in zip(raw, labels, strict=True):
            video.add(raw=frame, truth=LOOKUP[frame], labels=predicted)
        for length, _, start, official, official_kept, *_, strict, strict_kept, correct in video.table():
            window = slice(start, start + length)
            constant = (raw[window] == raw[start]).all(axis=0)
            kept = (labels[window] == labels[start]).all(axis=0)
            with_class = constant & (LOOKUP[raw[start]] != 255)
            right = (labels[window] == LOOKUP[raw[window]]).all(axis=0)
            assert (official, official_kept) == (constant.sum(), (constant & kept).sum())
            assert (strict, strict_kept) == (with_class.sum(), (with_class & kept).sum())
            assert correct == (with_class & right).sum()
        expected = sum(max(0, len(raw) - length + 1) for length in (8, 16))
        assert len(video.table()) == expected


def test_flow_follows_a_moving_picture(score):
    """A picture that moves three pixels a frame with its labels: TC along the flow is far above TC without."""
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
