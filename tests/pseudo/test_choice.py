"""What is kept of a prediction: the surest share of each class, whole bins, and no class beyond its share of all."""

from __future__ import annotations

import numpy as np
import pytest

from vss.core import codec
from vss.pseudo.choice import Thresholds, certainty


def kept(labels: np.ndarray, sure: np.ndarray, **settings) -> np.ndarray:
    given = {"keep": [0.5] * 3, "least": 0.0, "max_share": 1.0, **settings}
    thresholds = Thresholds(3, **given)
    thresholds.count(labels, sure)
    thresholds.close()
    return thresholds.chosen(labels, sure)


@pytest.fixture
def frame() -> tuple[np.ndarray, np.ndarray]:
    """400 pixels of class 0, 100 of class 1, none of class 2 and 12 of no class; every certainty another."""
    labels = np.repeat(np.array([0, 1, 255], np.uint8), [400, 100, 12]).reshape(16, 32)
    sure = np.random.default_rng(0).permutation(np.linspace(0.001, 0.999, 512)).astype(np.float32).reshape(16, 32)
    return labels, sure


def test_of_each_class_the_surest_share_is_kept(frame):
    labels, sure = frame
    found = kept(labels, sure, keep=[0.25, 0.5, 1.0])
    for label, share in ((0, 0.25), (1, 0.5)):
        mine = labels == label
        assert abs((found[mine] == label).mean() - share) <= 1 / mine.sum()  # two pixels in one bin
        assert sure[mine & (found == label)].min() >= sure[mine & (found == 255)].max() - 1e-3
    assert set(np.unique(found)) == {0, 1, 255} and (found[labels == 255] == 255).all()


def test_nothing_is_kept_below_the_least_certainty_or_of_a_share_of_nothing(frame):
    labels, sure = frame
    found = kept(labels, sure, keep=[1.0, 0.0, 1.0], least=0.8)
    assert sure[found == 0].min() >= 0.8 and (found != 1).all()
    assert (found == 0).sum() == ((labels == 0) & (sure >= 0.8)).sum()


def test_no_class_has_more_than_its_share_of_all(frame):
    labels, sure = frame
    found = kept(labels, sure, keep=[1.0] * 3, max_share=0.6)
    counts = np.bincount(found[found < 3], minlength=3)
    assert counts[1] == 100 and 140 <= counts[0] <= 150


def test_certainty_is_of_the_whole_distribution():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (9, 6, 8)).astype(np.float32)
    dense = np.exp(logits) / np.exp(logits).sum(0)
    planes = codec.decode(codec.encode(dense.astype(np.float32)))
    dense = planes.dense()
    np.testing.assert_allclose(certainty(planes, "confidence"), dense.max(0), atol=1e-6)
    entropy = -(dense * np.log(np.maximum(dense, 1e-12))).sum(0)
    np.testing.assert_allclose(certainty(planes, "entropy"), 1 - entropy / np.log(9), atol=1e-5)
