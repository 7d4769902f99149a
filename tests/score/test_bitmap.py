"""Compiled counting gives numpy's bitmaps and counts, and is only taken where it was built."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from vss.core import compiled
from vss.score import bitmap
from vss.score.boundary import Contours
from vss.score.video import _labelled_pixels

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture
def take(monkeypatch, folder):
    """Returns take(built): whether compiled code counts from here on."""

    def choose(built: bool) -> None:
        monkeypatch.setenv("VSS_SCORE_BUILD_DIR", str(folder if built else folder / "empty"))
        bitmap.library.cache_clear()
        assert not built or compiled.build(bitmap._SOURCE)
        assert (bitmap.library() is not None) == built

    yield choose
    bitmap.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("size", [(1, 1), (3, 63), (5, 64), (40, 1), (9, 130), (30, 200)])
def test_compiled_code_gives_what_numpy_gives(take, size):
    rng = np.random.default_rng(size[1])
    truth, labels = (rng.choice([0, 1, 2, 255], size).astype(np.uint8) for _ in range(2))
    maps = [bitmap.pack(rng.random(size) < 0.5) for _ in range(6)]
    thin = bitmap.pack(rng.random(size) < 0.02)

    def every():
        contours = Contours(truth), Contours(labels)
        counted = _labelled_pixels(truth, labels, contours, maps)
        wide = [bitmap.positions(bitmap.widened(thin, pixels), size[1]) for pixels in (1, 5, 20, 32, 64, 70)]
        edges = [*bitmap.changes(truth), bitmap.equal(truth, labels), *bitmap.labelled(truth, labels)]
        return [counted.truth, counted.labels, counted.pixels, *edges, *wide]

    take(built=True)
    found = every()
    take(built=False)
    for one, other in zip(found, every(), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_compiler
def test_more_pairs_than_compiled_code_counts_are_counted_by_numpy(take):
    take(built=True)
    truth, labels = np.meshgrid(*[np.arange(100, dtype=np.uint8)] * 2)
    contours = Contours(truth), Contours(labels)
    assert bitmap.counted_runs(truth, labels, [each.right for each in contours], []) is None
    assert len(_labelled_pixels(truth, labels, contours, [bitmap.pack(truth > 50)]).truth) == 100 * 100


@needs_compiler
def test_numpy_counts_where_it_is_requested(take, monkeypatch):
    take(built=True)
    monkeypatch.setenv("VSS_SCORE", "numpy")
    bitmap.library.cache_clear()
    assert bitmap.library() is None
