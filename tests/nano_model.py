"""A nano model on disk, as a training leaves it, that tells several classes apart without having been trained."""

from __future__ import annotations

from pathlib import Path

import torch

from vss.core.files import write_json


def write_nano_model(folder: Path) -> None:
    """Writes `config.json` and `weights.safetensors` of a nano model with drawn weights into `folder`."""
    from vss.configs.resolve import published_settings, resolve
    from vss.models.build import build_segmentor
    from vss.weights.tensor_files import save_tensors

    config = published_settings(resolve({"config": "upernet_convnext-nano_vspw"}))
    torch.manual_seed(3)
    segmentor = build_segmentor(config["model"])
    torch.nn.init.normal_(segmentor.decode_head.conv_seg.weight)
    write_json(folder / "config.json", config)
    save_tensors(segmentor.state_dict(), folder / "weights.safetensors")
