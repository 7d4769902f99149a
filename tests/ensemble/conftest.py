"""Members whose class probabilities are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ensemble.drawn_members import Key, smooth_probabilities, write_scores


@pytest.fixture
def make_members(tmp_path: Path) -> Callable[..., list[list[Path]]]:
    """Returns a function (names, keys, size) -> one scores file for each member, listed as the stage wants them."""

    def make(names: list[str], keys: list[Key], size: tuple[int, int] = (20, 31)) -> list[list[Path]]:
        files = []
        for m, name in enumerate(names):
            frames = {key: smooth_probabilities(100 * m + k, size) for k, key in enumerate(keys)}
            files.append([write_scores(tmp_path / f"{name}.scores.h5", frames)])
        return files

    return make
