"""Voting over masks: the golden cases of the public implementation, hand-computed cases, invariants."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.refine.masks import run_lengths
from vss.core.codec import Planes
from vss.core.labels import IGNORE_INDEX
from vss.refine.proposals import Partitions
from vss.refine.soft_labels import SoftLabels
from vss.refine.ssa import vote_proposals


def vote(labels: np.ndarray, masks: np.ndarray, **options) -> np.ndarray:
    """Returns the label map after the vote of boolean masks [M, H, W]."""
    return vote_proposals(labels, run_lengths(np.asarray(masks, bool)), **options)


@pytest.mark.golden
def test_golden_cases(golden_dir):
    folder = golden_dir / "ssa"
    cases = json.loads((folder / "meta.json").read_text())["cases"]
    assert cases
    for case in cases:
        tensors = load_file(folder / case["file"])
        labels, masks, expected = tensors["label_map"], tensors["masks"].astype(bool), tensors["output"]
        assert (expected != labels).any(), case["name"]
        if "areas" in tensors:  # what upstream orders masks by
            np.testing.assert_array_equal(tensors["areas"], masks.sum(axis=(1, 2)))
        voted = vote(labels, masks)
        # Upstream ran on a CPU here, where the class that torch.topk takes of two equally frequent ones is an accident:
        # where such a mask painted a pixel last, ours has the smallest and upstream's is any of them.
        decided = np.ones(labels.shape, bool)
        for best, pixels in tied_masks(labels, masks):
            assert (voted[pixels] == best.min()).all() and np.isin(expected[pixels], best).all(), case["name"]
            decided &= ~pixels
        assert decided.any()
        np.testing.assert_array_equal(voted[decided], expected[decided], err_msg=case["name"])


def tied_masks(labels, masks):
    """Yields (most frequent classes, pixels it paints last) of every mask that has several such classes."""
    last = np.full(labels.shape, -1)
    for number in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        last[masks[number]] = number
    for number, mask in enumerate(masks):
        counts = np.bincount(labels[mask], minlength=1)
        best = np.flatnonzero(counts == counts.max())
        if mask.any() and len(best) > 1:
            yield best, last == number


def one_frame() -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([[1, 1, 2, 2, 2], [1, 1, 2, 2, 3], [1, 1, 1, 3, 3]], np.uint8)
    masks = np.zeros((2, 3, 5), bool)
    masks[0, :, :3] = True  # 7 pixels of class 1, 2 of class 2
    masks[1, 1:, 3:] = True  # 1 pixel of class 2, 3 of class 3
    return labels, masks


def test_majority_of_each_mask():
    labels, masks = one_frame()
    expected = [[1, 1, 1, 2, 2], [1, 1, 1, 3, 3], [1, 1, 1, 3, 3]]
    np.testing.assert_array_equal(vote(labels, masks), expected)


def test_smaller_masks_overwrite_larger_ones_and_votes_read_the_original():
    labels = np.array([[5, 5, 5, 5, 7, 7]], np.uint8)
    masks = np.array([[[0, 0, 0, 0, 1, 1]], [[1, 1, 1, 1, 1, 1]]], bool)
    # The larger mask paints class 5 everywhere, then the smaller one its own majority of the ORIGINAL map.
    np.testing.assert_array_equal(vote(labels, masks), labels)


def test_equal_areas_keep_the_order_given():
    labels = np.array([[1, 1, 2, 3, 3]], np.uint8)
    masks = np.array([[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1]]], bool)
    assert vote(labels, masks)[0, 2] == 3
    assert vote(labels, masks[::-1])[0, 2] == 1


def test_of_equally_frequent_classes_the_smallest_id_wins():
    assert vote(np.array([[100, 3]], np.uint8), np.ones((1, 1, 2), bool)).tolist() == [[3, 3]]
    assert vote(np.array([[9, 0, 7, 7, 0, 255, 9]], np.uint8), np.ones((1, 1, 7), bool)).tolist() == [[0] * 7]


def test_unknown_pixels_have_no_vote_but_are_painted():
    labels = np.array([[IGNORE_INDEX, IGNORE_INDEX, 4, IGNORE_INDEX]], np.uint8)
    masks = np.array([[[1, 1, 1, 0]], [[0, 0, 0, 1]]], bool)
    assert vote(labels, masks).tolist() == [[4, 4, 4, IGNORE_INDEX]]


def test_min_purity_leaves_mixed_masks_alone():
    labels, masks = one_frame()
    np.testing.assert_array_equal(
        vote(labels, masks, min_purity=0.76), [[1, 1, 1, 2, 2], [1, 1, 1, 2, 3], [1, 1, 1, 3, 3]]
    )
    np.testing.assert_array_equal(vote(labels, masks, min_purity=0.75), vote(labels, masks))
    np.testing.assert_array_equal(vote(labels, masks, min_purity=1.0), labels)


def test_keep_area_guards_small_classes():
    labels = np.array([[1, 1, 1, 9], [1, 1, 2, 2]], np.uint8)
    masks = np.ones((1, 2, 4), bool)
    assert vote(labels, masks, keep_area=1).tolist() == [[1, 1, 1, 9], [1, 1, 1, 1]]
    assert vote(labels, masks, keep_area=2).tolist() == [[1, 1, 1, 9], [1, 1, 2, 2]]


def test_no_masks():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(vote(labels, np.zeros((0, 2, 3), bool)), labels)


def vote_one_by_one(labels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The rule, written as it is said."""
    out = labels.copy()
    for mask in sorted(masks, key=np.count_nonzero, reverse=True):
        if mask.any():
            ids, counts = np.unique(labels[mask], return_counts=True)
            out[mask] = ids[counts == counts.max()].min()
    return out


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 9))
def test_equals_the_rule_as_it_is_said(seed, count):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    labels = rng.integers(0, 6, (height, width)).astype(np.uint8)
    masks = rng.random((count, height, width)) < rng.random((count, 1, 1))
    np.testing.assert_array_equal(vote(labels, masks), vote_one_by_one(labels, masks))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_partition_votes_as_its_masks_do(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    labels = rng.integers(0, 6, (height, width)).astype(np.uint8)
    maps = [rng.integers(0, 5, (height, width)) for _ in range(2)]
    masks = np.concatenate([[m == segment for segment in np.unique(m)] for m in maps])
    by_map = vote_proposals(labels, Partitions.from_label_maps(maps))
    np.testing.assert_array_equal(by_map, vote_proposals(labels, run_lengths(masks)))


def test_scores_are_summed_over_each_mask():
    """Two pixels hardly prefer class 1, the third is certain of class 2: by labels 1 wins, by scores 2."""
    planes = np.array([[[0.6, 0.6, 0.0, 0.0]], [[0.4, 0.4, 1.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]], np.float32)
    classes, labels = np.array([1, 2, 3], np.uint8), np.array([[1, 1, 2, 3]], np.uint8)
    scores = SoftLabels.of(Planes(classes, planes, np.zeros((1, 4), np.float32), labels, 124))
    masks = np.array([[[1, 1, 1, 0]], [[0, 0, 0, 0]]])
    assert vote(labels, masks).tolist() == [[1, 1, 1, 3]]
    assert vote(labels, masks, scores=scores).tolist() == [[2, 2, 2, 3]]
    assert vote(labels, masks, scores=scores, min_purity=0.61).tolist() == labels.tolist()  # 1.8 of 3.0
    assert vote(labels, masks[1:], scores=scores).tolist() == labels.tolist()
