"""The benchmark against MMSegmentation: both sides agree, and the table says what was measured."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.infer import VIEWS, compare, labels_agree, table, write_images, write_model
from benchmarks.infer_case import load_ours, load_peer
from benchmarks.throughput import throughput


def test_both_sides_predict_the_same(tmp_path):
    images = write_images(tmp_path / "images", 2, (96, 171))
    model = write_model(tmp_path / "model", "mask2former_internimage-nano-h_vspw")
    files = sorted(images.iterdir())
    views = VIEWS["12 views"] | {"img_ratios": [0.75, 1.0, 1.25]}
    ours, peer = (np.stack(load(model, views)(files)) for load in (load_ours, load_peer))
    assert len(np.unique(ours)) > 1
    assert (ours == peer).mean() > 0.999
    assert labels_agree(ours, peer, model, images, views)
    assert not labels_agree(ours, (peer + 1) % 124, model, images, views)


def test_rows_of_a_case(tmp_path, monkeypatch):
    labels = np.zeros((1, 4, 5), np.uint8)
    measured = {"ours": [0.5, 0.4], "peer": [1.0, 1.2]}

    def fake(side, *_):
        return {"labels": labels, "seconds": measured[side].pop(), "peak": 900.0 if side == "ours" else 1000.0}

    monkeypatch.setattr("benchmarks.infer._measure_apart", fake)
    images = write_images(tmp_path / "images", 1, (4, 5))
    speed, memory = compare("a case", tmp_path, images, {}, rounds=2)
    assert speed == {"case": "a case", "equal": True, "unit": "frames/s", "ours": 2.5, "peer": 1.0, "ratio": 2.5}
    assert (memory["unit"], memory["ours"], memory["peer"], memory["ratio"]) == ("MB peak", 900, 1000, 1.11)
    assert "2.50" in table([speed, memory]) and json.dumps([speed, memory])


def test_flops_and_frames_per_second():
    options = {"row": "upernet_convnext-nano_vspw", "device": "cpu", "precision": "float32", "frames": 1}
    once = throughput(**options, size=(64, 64), views={"img_ratios": [1.0]})
    flipped = throughput(**options, size=(64, 64), views={"img_ratios": [1.0], "flip": True})
    larger = throughput(**options, size=(128, 128), views={"img_ratios": [1.0]}, with_scores=True)
    assert once["frames_per_second"] > 0 and once["mfu"] is None
    assert np.isclose(flipped["tflops_per_frame"], 2 * once["tflops_per_frame"], rtol=1e-3)
    assert 3.5 < larger["tflops_per_frame"] / once["tflops_per_frame"] < 4.2
