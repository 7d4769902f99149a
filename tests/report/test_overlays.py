"""Which frames are shown, and how labels look over them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import write_dataset, write_labels

from vss.core.errors import UserError
from vss.core.index import read_card, read_index
from vss.report.overlays import (
    BECAME_RIGHT,
    BECAME_WRONG,
    PANEL_WIDTH,
    Predictions,
    _change_panel,
    _evenly,
    choose_frames,
    class_colours,
    draw_labels,
    frame_rows,
)
from vss.report.sheet import overlay_sheet


@pytest.fixture
def ranked(tmp_path):
    """Four videos of three frames; in video n, n of 16 pixels are wrong."""
    truth = {f"v{n}": [np.full((4, 4), 1, np.uint8)] * 3 for n in range(4)}
    labels = {video: [np.zeros((4, 4), np.uint8) for _ in maps] for video, maps in truth.items()}
    for n in range(4):
        for frame in labels[f"v{n}"]:
            frame.flat[:n] = 5
    dataset = write_dataset(tmp_path, truth)
    predictions = Predictions("net", [write_labels(tmp_path / "0.labels.h5", labels)])
    yield read_index(dataset.index), read_card(dataset.card), predictions
    predictions.close()


def test_frames_go_from_the_worst_to_the_best(ranked):
    rows, card, predictions = ranked
    chosen = choose_frames(rows, card=card, prediction=predictions, count=3)
    assert [row.video for row, _ in chosen] == ["v3", "v2", "v0"]
    assert [note.split(" of ")[0] for _, note in chosen] == ["worst", "median", "best"]
    assert all(note.endswith("of 12 frames compared") for _, note in chosen)
    assert choose_frames(rows.sample(frac=1, random_state=1), card=card, prediction=predictions, count=1)


def test_more_frames_wanted_than_there_are(ranked):
    rows, card, predictions = ranked
    chosen = choose_frames(rows, card=card, prediction=predictions, count=50)
    assert len({(row.video, row.frame) for row, _ in chosen}) == len(chosen) == 12


def test_frames_without_truth_are_shown_unranked(ranked):
    rows, card, predictions = ranked
    colours = class_colours(card.classes, {})
    unknown = rows.assign(mask="")
    shown = frame_rows(rows=unknown, card=card, predictions=[predictions], count=2, colours=colours, alpha=0.5)
    assert [row.note for row in shown] == ["", ""]
    assert [panel.title for panel in shown[0].panels] == ["image", "net"]
    assert overlay_sheet(shown).shape[2] == 3


def test_a_frame_without_prediction_is_named(ranked, tmp_path):
    rows, card, predictions = ranked
    more = pd.concat([rows, rows.iloc[:1].assign(video="other")])
    with pytest.raises(UserError, match="of video 'other'"):
        choose_frames(more, card=card, prediction=predictions, count=4)


@given(total=st.integers(1, 400), data=st.data())
def test_positions_are_spread_and_different(total, data):
    count = data.draw(st.integers(1, total))
    for inside in (False, True):
        positions = _evenly(total, count, inside=inside)
        assert len(set(positions)) == count and positions == sorted(positions)
        assert positions[0] >= 0 and positions[-1] < total
        assert count == 1 or max(np.diff(positions)) - min(np.diff(positions)) <= 1
    if count > 1:
        assert _evenly(total, count)[0] == 0 and _evenly(total, count)[-1] == total - 1


@pytest.mark.parametrize("size", [(6, 9), (48, 85), (960, 1600)])
def test_colours_blend_and_no_class_stays_grey(size):
    height, width = size
    image = np.full((height, width, 3), (200, 100, 40), np.uint8)
    labels = np.zeros(size, np.uint8)
    labels[:, width // 3 : 2 * width // 3] = 7
    labels[:, 2 * width // 3 :] = 255
    colours = np.zeros((256, 3), np.uint8)
    colours[0], colours[7] = (0, 0, 200), (10, 250, 30)
    drawn = draw_labels(image, labels, colours, 0.5)
    assert drawn.shape == (round(height * PANEL_WIDTH / width), PANEL_WIDTH, 3)
    middle = drawn[drawn.shape[0] // 2]
    left, centre, right = (middle[int(PANEL_WIDTH * at)].astype(int) for at in (1 / 6, 1 / 2, 5 / 6))
    assert np.abs(left - (100, 50, 120)).max() <= 1
    assert np.abs(centre - (105, 175, 35)).max() <= 1
    assert np.ptp(right) == 0, "grey"
    border = middle[int(PANEL_WIDTH / 3) - 8 : int(PANEL_WIDTH / 3) + 8].astype(int)
    assert border.min(axis=1).max() > 120, "a light line between the labels"


def test_colours_of_classes():
    palette = class_colours(("wall", "sky"), {"sky": "#0a14ff"})
    assert palette[1].tolist() == [10, 20, 255]
    assert palette[0].tolist() == class_colours(("wall", "sky"), {})[0].tolist()


def test_change_panel_marks_right_and_wrong():
    truth = np.array([[0, 0, 255, 1]], np.uint8).repeat(2, 0)
    before = np.array([[0, 3, 3, 1]], np.uint8).repeat(2, 0)
    after = np.array([[3, 0, 0, 1]], np.uint8).repeat(2, 0)
    image = np.full((2, 4, 3), 90, np.uint8)
    panel = _change_panel(image, truth, before, after)
    row = panel.image[panel.image.shape[0] // 2]
    quarter = PANEL_WIDTH // 4
    colours = [tuple(row[quarter * at + quarter // 2].tolist()) for at in range(4)]
    assert colours[0] == BECAME_WRONG and colours[1] == BECAME_RIGHT
    assert len(set(colours[2])) == 1 and colours[2] == colours[3], "void and unchanged pixels stay grey"
    assert panel.note == "33.3% became right (green), 33.3% wrong (red)"
