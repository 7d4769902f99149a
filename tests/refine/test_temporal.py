"""The vote among neighbouring frames, on drawn scenes whose truth is known, and its flow file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vss.configs.schema import read_section
from vss.core.codec import Planes
from vss.flow.run import cell_means
from vss.refine import temporal
from vss.refine.soft_labels import SoftLabels
from vss.refine.temporal import PredictedFrame, TemporalSettings, agreement, smooth

HEIGHT, WIDTH = 96, 128
GROUND, THING, POLE = 3, 7, 11
STILL = (np.zeros((HEIGHT // 4, WIDTH // 4, 2), np.float32),) * 2  # flow of a scene in which nothing moves
Video = list[tuple[np.ndarray, np.ndarray]]  # (grey image, labels) per frame


def texture(seed: int, low: int, high: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Draws smooth noise between two grey levels."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(size).astype(np.float32), (0, 0), 2)
    return cv2.normalize(noise, None, low, high, cv2.NORM_MINMAX).astype(np.uint8)


def moving_square(frames: int, *, step: int = 3, side: int = 32) -> Video:
    """Draws a bright textured square that moves to the right over a dark textured ground."""
    ground, thing = texture(0, 20, 90), texture(1, 150, 250, (side, side))
    video = []
    for number in range(frames):
        image, labels, left = ground.copy(), np.full((HEIGHT, WIDTH), GROUND, np.uint8), 8 + step * number
        image[30 : 30 + side, left : left + side] = thing
        labels[30 : 30 + side, left : left + side] = THING
        video.append((image, labels))
    return video


def flickering(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns the labels with a few blocks of another class, elsewhere in every frame."""
    rng, noisy = np.random.default_rng(seed), labels.copy()
    for _ in range(6):
        top, left = rng.integers(0, HEIGHT - 9), rng.integers(0, WIDTH - 9)
        noisy[top : top + 9, left : left + 9] = 20
    return noisy


