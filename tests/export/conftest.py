"""The small trained model of tests/infer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nano_model import write_nano_model


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.json` and `weights.safetensors` of a nano model."""
    folder = tmp_path_factory.mktemp("nano")
    write_nano_model(folder)
    return folder
