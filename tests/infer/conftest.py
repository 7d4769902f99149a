"""One torch thread: the tests are small, and threads that wait for each other cost more than they bring."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.nano_model import write_nano_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.json` and `weights.safetensors` of a nano model that tells several classes apart."""
    folder = tmp_path_factory.mktemp("nano")
    write_nano_model(folder)
    return folder
