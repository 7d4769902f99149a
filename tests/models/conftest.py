"""Fixtures of the model tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from models.golden_models import golden_segmentor


@pytest.fixture(scope="session")
def mask2former_folder(golden_dir: Path) -> Path:
    return golden_dir / "mask2former"


@pytest.fixture(scope="module")
def segmentor(mask2former_folder: Path):
    return golden_segmentor(mask2former_folder)
