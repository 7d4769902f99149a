"""The quick validation: the right scores, and the geometry of inference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dataset import write_dataset
from torch import Tensor, nn
from train.tiny import UPERNET

from vss.configs.resolve import published_settings, resolve
from vss.configs.resolved import read_model_config
from vss.core.errors import UserError
from vss.core.files import read_json, write_json
from vss.core.labels_file import LabelsReader
from vss.infer.run import infer
from vss.models.build import build_segmentor
from vss.score.shard import score_shard
from vss.score.summary import summarise
from vss.train.validate import validate
from vss.weights.tensor_files import save_tensors


class Colours(nn.Module):
    """A segmentor that reads the class off the blue channel, times 9."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def class_logits(self, images: Tensor) -> Tensor:
        blue = images[:, 2] * 57.375 + 103.53
        return -((blue[:, None] - 2) / 9 - torch.arange(124).view(1, -1, 1, 1)).abs()

    def probabilities(self, resized: Tensor, protocol: str) -> Tensor:
        return resized.softmax(1)


class Wall(Colours):
    """A segmentor to which all is wall, or a value that is not a number."""

    def __init__(self, score: float = 1.0) -> None:
        super().__init__()
        self.score = score

    def class_logits(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 124, 8, 8)
        logits[:, 0] = self.score
        return logits


def test_scores_of_segmentors_that_are_right_wrong_and_broken(prepared: Callable[[str], dict[str, Path]]) -> None:
    config = read_model_config(published_settings(resolve({"config": UPERNET})), where=UPERNET)
    files = {name: str(path) for name, path in prepared("vspw").items()}
    model = Colours().train()
    assert validate(model, **files, config=config, frames=10)["pixel_accuracy"] > 0.6
    assert model.training
    scores = validate(Wall(), **files, config=config, frames=1)
    assert scores["miou"] == scores["pixel_accuracy"] == 0
    with pytest.raises(UserError, match="validation: video 'video0', frame '00000006': the model returned inf or nan"):
        validate(Wall(float("nan")), **files, config=config, frames=1)


@pytest.mark.parametrize("protocol", ["paper", "as_published"])
def test_scores_are_those_of_infer_and_score(tmp_path: Path, protocol: str) -> None:
    # Neither side of the fitted frame, 60x107, is a multiple of 32: "paper" pads it, "as_published" stretches it.
    test = {"test.scale": [107, 60], "test.size_divisor": 32}
    config = published_settings(
        resolve({"config": "upernet_internimage-nano-h_vspw", "protocol": protocol, "cfg_options": test})
    )
    torch.manual_seed(3)
    model = build_segmentor(config["model"])
    nn.init.normal_(model.decode_head.conv_seg.weight)  # a fresh head sees one class everywhere
    rng = np.random.default_rng(0)
    images = {"a": [rng.integers(0, 256, (48, 85, 3), dtype=np.uint8) for _ in range(3)]}
    masks = {"a": [np.ones((48, 85), np.uint8)] * 3}
    dataset = write_dataset(tmp_path / "data", masks, images=images)
    files = {"index": str(dataset.index), "card": str(dataset.card)}
    write_json(tmp_path / "config.json", config)
    save_tensors(model.state_dict(), tmp_path / "weights.safetensors")
    model_files = {"weights": tmp_path / "weights.safetensors", "config": tmp_path / "config.json"}
    shard = {"split": "val", "shard": 0, "shards": 1}
    labels, counts = tmp_path / "0.labels.h5", tmp_path / "0.npz"
    infer(settings={"protocol": protocol}, **model_files, **files, **shard, out=[labels], device="cpu")
    # Truths that are nearly what is predicted, so that every pixel that is fitted otherwise shows.
    with LabelsReader(labels) as reader:
        masks = {"a": [np.roll(reader.read("a", f"{number:08d}"), number, axis=1) + 1 for number in range(3)]}
    write_dataset(tmp_path / "data", masks, images=images)

    score_shard(labels=labels, **files, **shard, out=counts)
    names = {"scores": "scores.json", "per_class": "class.csv", "per_video": "video.csv"}
    summarise(shards=[counts], card=dataset.card, **{key: tmp_path / name for key, name in names.items()})
    expected = read_json(tmp_path / "scores.json")
    found = validate(model, **files, config=read_model_config(config, where="config"), frames=3)
    for key, name in (("miou", "mIoU"), ("miou_mmseg", "mIoU_mmseg"), ("pixel_accuracy", "pixel_acc")):
        assert 0 < found[key] == expected[name] < 1, key
