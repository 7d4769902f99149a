"""The estimate against what a real step takes, and the early stop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from vss.configs.resolve import published_settings, resolve
from vss.configs.resolved import TrainingConfig, read_training_config
from vss.core.errors import UserError
from vss.models.build import build_segmentor
from vss.models.probe import HEADROOM, Meter
from vss.train import estimate

ROWS = ["upernet_swin-nano_vspw", "upernet_internimage-nano-h_vspw", "mask2former_internimage-nano-h_vspw"]


def config_of(row: str, **settings: Any) -> TrainingConfig:
    return read_training_config(published_settings(resolve({"config": row, "crop_size": [96, 128], **settings})))


def samples(count: int, size: tuple[int, int]) -> list[SegDataSample]:
    made = []
    for _ in range(count):
        labels = torch.randint(0, 5, (1, *size))
        made.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=size)))
    return made


@pytest.mark.parametrize("row", ROWS)
def test_estimate_is_near_a_real_step(row: str) -> None:
    config = config_of(row)
    expected = estimate.estimate_training(config, images=2)
    model = build_segmentor(config.model)
    inputs, truth = torch.rand(2, 3, 96, 128), samples(2, (96, 128))
    with Meter([*model.parameters(), *model.buffers()]) as meter:
        loss, _ = model.parse_losses(model.loss(inputs, truth))
        loss.backward()
    assert expected.count == sum(parameter.numel() for parameter in model.parameters())
    assert expected.parameters == sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
    assert expected.optimizer == 2 * expected.gradients == 8 * expected.count
    measured = meter.peak - expected.gradients
    assert 0.6 * measured < expected.activations * HEADROOM < 1.6 * measured


def test_checkpointing_and_smaller_batches_need_less() -> None:
    row = "upernet_internimage-nano-xl_vspw"
    plain = estimate.estimate_training(config_of(row, cfg_options={"model.backbone.depths": [4, 4, 8, 4]}), images=2)
    saving = estimate.estimate_training(
        config_of(row, cfg_options={"model.backbone.depths": [4, 4, 8, 4], "grad_checkpoint": True}), images=2
    )
    half = estimate.estimate_training(config_of(row, cfg_options={"model.backbone.depths": [4, 4, 8, 4]}), images=1)
    assert saving.activations < 0.8 * plain.activations
    assert half.activations < 0.6 * plain.activations
    assert saving.parameters == plain.parameters


def test_what_cannot_fit_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(estimate, "_device", lambda gpus: ("toy (1 MiB)", 2**20))
    with pytest.raises(UserError, match=r"needs about .* GiB on toy .* with 2 images at once; lower micro_batch"):
        estimate.check_training(config_of(ROWS[0]), gpus=0, what="finetune toy")
    assert "gradients" in capsys.readouterr().err


def images_at_once(config: TrainingConfig) -> int | None:
    return estimate.check_training(config, gpus=0, what="toy").training.micro_batch


def test_activations_are_recomputed_where_they_would_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    row, deep = "upernet_internimage-nano-xl_vspw", {"model.backbone.depths": [4, 4, 8, 4]}
    config = config_of(row, batch_size=4, cfg_options=deep)
    kept, recomputed = (
        estimate.estimate_training(config_of(row, cfg_options={**deep, "grad_checkpoint": on}), images=4).total
        for on in (False, True)
    )
    for room, on in ((int(kept / 0.96), False), (int((kept + recomputed) / 2 / 0.96), True)):
        monkeypatch.setattr(estimate, "_device", lambda gpus, room=room: ("toy", room))
        chosen = estimate.check_training(config, gpus=0, what="toy")
        assert (chosen.training.grad_checkpoint, chosen.training.micro_batch) == (on, 4)
        assert chosen.model["backbone"]["with_cp"] == on
        assert ("activations recomputed" in capsys.readouterr().err) == on
    chosen = estimate.check_training(config_of(row, cfg_options={**deep, "grad_checkpoint": True}), gpus=0, what="toy")
    assert chosen.model["backbone"]["with_cp"]


def test_the_batch_is_cut_into_parts_that_fit(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    config = config_of(ROWS[0], batch_size=12, cfg_options={"grad_checkpoint": False})
    one, six = estimate.estimate_training(config, images=1), estimate.estimate_training(config, images=6)
    room = int((six.total + estimate.estimate_training(config, images=12).total) / 2)
    monkeypatch.setattr(estimate, "_device", lambda gpus: ("toy", room))
    assert images_at_once(config) == 6
    said = capsys.readouterr().err
    assert "in gradient accumulation steps of 6" in said and "recomputed" not in said
    monkeypatch.setattr(estimate, "_device", lambda gpus: ("toy", 100 * one.total))
    assert images_at_once(config) == 12
    one_by_one = config_of(ROWS[2], cfg_options={"micro_batch": 1})
    assert images_at_once(one_by_one) == 1
    monkeypatch.setattr(estimate, "_device", lambda gpus: ("toy", one.total))
    with pytest.raises(UserError, match="with 2 images at once"):
        estimate.check_training(config, gpus=0, what="toy")


@pytest.mark.parametrize("setting", ["batch_size", "micro_batch"])
def test_batch_norm_of_one_image_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match="toy: batch norm alone on one device cannot train on 1 image"):
        estimate.check_training(config_of(ROWS[0], cfg_options={setting: 1}), gpus=0, what="toy")


def test_flops_are_those_of_the_formula() -> None:
    with Meter([]) as meter:
        torch.nn.functional.conv2d(torch.rand(1, 3, 8, 8), torch.rand(5, 3, 3, 3), padding=1)
    assert meter.flops == 2 * 5 * 3 * 9 * 64


@pytest.mark.slow
def test_the_largest_model_is_estimated() -> None:
    found = estimate.estimate_training(
        read_training_config(published_settings(resolve({"config": "mask2former_internimage-h_vspw"}))), images=1
    )
    assert found.count == pytest.approx(1093.9e6, rel=1e-3)
    assert 15 * 2**30 < found.total < 30 * 2**30
