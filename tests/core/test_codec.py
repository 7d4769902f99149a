"""What storing class probabilities keeps: every label, every probability within a bound; and how anyone reads it."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.ensemble.drawn_members import CLASSES, smooth_probabilities, write_scores
from vss.core import codec
from vss.core.errors import UserError
from vss.core.labels_file import LabelsReader
from vss.core.scores_file import ScoresReader, ScoresWriter


@st.composite
def probabilities(draw: st.DrawFn) -> np.ndarray:
    """Class probabilities [C, H, W] of every kind: noise, ties, one-hot, nearly uniform, smooth."""
    C, H, W = draw(st.integers(2, 12)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["drawn", "noise", "hard", "flat", "smooth", "sharp"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "drawn":
        values = draw(hnp.arrays(np.float32, (C, H, W), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 7.0])))
        values += (values.sum(axis=0) == 0) * np.float32(1)  # nowhere nothing
    elif kind == "smooth":
        values = smooth_probabilities(int(rng.integers(1000)), (H, W), C)
    else:
        power = {"noise": 1, "hard": 60, "flat": 0.01, "sharp": 8}[kind]
        values = rng.random((C, H, W)).astype(np.float32) ** power + np.float32(1e-30)
    return (values / values.sum(axis=0)).astype(np.float32)


@settings(max_examples=400, deadline=None)
@given(dense=probabilities(), stride=st.sampled_from([1, 2]))
def test_labels_are_kept_and_probabilities_bounded(dense: np.ndarray, stride: int) -> None:
    encoded = codec.encode(dense, stride=stride)
    planes = codec.decode(encoded)
    found = planes.dense()
    np.testing.assert_array_equal(planes.labels, dense.argmax(axis=0))
    np.testing.assert_array_equal(found.argmax(axis=0), dense.argmax(axis=0))
    assert found.min() >= 0
    slack = 1e-5  # float32
    bound = max(encoded.tolerance, encoded.deadzone) * encoded.step
    error = np.abs(found - dense).max(axis=(1, 2))
    assert error[planes.classes].max() <= bound + slack
    assert error.max() <= 3 * bound + slack
    assert encoded.step <= 1 / encoded.grid.levels + 1e-9


def test_probable_classes_stay_exact_when_the_dust_is_dropped() -> None:
    rng = np.random.default_rng(0)
    dust = rng.gamma(0.3, 1, (124, 24, 36)).astype(np.float32)
    dense = 0.7 * smooth_probabilities(2, (24, 36), 124) + 0.3 * dust / dust.sum(axis=0)
    encoded = codec.encode(dense)
    assert encoded.deadzone > 1
    codes = encoded.codes()
    assert np.count_nonzero(codes) <= encoded.grid.max_codes * codes[0].size
    planes = codec.decode(encoded)
    np.testing.assert_array_equal(planes.dense().argmax(axis=0), dense.argmax(axis=0))
    error, true = np.abs(planes.planes - dense[planes.classes]), dense[planes.classes]
    probable = true - planes.rest > (encoded.deadzone + 2 * encoded.tolerance) * encoded.step
    assert probable.any()
    assert error[probable].max() <= encoded.tolerance * encoded.step + 1e-5
    assert error.max() <= max(encoded.deadzone, encoded.tolerance) * encoded.step + 1e-5


@settings(max_examples=100, deadline=None)
@given(numbers=hnp.arrays(st.sampled_from([np.int8, np.int16]), 9))
def test_folding_keeps_every_number_and_puts_the_small_first(numbers: np.ndarray) -> None:
    found = codec.folded(numbers)
    np.testing.assert_array_equal(codec.unfolded(found).view(numbers.dtype), numbers)
    np.testing.assert_array_equal(found, np.where(numbers < 0, -2 * numbers.astype(int) - 1, 2 * numbers.astype(int)))


def test_an_undecided_frame_is_kept_more_finely() -> None:
    smooth = smooth_probabilities(4, (40, 60), 9)
    sure, unsure = (smooth**power / (smooth**power).sum(axis=0) for power in (20, 0.02))
    assert codec.encode(sure).grid is codec.COARSE
    encoded = codec.encode(unsure)
    assert encoded.grid is codec.FINE
    assert np.abs(codec.decode(encoded).dense() - unsure).max() <= encoded.tolerance * encoded.step + 1e-6


def test_the_input_is_left_alone() -> None:
    dense = smooth_probabilities(7, (9, 9))
    for stride in (1, 2):
        before = dense.copy()
        codec.encode(dense, stride=stride)
        np.testing.assert_array_equal(dense, before)


@settings(max_examples=200, deadline=None)
@given(dense=probabilities())
def test_given_labels_give_the_same_file(dense: np.ndarray) -> None:
    alone, helped = codec.encode(dense), codec.encode(dense, dense.argmax(axis=0).astype(np.uint8))
    for name, value in vars(alone).items():
        np.testing.assert_array_equal(value, getattr(helped, name))


def test_the_sum_stays_near_one_on_what_networks_give() -> None:
    dense = smooth_probabilities(3, (90, 121), 10)
    encoded = codec.encode(dense)
    sums = codec.decode(encoded).dense().sum(axis=0)
    assert np.abs(sums - 1).max() <= encoded.tolerance * encoded.step * len(encoded.classes)  # what the bound allows
    assert np.abs(sums - 1).mean() < 0.01


def test_a_uniform_frame() -> None:
    dense = np.full((124, 6, 7), 1 / 124, np.float32)
    found = codec.decode(codec.encode(dense))
    assert (found.labels == 0).all()
    np.testing.assert_allclose(found.dense(), dense, atol=2e-6)


def test_a_second_softmax_keeps_its_small_differences() -> None:
    """Mask2Former as published: probabilities between 0.0080 and 0.0216, all the information in their differences."""
    sharp = smooth_probabilities(1, (48, 61), 124)
    flat = np.exp(sharp) / np.exp(sharp).sum(axis=0)
    encoded = codec.encode(flat)
    assert encoded.step < 1e-4
    assert np.abs(codec.decode(encoded).dense() - flat).max() <= 2 * encoded.deadzone * encoded.step


def test_planes_of_pixels_are_those_of_the_frame() -> None:
    planes = codec.decode(codec.encode(smooth_probabilities(5, (20, 31))))
    positions = np.array([0, 7, 31 * 20 - 1])
    np.testing.assert_array_equal(planes.at(positions).dense(), planes.dense().reshape(9, -1)[:, positions])
    np.testing.assert_array_equal(planes.at(positions).labels, planes.labels.reshape(-1)[positions])


def test_three_lines_of_numpy_read_a_frame(tmp_path) -> None:
    """The lines of docs/formats.md, word for word: the probabilities at every second row and column."""
    dense = smooth_probabilities(0, (20, 31))
    path = write_scores(tmp_path / "s.scores.h5", {("v", "1"): dense})
    g = h5py.File(path)["frames/0"]
    # the three lines
    d = (z := g["shares"][()]) >> 1 ^ -(z & 1)
    q = d.cumsum(1, dtype=d.dtype).cumsum(2, dtype=d.dtype) * g.attrs["step"]
    p = (1 - q.sum(0)) / (n := g.attrs["num_classes"]) + np.tensordot(np.eye(n)[:, g["classes"][()]], q, 1)
    np.testing.assert_allclose(p, dense[:, ::2, ::2], atol=2 / 255)
    np.testing.assert_allclose(p.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(g["labels"][()], dense.argmax(axis=0))


def test_files_keep_every_key_and_are_read_in_any_order(tmp_path) -> None:
    keys = [("--a--b", "1"), (".hidden", "a/b is no path"), ("\u00fcber", "00000001"), ("v", "1")]
    frames = {key: smooth_probabilities(k, (12, 10 + k)) for k, key in enumerate(keys)}
    path = write_scores(tmp_path / "s.scores.h5", frames)
    with ScoresReader(path) as reader:
        assert reader.keys() == keys
        assert reader.classes == CLASSES
        for key in reversed(keys):
            np.testing.assert_array_equal(reader.read(*key).argmax(axis=0), frames[key].argmax(axis=0))
            np.testing.assert_array_equal(reader.read_classes(*key), reader.read_encoded(*key).classes)
        with pytest.raises(UserError, match=r"s\.scores\.h5: no prediction for frame '2' of video 'v'"):
            reader.read("v", "2")


def test_a_failed_block_leaves_no_file(tmp_path) -> None:
    def write_and_fail() -> None:
        with ScoresWriter(tmp_path / "s.scores.h5", classes=CLASSES, provenance={}) as writer:
            writer.write("v", "1", smooth_probabilities(0, (8, 8)))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_label_files_and_score_files_are_told_apart(tmp_path) -> None:
    path = write_scores(tmp_path / "s.scores.h5", {("v", "1"): smooth_probabilities(0, (8, 8))})
    with pytest.raises(UserError, match=r"vss-scores.*vss-labels"):
        LabelsReader(path)


def test_needs_no_torch() -> None:
    code = "import sys, vss.core.scores_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
