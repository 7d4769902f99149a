"""Exported models: they run without this project, predict what the engine does, and what goes wrong is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vss import cli
from vss.api import load
from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.export import run
from vss.export.graph import FrameToProbabilities, trace
from vss.models.build import build_segmentor
from vss.weights.tensor_files import save_tensors

SIZE = (40, 72)
# Runs a file where neither this project nor the libraries of its models can be imported.
ELSEWHERE = """
import json, sys
for name in ("vss", "vss_ops", "mmseg", "mmcv", "mmengine", "mmpretrain"):
    sys.modules[name] = None
import numpy as np
images = np.load("images.npy")
if sys.argv[1] == "torch":
    import torch
    facts = {"vss.json": ""}
    program = torch.export.load("model.pt2", extra_files=facts)
    found, facts = program.module()(torch.from_numpy(images)).detach().numpy(), facts["vss.json"]
else:
    import onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    assert [tuple(i.shape) for i in session.get_inputs()] == [images.shape]
    found = session.run(["probabilities"], {"images": images})[0]
    facts = session.get_modelmeta().custom_metadata_map["vss"]
np.save("found.npy", found)
print(facts)
"""


ROW = "mask2former_internimage-nano-h_vspw"  # has both operators
FEWER_LAYERS = {f"model.decode_head.{part}_layers": 1 for part in ("encoder", "decoder")}


def write_model(folder: Path) -> Path:
    config = published_settings(resolve({"config": ROW, "cfg_options": FEWER_LAYERS}))
    torch.manual_seed(0)
    segmentor = build_segmentor(config["model"])
    for module in segmentor.modules():  # offsets and masks that are not the zeros that a training starts from
        if type(module).__name__ == "DCNv3":
            torch.nn.init.normal_(module.offset.weight, std=0.1)
            torch.nn.init.normal_(module.mask.weight, std=0.1)
    write_json(folder / "config.json", config)
    save_tensors(segmentor.state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def programs() -> dict:
    """The recorded programs: recording one takes most of the time, and every format is made of the same."""
    return {}


@pytest.mark.parametrize("file_format", ["torch", "onnx"])
def test_a_file_runs_without_the_project(file_format, programs, tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    folder = write_model(tmp_path / "a model")
    monkeypatch.setattr(
        run, "trace", lambda *given, **named: programs.get(0) or programs.setdefault(0, trace(*given, **named))
    )
    out = tmp_path / f"model{run.SUFFIXES[file_format]}"
    size = ["--size", *map(str, SIZE)]
    assert cli.main(["export", str(folder), "--format", file_format, "--out", str(out), *size]) == 0
    logged = capsys.readouterr().err
    assert "images [1, 3, 40, 72] float32 RGB 0..255 -> probabilities [1, 124, 40, 72]" in logged
    assert "largest difference from the engine" in logged and "labels differ at 0 of 5,760 pixels" in logged
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a model", out.name]  # nothing of the work is left

    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", image.transpose(2, 0, 1)[None].astype(np.float32))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, file_format],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    facts = json.loads(done.stdout)
    assert (facts["model"], facts["row"], facts["size"], len(facts["classes"])) == ("a model", ROW, list(SIZE), 124)
    expected = load(folder, device="cpu").probabilities(image)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy")[0], expected, atol=1e-5)


@pytest.mark.parametrize("row", ["eomt_dinov2-nano_vspw", "pmt_dinov3-nano_vspw"])
def test_a_plain_vision_transformer_can_be_recorded(row):
    segmentor = build_segmentor(resolve({"config": row}).model).eval()
    segmentor.decode_head.anneal(1.0)
    graph = FrameToProbabilities(segmentor, mean=[0.0] * 3, std=[1.0] * 3, padded=(48, 80), protocol="paper").eval()
    images = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        found = trace(graph, SIZE, name=row).module()(images)
        torch.testing.assert_close(found, graph(images), atol=1e-6, rtol=1e-5)


def test_a_file_that_predicts_something_else_is_not_kept(nano_model, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "trace", lambda *_, **__: None)
    monkeypatch.setattr(run, "_save_torch", lambda program, path, facts: path.touch())
    monkeypatch.setattr(run, "_load_torch", lambda path: lambda images: np.zeros((1, 124, *SIZE), np.float32))
    with pytest.raises(UserError, match=r"predicts something else: on 2 frames .* it was not kept"):
        run.export(model=nano_model, file_format="torch", out=tmp_path / "a.pt2", size=SIZE)
    assert not list(tmp_path.iterdir())


def test_the_suffix_is_the_format_s(nano_model, tmp_path):
    with pytest.raises(UserError, match=r"swin: a file of format torch ends in \.pt2$"):
        run.export(model=nano_model, file_format="torch", out=tmp_path / "swin")


@pytest.mark.parametrize("size", [(0, 10), (-1, 5)])
def test_sizes_that_are_none(size, nano_model):
    with pytest.raises(UserError, match=r"size: found .*, expected a height and a width of at least 1"):
        run.export(model=nano_model, file_format="torch", size=size)


def test_a_size_that_the_protocol_resizes(nano_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a file would be written that is not refused
    config = json.loads((nano_model / "config.json").read_text())
    del config["checksum"]
    config["protocol"], config["test"] = "as_published", {**config["test"], "size_divisor": 32}
    write_json(tmp_path / "config.json", config)
    (tmp_path / "weights.safetensors").symlink_to(nano_model / "weights.safetensors")
    with pytest.raises(UserError, match="size: found 40 72; protocol as_published runs it at 64 96, name that"):
        run.export(model=tmp_path, file_format="torch", size=SIZE)


def test_a_model_that_cannot_be_recorded_is_one_line():
    class Undecided(torch.nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(UserError, match=r"odd: torch\.export cannot record this model") as refused:
        trace(Undecided(), SIZE, name="odd")
    assert "\n" not in str(refused.value)
