"""One torch thread: the tests are small, and threads that wait for each other cost more than they bring."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vss import formats


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.json` and `weights.safetensors` of a nano model that tells several classes apart."""
    from vss.models.build import build_segmentor
    from vss.models.checkpoints import save_weights
    from vss.train.config import published_settings, resolve

    folder = tmp_path_factory.mktemp("nano")
    config = published_settings(resolve({"config": "upernet_convnext-nano_vspw"}))
    torch.manual_seed(3)
    segmentor = build_segmentor(config["model"])
    torch.nn.init.normal_(segmentor.decode_head.conv_seg.weight)
    formats.write_json(folder / "config.json", config)
    save_weights(segmentor, folder / "weights.safetensors")
    return folder
