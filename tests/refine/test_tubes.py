"""Voting in tubes, on drawn scenes whose superpixels are the objects themselves: the vote is the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.refine.masks import run_lengths
from vss.configs.schema import read_section
from vss.core.codec import Planes
from vss.refine.proposals import Partitions
from vss.refine.soft_labels import SoftLabels
from vss.refine.tubes import MaskedFrame, TubesSettings, vote_in_tubes

SIZE, STEP = (48, 96), 4
GROUND, THING = 3, 7


def chosen(**settings) -> TubesSettings:
    return read_section(TubesSettings, "tubes", settings, where="refine tubes")


def moving_square(frames: int) -> tuple[list[MaskedFrame], list[np.ndarray]]:
    """Draws a square that moves over a ground, with exact flow; masks are numbered differently in every frame.

    Every third frame calls the square by another class.
    """
    video, truths = [], []
    for number in range(frames):
        truth = np.full(SIZE, GROUND, np.uint8)
        truth[16:32, 8 + STEP * number : 24 + STEP * number] = THING
        labels = truth.copy()
        if number % 3 == 1:
            labels[truth == THING] = 20 + number
        masks = (truth == THING) if number % 2 else (truth != THING)
        moved = (truth == THING)[::4, ::4, None] * np.float32([STEP, 0])
        back = -np.roll(moved, STEP // 4, axis=1)
        flow = (moved, back) if number + 1 < frames else None
        video.append(MaskedFrame("v", labels, Partitions.from_label_maps([masks]), flow))
        truths.append(truth)
    return video, truths


@pytest.mark.parametrize("window", [2, 100])
def test_a_tube_has_the_class_of_most_of_its_frames(window):
    video, truths = moving_square(9)
    for found, truth in zip(vote_in_tubes(video, chosen(window=window)), truths, strict=True):
        np.testing.assert_array_equal(found, truth)


def followed(video: list[MaskedFrame]) -> list[MaskedFrame]:
    """Gives ids to the two masks of every frame, whose order differs from frame to frame; there is no flow."""
    frames = []
    for number, frame in enumerate(video):
        thing = (frame.masks.maps[0] == 1) == bool(number % 2)
        order = [0, 1] if number % 2 else [1, 0]
        masks = run_lengths(np.stack([~thing, thing])[order], np.array([5, 2])[order])
        frames.append(MaskedFrame("v", frame.labels, masks, None, frame.scores))
    return frames


@pytest.mark.parametrize("window", [2, 100])
def test_objects_that_were_followed_are_tubes_without_flow(window):
    video, truths = moving_square(9)
    for found, truth in zip(vote_in_tubes(followed(video), chosen(window=window)), truths, strict=True):
        np.testing.assert_array_equal(found, truth)


def test_masks_vote_frame_by_frame_in_a_window_of_0():
    video, _ = moving_square(4)
    for found, frame in zip(vote_in_tubes(followed(video), chosen(window=0)), video, strict=True):
        np.testing.assert_array_equal(found, frame.labels)


def test_a_tube_lasts_while_its_object_is_out_of_sight():
    """Two frames right, one hidden, one wrong: with the first two the tube has its class."""
    shown = [np.full((1, 4, 4), True)] * 2 + [np.full((1, 4, 4), False), np.full((1, 4, 4), True)]
    labels = [np.full((4, 4), label, np.uint8) for label in (THING, THING, GROUND, 20)]
    frames = [
        MaskedFrame("v", known, run_lengths(mask, np.array([3])), None)
        for known, mask in zip(labels, shown, strict=True)
    ]
    found = list(vote_in_tubes(frames, chosen(window=3)))
    assert [int(frame[0, 0]) for frame in found] == [THING, THING, GROUND, THING]


def test_without_flow_every_frame_votes_alone():
    video, _ = moving_square(4)
    alone = [MaskedFrame("v", frame.labels, frame.masks, None) for frame in video]
    for found, frame in zip(vote_in_tubes(alone, chosen()), video, strict=True):
        np.testing.assert_array_equal(found, frame.labels)


def with_scores(frame: MaskedFrame, sure: float) -> MaskedFrame:
    """Returns a frame whose labels have the score `sure`, and THING the rest."""
    classes = np.unique([*np.unique(frame.labels), THING]).astype(np.uint8)
    planes = np.where(frame.labels == classes[:, None, None], sure, 0).astype(np.float32)
    planes[classes == THING] += 1 - sure
    scores = SoftLabels.of(Planes(classes, planes, np.zeros(SIZE, np.float32), frame.labels, 124))
    return replace(frame, scores=scores)


def test_scores_count_in_a_tube_by_how_sure_they_are():
    """Of three frames two call the square by a wrong class; where they are unsure of it, the third one decides."""
    video, truths = moving_square(3)
    wrong = np.where(truths[0] == THING, 20, truths[0]), np.where(truths[2] == THING, 20, truths[2])
    labels = [wrong[0], truths[1], wrong[1]]
    frames = [replace(frame, labels=found.astype(np.uint8)) for frame, found in zip(video, labels, strict=True)]
    by_labels = [np.where(truth == THING, 20, truth) for truth in truths]
    for sure, expected in (((0.7, 1.0, 0.7), truths), ((0.8, 1.0, 0.8), by_labels)):
        scored = [with_scores(frame, share) for frame, share in zip(frames, sure, strict=True)]
        for tubes in (scored, followed(scored)):
            for found, truth in zip(vote_in_tubes(tubes, chosen()), expected, strict=True):
                np.testing.assert_array_equal(found, truth)
    for found, truth in zip(vote_in_tubes(frames, chosen()), by_labels, strict=True):
        np.testing.assert_array_equal(found, truth)


def test_the_guards_of_ssa_hold():
    video, truths = moving_square(9)
    wrong = [frame for number, frame in enumerate(video) if number % 3 == 1]
    pure = list(vote_in_tubes(video, chosen(window=100, min_purity=0.7)))  # the tube is two thirds THING
    np.testing.assert_array_equal(pure[1], video[1].labels)
    kept = list(vote_in_tubes(video, chosen(window=100, keep_area=256)))
    np.testing.assert_array_equal(kept[1], video[1].labels)
    free = list(vote_in_tubes(video, chosen(window=100, keep_area=255)))
    np.testing.assert_array_equal(free[1], truths[1])
    assert len(wrong) == 3


def test_unknown_pixels_have_no_vote_and_no_class_becomes_unknown():
    video, truths = moving_square(5)
    unknown = np.full(SIZE, 255, np.uint8)
    frames = [MaskedFrame("v", unknown if n != 2 else truths[2], f.masks, f.flow) for n, f in enumerate(video)]
    for found, truth in zip(vote_in_tubes(frames, chosen()), truths, strict=True):
        np.testing.assert_array_equal(found, truth)
    assert (next(iter(vote_in_tubes(frames[:1], chosen()))) == 255).all()


def test_no_more_frames_are_read_than_the_window_needs():
    video, read = moving_square(9)[0], []

    def frames():
        for frame in video:
            read.append(frame)
            yield frame

    for number, _ in enumerate(vote_in_tubes(frames(), chosen(window=2))):
        assert len(read) <= min(number + 3, 9)
