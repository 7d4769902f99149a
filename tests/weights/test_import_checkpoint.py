"""The command `import-checkpoint`: from a published file to everything that stands beside any weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vss import cli
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.models.build import build_segmentor
from vss.models.rows import mask2former_config, segmentor_config
from vss.weights.fingerprint import read_fingerprint
from vss.weights.import_checkpoint import described_model
from vss.weights.weights_file import read_weights

ROW = "mask2former_internimage-nano-h_vspw"
OUTPUTS = ("weights", "fingerprint", "config", "audit")


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask2Former of 171 classes as mmdet 2 and MMCV 1 would have saved it."""
    torch.manual_seed(1)
    heads = mask2former_config("internimage-nano-h", num_classes=171, size="nano")
    model = build_segmentor(segmentor_config("internimage-nano-h", heads))
    path = tmp_path_factory.mktemp("published") / "iter_12500.pth"
    state = {f"module.{old_name(name)}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


def old_name(name: str) -> str:
    encoder = "pixel_decoder.encoder" in name
    for new, old in (
        (".self_attn.", ".attentions.0." if encoder else ".attentions.1."),
        (".cross_attn.", ".attentions.0."),
        (".ffn.", ".ffns.0."),
    ):
        if name.startswith(("decode_head.pixel_decoder.encoder.", "decode_head.transformer_decoder.")):
            name = name.replace(new, old, 1)
    return name


def run(checkpoint: Path, folder: Path, settings: dict | None, *outputs: str) -> int:
    words = ["import-checkpoint", str(checkpoint)]
    for output in outputs:
        words += [f"--{output}", str(folder / output)]
    if settings is not None:
        words += ["--settings", json.dumps(settings)]
    return cli.main(words)


def test_a_row_gets_everything_that_stands_beside_weights(old_file, tmp_path, capsys):
    settings = {"config": ROW, "cfg_options": {}, "init_classes": "copy"}
    assert run(old_file, tmp_path, settings, *OUTPUTS) == 0
    tensors, audit = load_file(tmp_path / "weights"), read_json(tmp_path / "audit")
    config = read_json(tmp_path / "config")
    assert {n: t.shape for n, t in tensors.items()} == {
        n: t.shape for n, t in build_segmentor(config["model"]).state_dict().items()
    }
    assert config["row"] == ROW
    fingerprint = read_fingerprint(tmp_path / "fingerprint")
    assert fingerprint.sha256 == sha256_of_file(tmp_path / "weights")
    assert (fingerprint.model, fingerprint.code) == (ROW, None)
    places = [set(audit[key]) for key in ("loaded", "renamed", "resized", "new")]
    assert set.union(*places) == set(tensors)
    assert sum(map(len, places)) == len(tensors)
    assert audit["classes"]["cattle"] == "cow"
    printed = capsys.readouterr().out
    assert "renamed" in printed
    assert "self_attn" in printed
    assert "cattle <- cow" in printed


def test_without_a_row_the_model_is_the_files_own(tmp_path):
    # Only sizes of rows can be identified from a file, so the head is the authors'.
    heads = mask2former_config("internimage-nano-h", num_classes=7, size="authors")
    state = build_segmentor(segmentor_config("internimage-nano-h", heads)).state_dict()
    torch.save({old_name(name): tensor for name, tensor in state.items()}, tmp_path / "old.pth")
    assert run(tmp_path / "old.pth", tmp_path, None, "weights", "audit") == 0
    found = load_file(tmp_path / "weights")
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_imported_weights_can_be_imported_again(old_file, tmp_path):
    assert run(old_file, tmp_path, {"config": ROW}, "weights") == 0
    (tmp_path / "again").mkdir()
    assert run(tmp_path / "weights", tmp_path / "again", {"config": ROW}, "weights", "audit") == 0
    audit = read_json(tmp_path / "again" / "audit")
    assert (audit["renamed"], audit["resized"], audit["new"], audit["unused"]) == ({}, {}, [], {})
    assert sha256_of_file(tmp_path / "weights") == sha256_of_file(tmp_path / "again" / "weights")


def test_weights_of_a_datasets_own_classes(tmp_path):
    """Those of a model that was trained elsewhere on the user's classes; what predicts them is taken as it is."""
    heads = mask2former_config("internimage-nano-h", num_classes=3, size="nano")
    model = build_segmentor(segmentor_config("internimage-nano-h", heads))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "own.pth")
    space = {"name": "street", "classes": ["road", "car", "sky"], "colours": ["#804080", "", ""]}
    assert run(tmp_path / "own.pth", tmp_path, {"config": ROW, "label_space": space}, *OUTPUTS) == 0
    config, audit = read_json(tmp_path / "config"), read_json(tmp_path / "audit")
    assert (config["dataset"], config["classes"], config["colours"]) == ("street", space["classes"], space["colours"])
    assert (audit["new"], audit["resized"], audit["unused"]) == ([], {}, {})
    tensors = load_file(tmp_path / "weights")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())
    assert tensors["decode_head.cls_embed.weight"].shape[0] == 4
    # The same file is refused for other classes: a head of 124 outputs would be drawn at random.
    assert run(tmp_path / "own.pth", tmp_path, {"config": ROW}, *OUTPUTS) == 2


def refiner_state(golden_tables: Path, table: str) -> dict[str, Tensor]:
    shapes = json.loads((golden_tables / "keys" / f"{table}.json").read_text())
    return {name: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for name, shape in shapes.items()}


@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize("table", ["sam_vit_b", "cascadepsp"])
def test_refiners_keep_their_packages_names(table, golden_tables, tmp_path):
    state = refiner_state(golden_tables, table)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "model")
    assert run(tmp_path / "model", tmp_path, None, "weights", "audit") == 0
    found = load_file(tmp_path / "weights")
    assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in state.items()}


def failure(capsys: pytest.CaptureFixture) -> str:
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vss import-checkpoint: ")]
    assert len(printed) == 1
    return printed[0]


def test_mistakes_are_one_line(old_file, tmp_path, capsys):
    cases = [
        ({"config": "upernet_swin-nano_vspw"}, ("weights",), "the model's backbone is Swin"),
        ({"config": "no_such_row"}, ("weights",), "no_such_row"),
        ({"cfg_options": {}}, ("weights",), "need the key 'config'"),
        (None, ("weights", "config"), "--config needs a row"),
        ({"config": ROW}, ("weights", "fingerprint"), "would predict noise: name the file as `init`"),
    ]
    for settings, outputs, words in cases:
        assert run(old_file, tmp_path, settings, *outputs) == 2
        assert words in failure(capsys)
        assert not (tmp_path / "weights").exists()


def test_an_unknown_file_is_named_by_its_tensors(tmp_path, capsys):
    torch.save({"fnet.conv1.weight": torch.zeros(1)}, tmp_path / "raft.pth")
    assert run(tmp_path / "raft.pth", tmp_path, None, "weights") == 2
    assert "of no known kind; its 1 tensors are fnet.conv1.weight" in failure(capsys)


def test_a_file_describes_its_own_model(old_file):
    file = read_weights(old_file)
    kind = file.kind
    assert str(kind) == "Mask2Former InternImage-nano-h, 171 classes, 64-d, 24 queries (names of mmdet 2)"
    assert set(described_model(kind, where=old_file)) == set(file.tensors)
    with pytest.raises(UserError, match=r"iter_12500\.pth: .*; no model row has these sizes; pass --settings"):
        described_model(dataclasses.replace(kind, head_size=None), where=old_file)
