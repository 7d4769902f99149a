"""Random weights of RAFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.optical_flow import raft_large

from vss.weights.tensor_files import save_tensors


@pytest.fixture(scope="session")
def raft_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft.safetensors"
    save_tensors(raft_large(weights=None, progress=False).state_dict(), path)
    return path
