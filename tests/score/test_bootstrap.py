"""Intervals: of what they are, that they repeat, and that equal videos have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from drawn_clips import clips, counts_of
from hypothesis import given, settings

from vss.score.bootstrap import (
    FIGURES,
    drawn_figures,
    drawn_weights,
    figures,
    figures_of,
    interval,
    intervals,
    paired_intervals,
    score_of,
    video_sums,
)
from vss.score.counts import Counts, merge_counts
from vss.score.summary import overall_scores


@settings(max_examples=30, deadline=None)
@given(videos=clips())
def test_figures_of_every_video_once_are_the_scores(videos):
    counts = merge_counts([counts_of(videos, 1, 0)])
    found = figures(video_sums(counts), np.ones((1, len(videos))))
    assert set(found) == set(FIGURES)
    scores = overall_scores(counts)
    for name in FIGURES:
        assert found[name][0] == pytest.approx(score_of(scores, name), nan_ok=True, rel=1e-12), name


def test_figures_that_were_counted_besides_have_draws():
    counts = many_videos(1)
    bins = np.stack([np.arange(10), np.full(10, 3), np.full(10, 20), np.arange(10), np.full(10, 900_000)], axis=1)
    counts = dataclasses.replace(
        counts, flow="dis", flow_cells=counts.cells, visible_cells=counts.cells[:4], calibration=bins
    )
    found = figures(video_sums(counts), np.ones((1, 10)))
    assert set(found) == set(figures_of(counts)) == {*FIGURES, "TC_dis", "TC_dis_visible", "ECE"}
    scores = overall_scores(counts)
    for name in ("TC_dis", "TC_dis_visible", "ECE"):
        assert found[name][0] == pytest.approx(score_of(scores, name), rel=1e-12), name
    assert len(set(intervals(drawn_figures(counts))["TC_dis"])) == 2


@settings(max_examples=15, deadline=None)
@given(videos=clips())
def test_a_draw_is_the_score_of_its_videos(videos):
    """A video drawn twice counts as two videos of equal content."""
    counts = merge_counts([counts_of(videos, 1, 0)])
    weights = drawn_weights(len(videos), draws=3)
    assert (weights.sum(axis=1) == len(videos)).all()
    found = figures(video_sums(counts), weights)
    for draw, times in enumerate(weights):
        copies = {
            f"{name} {copy}": clip
            for name, clip, number in zip(counts.videos, (videos[n] for n in counts.videos), times, strict=True)
            for copy in range(int(number))
        }
        scores = overall_scores(merge_counts([counts_of(copies, 1, 0)]))
        for name in FIGURES:
            assert found[name][draw] == pytest.approx(score_of(scores, name), nan_ok=True, rel=1e-12), name


def many_videos(wrong_every: int) -> Counts:
    """Ten videos of one frame of 20 pixels; in video n, n pixels are wrong, or none but in every so many."""
    truth = np.ones((1, 4, 5), np.uint8)
    videos = {}
    for number in range(10):
        labels = np.zeros((1, 4, 5), np.uint8)
        labels.flat[: number if number % wrong_every == 0 else 0] = 3
        videos[str(number)] = truth, labels
    return merge_counts([counts_of(videos, 1, 0)])


def test_the_interval_holds_the_score_and_repeats():
    counts = many_videos(1)
    low, high = intervals(drawn_figures(counts))["pixel_acc"]
    score = overall_scores(counts)["pixel_acc"]
    assert score == pytest.approx(1 - 45 / 200)
    # The mean of ten draws of 0..9 wrong pixels of 20 has a standard error of 0.045.
    assert low == pytest.approx(score - 1.96 * 0.0454, abs=0.01) and high == pytest.approx(
        score + 1.96 * 0.0454, abs=0.01
    )
    assert intervals(drawn_figures(counts)) == intervals(drawn_figures(counts))
    assert intervals(drawn_figures(counts))["VC8"] is None, "no video has a window"


def test_one_video_has_no_interval():
    videos = {"a": (np.ones((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8))}
    assert set(intervals(drawn_figures(counts_of(videos, 1, 0))).values()) == {None}


def test_a_difference_is_paired():
    """Two predictions of which the second is better in every video by two pixels: there is no doubt about it."""
    worse, better = many_videos(1), many_videos(3)
    assert paired_intervals(worse, worse)["mIoU"] == [0, 0]
    low, high = paired_intervals(worse, better)["pixel_acc"]
    assert 0 < low < overall_scores(better)["pixel_acc"] - overall_scores(worse)["pixel_acc"] < high


def test_interval_leaves_out_what_is_undefined():
    assert interval([np.nan, *range(101)]) == pytest.approx([2.5, 97.5])
    assert interval([np.nan]) is None
