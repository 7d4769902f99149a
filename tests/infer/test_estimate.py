"""The estimate of an inference against a real forward pass, the line it prints, and the early stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_dataset import write_dataset

from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.infer import estimate
from vss.infer.engine import Engine
from vss.infer.load import network_config, read_plan
from vss.infer.predict import predict
from vss.infer.run import infer
from vss.models.build import build_segmentor
from vss.models.probe import HEADROOM, Meter

SIZE = (96, 130)


def plan_of(folder, row="upernet_convnext-nano_vspw", **settings):
    write_json(folder / "config.json", published_settings(resolve({"config": row})))
    return read_plan(folder / "config.json", settings, "cpu")


@pytest.mark.parametrize("row", ["upernet_convnext-nano_vspw", "mask2former_internimage-nano-h_vspw"])
def test_estimate_is_near_a_real_forward(row, tmp_path):
    plan = plan_of(tmp_path, row, tta={"img_ratios": [0.5, 1.5], "flip": True, "scale": [130, 96]})
    found = estimate.inference(plan, SIZE, with_probabilities=True)
    model = build_segmentor(network_config(plan.config)).eval()
    assert found.count == sum(parameter.numel() for parameter in model.parameters())
    assert found.parameters == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    images = torch.rand(2, 3, *estimate.views_of(*SIZE, plan.tta, plan.protocol)[-1].padded)
    with torch.no_grad(), Meter([*model.parameters(), *model.buffers()]) as meter:
        scores = model.class_logits(images)
    assert 0.8 * meter.peak < found.activations < 1.25 * meter.peak
    assert scores.nbytes < found.scores < 1.5 * scores.nbytes  # of the view, and of the one a third as large
    assert found.flops > meter.flops
    assert found.probabilities == 2 * 4 * 124 * SIZE[0] * SIZE[1]


def test_engine_stays_within_the_estimate(tmp_path):
    plan = plan_of(tmp_path, tta={"img_ratios": [1.0, 1.5], "flip": True})
    found = estimate.inference(plan, SIZE, with_probabilities=False)
    engine = Engine(build_segmentor(network_config(plan.config)), tta=plan.tta, mean=[0.0] * 3, std=[1.0] * 3)
    frame = engine.resize(np.zeros((*SIZE, 3), np.uint8))
    weights = [*engine._segmentor.parameters(), *engine._segmentor.buffers()]
    with Meter(weights) as meter:
        engine.predict([frame])
    used = found.parameters + meter.peak
    assert 0.6 * used < found.needed(plan.device, 1) < 2 * used


def test_windows_need_less_memory_and_more_operations(tmp_path):
    whole = estimate.inference(plan_of(tmp_path), (256, 320), with_probabilities=False)
    slide = {"mode": "slide", "crop_size": [64, 64], "stride": [32, 32]}
    sliding = estimate.inference(plan_of(tmp_path, tta=slide), (256, 320), with_probabilities=False)
    assert sliding.activations < 0.2 * whole.activations
    assert sliding.flops > 1.5 * whole.flops


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(
        tmp_path / "data", {"a": [np.ones((40, 60), np.uint8)] * 2, "b": [np.ones((24, 32), np.uint8)]}
    )


def run(model, dataset, out):
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1, "device": "cpu"}
    weights, config = model / "weights.safetensors", model / "config.json"
    infer(settings={"prediction": "up"}, weights=weights, config=config, out=[out], workers=2, **common)


def test_infer_prints_the_estimate_before_it_loads(nano_model, dataset, tmp_path, capsys):
    run(nano_model, dataset, tmp_path / "0.labels.h5")
    line = next(line for line in capsys.readouterr().err.splitlines() if "parameters" in line)
    assert "infer up val shard 0 of 1: 3 frames of up to 60x40 in 1 view, 2.3 M parameters on cpu, float32" in line
    assert "2 at once need about " in line and "very roughly" in line


def test_what_cannot_fit_is_refused_before_weights_are_read(nano_model, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "memory_of", lambda device: 2**20)
    monkeypatch.setattr("vss.infer.run.load_engine", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(
        UserError, match=r"^infer up .*: a frame of 60x40 needs about .* of 1 MiB on cpu; set tta\.mode"
    ):
        run(nano_model, dataset, tmp_path / "out" / "0.labels.h5")
    assert not (tmp_path / "out").exists()


def test_predict_refuses_too(nano_model, dataset, tmp_path, monkeypatch):
    image = tmp_path / "data" / "0" / "00000001.jpg"
    monkeypatch.setattr(estimate, "memory_of", lambda device: 2**20)
    with pytest.raises(UserError, match="a frame of 60x40 needs about"):
        predict(inputs=[image], model=nano_model, out_dir=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_fewer_frames_at_once_where_more_do_not_fit(tmp_path, monkeypatch, capsys):
    plan = plan_of(tmp_path)
    found = estimate.inference(plan, SIZE, with_probabilities=False)
    monkeypatch.setattr(estimate, "memory_of", lambda device: found.needed(plan.device, 3))
    assert estimate.check_inference(plan, {SIZE: 9}, what="toy", workers=8)["workers"] == 3
    assert "3 at once" in capsys.readouterr().err
    assert estimate.check_inference(plan, {SIZE: 2}, what="toy", workers=8)["workers"] == 2
    assert found.needed(torch.device("cuda"), 8) > found.needed(torch.device("cuda"), 1) > found.parameters
    assert found.activations * HEADROOM < found.needed(plan.device, 1)


def test_autocast_halves_what_the_network_holds(tmp_path):
    full, half = (plan_of(tmp_path, precision=precision) for precision in ("float32", "bfloat16"))
    full, half = (estimate.inference(plan, (256, 320), with_probabilities=False) for plan in (full, half))
    assert half.flops == full.flops and half.scores == full.scores
    assert 0.4 * full.activations < half.activations < 0.9 * full.activations