def with_flow(*videos: Video) -> Iterator[PredictedFrame]:
    """Yields the videos' frames with DIS flow between them, as the stage reads it."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for name, video in enumerate(videos):
        for number, (image, labels) in enumerate(video):
            flow = None
            if number + 1 < len(video):
                following = video[number + 1][0]
                flow = tuple(cell_means(dis.calc(*pair, None)) for pair in ((image, following), (following, image)))
            yield PredictedFrame(video=str(name), labels=labels, image=image, flow=flow)


def chosen(**settings) -> TemporalSettings:
    return read_section(TemporalSettings, "temporal", settings, where="refine temporal")


def smoothed(*videos: Video, **settings) -> list[np.ndarray]:
    return list(smooth(with_flow(*videos), chosen(**settings)))


def errors(refined: list[np.ndarray], truth: list[np.ndarray]) -> list[int]:
    return [int((found != expected).sum()) for found, expected in zip(refined, truth, strict=True)]


def test_a_static_scene_is_returned_unchanged():
    rng, image = np.random.default_rng(0), texture(0, 20, 220)
    labels = rng.integers(0, 5, (HEIGHT, WIDTH)).astype(np.uint8)
    labels[:, :4] = 255
    for found in smoothed([(image, labels)] * 6):
        np.testing.assert_array_equal(found, labels)


def test_flicker_is_voted_away_and_a_moving_object_keeps_its_edge():
    video = moving_square(9)
    truth = [labels for _, labels in video]
    assert errors(smoothed(video), truth) == [0] * 9
    noisy = [(image, flickering(labels, number)) for number, (image, labels) in enumerate(video)]
    before, after = (errors(found, truth) for found in ([labels for _, labels in noisy], smoothed(noisy)))
    assert sum(after) < 0.15 * sum(before)


def test_a_cut_leaks_nothing():
    first = [(texture(0, 20, 220), np.full((HEIGHT, WIDTH), 1, np.uint8))] * 4
    second = [(texture(5, 20, 220), np.full((HEIGHT, WIDTH), 2, np.uint8))] * 4
    for found, (_, labels) in zip(smoothed([*first, *second]), [*first, *second], strict=True):
        np.testing.assert_array_equal(found, labels)


def test_a_video_leaks_nothing_into_another():
    image = texture(0, 20, 220)
    videos = [[(image, np.full((HEIGHT, WIDTH), label, np.uint8))] * 3 for label in (1, 2)]
    found = smoothed(*videos)
    assert [np.unique(labels).tolist() for labels in found] == [[1]] * 3 + [[2]] * 3


def test_a_thin_pole_of_a_moving_camera_is_kept():
    video = []
    for number in range(9):
        image, labels = texture(0, 60, 140, (HEIGHT, WIDTH + 40)), np.full((HEIGHT, WIDTH + 40), GROUND, np.uint8)
        image[10:, 90:93], labels[10:, 90:93] = 230, POLE
        shown = np.s_[:, 2 * number : 2 * number + WIDTH]
        video.append((np.ascontiguousarray(image[shown]), np.ascontiguousarray(labels[shown])))
    for found, (_, labels) in zip(smoothed(video), video, strict=True):
        assert ((found == POLE) & (labels == POLE)).sum() >= 0.98 * (labels == POLE).sum()


@pytest.mark.parametrize("votes", ["labels", "scores"])
def test_a_thin_pole_missed_in_most_frames_stays_and_a_wide_one_does_not(votes):
    """Of nine still frames three have a pole; three times its votes outweigh the six without it.

    Class scores are counted as they are: they have shares for the pole in the other frames as well.
    """
    side = 144  # two of whose pixels are not thin
    image, still = texture(0, 20, 220, (side, side)), (np.zeros((side // 4, side // 4, 2), np.float32),) * 2
    for width, kept in ((1, 1), (2, 0)):
        video = []
        for number in range(9):
            labels = np.full((side, side), GROUND, np.uint8)
            if number % 3 == 0:
                labels[10:80, 50 : 50 + width] = POLE
            scores = soft(labels, 0.8) if votes == "scores" else None
            video.append(PredictedFrame("v", labels, image, still, scores))
        for settings, expected in (({}, kept if votes == "labels" else 0), ({"thin_weight": 1}, 0)):
            found = list(smooth(video, chosen(decay=1.0, **settings)))
            assert [(frame == POLE).sum() for frame in found] == [expected * 70 * width] * 9


def test_thin_is_a_class_by_most_of_its_pixels():
    """A class of a block and a line beside it is thin where the line has more pixels."""
    for length, weight in ((24, 1), (26, 3)):
        labels = np.full((360, 480), GROUND, np.uint16)  # five of its pixels are not thin
        labels[10:15, 10:15] = 300  # 25 pixels
        labels[40, 10 : 10 + length] = 300
        found = temporal._class_weights(labels, 3)
        assert found[300] == weight
        assert found[GROUND] == 1


def test_frames_a_second_apart_are_left_alone():
    """So much has moved that nothing is found again: every frame keeps its own labels."""
    video = [
        (texture(number, 20, 220), flickering(np.full((HEIGHT, WIDTH), number, np.uint8), 1)) for number in range(5)
    ]
    for found, (_, labels) in zip(smoothed(video), video, strict=True):
        np.testing.assert_array_equal(found, labels)


def test_unknown_pixels_do_not_vote_and_no_class_becomes_unknown():
    image, known = texture(0, 20, 220), np.full((HEIGHT, WIDTH), 4, np.uint8)
    unknown = np.full((HEIGHT, WIDTH), 255, np.uint8)
    assert all((found == 4).all() for found in smoothed([(image, unknown), (image, known), (image, unknown)]))
    assert all((found == 255).all() for found in smoothed([(image, unknown)] * 3))


def test_the_window_ends_where_the_settings_say():
    image = texture(0, 20, 220)
    labels = [np.full((HEIGHT, WIDTH), 1 if number == 3 else 2, np.uint8) for number in range(7)]
    video = [(image, frame) for frame in labels]
    assert np.unique(smoothed(video, window=1)[3]).tolist() == [2]
    alone = [labels[3]] + [np.full((HEIGHT, WIDTH), 1, np.uint8)] * 2 + [np.full((HEIGHT, WIDTH), 2, np.uint8)] * 4
    # Two voters of class 1 within the window, four of class 2 beyond it.
    assert np.unique(smoothed([(image, frame) for frame in alone], window=2)[0]).tolist() == [1]
    assert np.unique(smoothed([(image, frame) for frame in alone], window=6, decay=1.0)[0]).tolist() == [2]


def soft(labels: np.ndarray, sure: float) -> SoftLabels:
    """Returns class scores of which the labels have `sure` and class 9 has the rest."""
    classes = np.unique([*np.unique(labels), 9]).astype(np.uint8)
    planes = np.where(labels == classes[:, None, None], sure, 0).astype(np.float32)
    planes[classes == 9] += 1 - sure
    return SoftLabels.of(Planes(classes, planes, np.zeros(labels.shape, np.float32), labels, 124))


def test_scores_count_by_how_sure_they_are():
    """Three frames of a still scene: two unsure of class 1 against one that is sure of class 2."""
    image = texture(0, 20, 220)
    labels = [np.full((HEIGHT, WIDTH), label, np.uint8) for label in (1, 2, 1)]
    frames = [
        PredictedFrame("v", found, image, STILL, soft(found, sure))
        for found, sure in zip(labels, (0.55, 1.0, 0.55), strict=True)
    ]
    by_scores = list(smooth(frames, chosen(decay=0.9)))
    assert [np.unique(found).tolist() for found in by_scores] == [[1], [2], [1]]
    by_labels = list(smooth([replace(frame, scores=None) for frame in frames], chosen(decay=0.9)))
    assert [np.unique(found).tolist() for found in by_labels] == [[1]] * 3


def test_certain_scores_vote_as_labels_do():
    video = [(image, flickering(labels, number)) for number, (image, labels) in enumerate(moving_square(6))]
    frames = list(with_flow(video))
    certain = [replace(frame, scores=soft(frame.labels, 1.0)) for frame in frames]
    for labels, found in zip(smooth(frames, chosen()), smooth(certain, chosen()), strict=True):
        np.testing.assert_array_equal(labels, found)


def test_what_is_skipped_as_certain_changes_nothing(monkeypatch):
    """Against counting every cell, whatever its voters."""
    video = [(image, flickering(labels, number)) for number, (image, labels) in enumerate(moving_square(5))]
    frames = list(with_flow(video))
    skipped = list(smooth(frames, chosen(window=3)))
    monkeypatch.setattr(temporal, "_uniform_blocks", lambda labels: np.full_like(labels, 255))
    for labels, found in zip(skipped, smooth(frames, chosen(window=3)), strict=True):
        np.testing.assert_array_equal(labels, found)


def test_no_more_frames_are_read_than_the_window_needs():
    read = []
    image, labels = texture(0, 20, 220), np.zeros((HEIGHT, WIDTH), np.uint8)

    def frames():
        for number in range(20):
            read.append(number)
            yield PredictedFrame(video="v", labels=labels, image=image, flow=None)

    for number, _ in enumerate(smooth(frames(), chosen(window=3))):
        assert len(read) <= min(number + 4, 20)


@pytest.mark.parametrize("size", [(97, 129), (95, 126)])
def test_sides_need_not_be_whole_cells(size):
    image = texture(0, 20, 220, size)
    labels = (np.arange(size[0] * size[1]) % 7).astype(np.uint8).reshape(size)
    for found in smoothed([(image, labels)] * 3):
        np.testing.assert_array_equal(found, labels)


def test_frames_agree_where_their_labels_are_the_same():
    """Five still frames; in a block the middle one differs from the others, which alone are of one class there."""
    image, labels = texture(0, 20, 220), np.full((HEIGHT, WIDTH), 1, np.uint8)
    labels[:, 70:] = 5
    other = labels.copy()
    other[8:18, 8:18] = 2
    frames = [PredictedFrame("v", other if n == 2 else labels, image, STILL) for n in range(5)]
    found = list(agreement(frames, chosen(decay=1.0)))
    elsewhere = labels == other
    assert (found[2][elsewhere] == 255).all()  # along the edge too, where cells are of two classes
    assert (found[2][~elsewhere] == 51).all()  # its own vote, one of five
    assert (found[0][~elsewhere] == 204).all()
    assert (next(iter(agreement(frames[2:3], chosen()))) == 255).all()
