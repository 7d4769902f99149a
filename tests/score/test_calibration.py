"""Calibration: the bins and the error worked out by hand, and how they reach the scores."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_dataset import write_dataset, write_labels

from vss.core.files import read_json
from vss.core.labels import VSPW
from vss.core.scores_file import ScoresWriter
from vss.score.calibration import BINS, calibration_counts, expected_calibration_error, reliability
from vss.score.counts import load_counts
from vss.score.shard import score_shard
from vss.score.summary import summarise


def test_bins_and_error_by_hand():
    # Bins are 1/15 wide and without their lower edge: 0.2 = 3/15 is in the third, 0.21 in the fourth, 1 in the last.
    confidence = np.array([[0.2, 0.21, 0.22, 1.0, 1.0, 0.9]])
    labels = np.array([[0, 0, 1, 2, 2, 2]], np.uint8)
    truth = np.array([[0, 0, 0, 2, 3, 255]], np.uint8)
    counts = calibration_counts(confidence, labels, truth)
    assert counts[:, :2].tolist() == [[0, 0], [0, 0], [1, 1], [2, 1], *[[0, 0]] * 10, [2, 1]]
    # |1 - 0.2| of one pixel, |1 - 0.43| of two, |1 - 2| of two; five pixels.
    assert expected_calibration_error(counts) == pytest.approx((0.8 + 0.57 + 1) / 5, abs=1e-5)
    rows = reliability(counts)
    assert [row["pixels"] for row in rows] == [1, 2, 2]
    assert rows[1]["accuracy"] == 0.5 and rows[1]["confidence"] == pytest.approx(0.215, abs=1e-5)
    assert (rows[2]["above"], rows[2]["to"]) == (14 / 15, 1)


def test_nothing_labelled_has_no_error():
    counts = calibration_counts(np.ones((1, 2)), np.zeros((1, 2), np.uint8), np.full((1, 2), 255, np.uint8))
    assert counts.shape == (BINS, 3) and np.isnan(expected_calibration_error(counts)) and reliability(counts) == []


def test_stored_class_scores_are_counted(tmp_path):
    masks = {"a": [np.array([[1, 1, 2, 255]], np.uint8)], "b": [np.array([[2, 2, 2, 2]], np.uint8)]}
    labels = {"a": [np.array([[0, 0, 0, 0]], np.uint8)], "b": [np.array([[1, 1, 1, 1]], np.uint8)]}
    dataset = write_dataset(tmp_path, masks)
    with ScoresWriter(tmp_path / "0.scores.h5", classes=VSPW.classes, provenance={}) as writer:
        for video, best in (("a", 0), ("b", 1)):
            probabilities = np.full((VSPW.num_classes, 1, 4), 0.2 / (VSPW.num_classes - 1), np.float32)
            probabilities[best] = 0.8
            writer.write(video, "00000000", probabilities)
    score_shard(
        labels=write_labels(tmp_path / "0.labels.h5", labels), index=dataset.index, card=dataset.card, split="val",
        shard=0, shards=1, out=tmp_path / "0.npz", scores=tmp_path / "0.scores.h5",
    )  # fmt: skip
    assert load_counts(tmp_path / "0.npz").calibration[:, :4].tolist() == [[0, 11, 3, 2], [1, 11, 4, 4]]
    out = {name: tmp_path / name for name in ("scores", "per_class", "per_video")}
    summarise(shards=[tmp_path / "0.npz"], card=dataset.card, **out)
    scores = read_json(out["scores"])
    # 6 of 7 labelled pixels are right at a confidence of 0.8, which is stored to half a step of 1/255.
    assert scores["ECE"] == pytest.approx(6 / 7 - 0.8, abs=0.003)
    assert len(scores["reliability"]) == 1 and scores["reliability"][0]["pixels"] == 7
    low, high = scores["intervals"]["ECE"]
    assert 0 <= low <= high
    assert "ECE" in out["per_video"].read_text().splitlines()[0]
