"""Model averaging: floating tensors averaged, counters taken from the last, different models refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file, write_json
from vss.weights.average import average_weights, soup
from vss.weights.fingerprint import Fingerprint, read_fingerprint, write_fingerprint

CONFIG = {"row": "r", "protocol": "paper", "dataset": "vspw", "model": {"type": "Segmentor"}, "classes": ["a"]}
CONFIG |= {"normalisation": {}}


def part(folder, name, *, value, count, **more):
    tensors = {"w": torch.full((2, 3), value), "half": torch.full((2,), value).half(), "n": torch.tensor(count)} | more
    save_file(tensors, folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", CONFIG)
    return folder / f"{name}.safetensors"


def outputs(folder):
    names = {"weights": "weights.safetensors", "fingerprint": "fingerprint.json", "config": "config.json"}
    return {key: folder / name for key, name in (names | {"audit": "audit.json"}).items()}


def test_mean_of_floats_and_last_of_integers(tmp_path):
    parts = [part(tmp_path, name, value=value, count=count) for name, value, count in (("a", 1.0, 5), ("b", 4.0, 9))]
    averaged = average_weights(parts)
    assert torch.equal(averaged["w"], torch.full((2, 3), 2.5))
    assert averaged["half"].dtype == torch.float16 and averaged["half"].tolist() == [2.5, 2.5]
    assert averaged["n"].item() == 9


def test_files_of_a_soup(tmp_path):
    parts = [part(tmp_path, name, value=value, count=1) for name, value in (("a", 1.0), ("b", 2.0), ("c", 6.0))]
    files = outputs(tmp_path / "soup")
    soup(model="mix", parts=parts, configs=[p.with_suffix(".json") for p in parts], **files)
    assert torch.equal(load_file(files["weights"])["w"], torch.full((2, 3), 3.0))
    fingerprint = read_fingerprint(files["fingerprint"])
    assert (fingerprint.model, fingerprint.sha256) == ("mix", sha256_of_file(files["weights"]))
    assert [source["sha256"] for source in fingerprint.settings["soup"]] == [sha256_of_file(p) for p in parts]
    assert read_json(files["audit"]) == {"averaged": ["half", "w"], "from_last": ["n"]}
    assert read_json(files["config"]) == CONFIG


def test_parts_of_different_models_are_refused(tmp_path):
    first = part(tmp_path, "a", value=1.0, count=1)
    with pytest.raises(UserError, match="they differ in extra"):
        average_weights([first, part(tmp_path, "b", value=1.0, count=1, extra=torch.zeros(1))])
    with pytest.raises(UserError, match=r"w is \[5\], in .* \[2, 3\]"):
        average_weights([first, part(tmp_path, "c", value=1.0, count=1, w=torch.zeros(5))])
    (tmp_path / "d.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        average_weights([first, tmp_path / "d.safetensors"])


def test_a_part_that_is_not_what_its_fingerprint_says_is_refused(tmp_path):
    parts = [part(tmp_path, name, value=1.0, count=1) for name in "ab"]
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(parts[0].read_bytes())
    other = Fingerprint(sha256_of_file(parts[0])[::-1], "finetune", "m", {}, None)
    write_fingerprint(tmp_path / "fingerprint.json", other)
    configs = [p.with_suffix(".json") for p in parts]
    with pytest.raises(UserError, match=r"weights\.safetensors: .*damaged or replaced"):
        soup(model="mix", parts=[weights, parts[1]], configs=configs, **outputs(tmp_path / "soup"))


def test_parts_of_different_configs_are_refused(tmp_path):
    parts = [part(tmp_path, name, value=1.0, count=1) for name in "ab"]
    write_json(tmp_path / "b.json", CONFIG | {"classes": ["b"]})
    with pytest.raises(UserError, match="'classes' differs"):
        soup(model="mix", parts=parts, configs=[p.with_suffix(".json") for p in parts], **outputs(tmp_path / "soup"))
    with pytest.raises(UserError, match="expected two or more"):
        soup(model="mix", parts=parts[:1], configs=[tmp_path / "a.json"], **outputs(tmp_path / "soup"))


def test_parts_may_differ_in_gradient_checkpointing(tmp_path):
    parts = [part(tmp_path, name, value=value, count=1) for name, value in (("a", 1.0), ("b", 3.0))]
    for path, with_cp in zip(parts, (False, True), strict=True):
        config = CONFIG | {"model": {"type": "Segmentor", "backbone": {"depth": 2, "with_cp": with_cp}}}
        write_json(path.with_suffix(".json"), config)
    files = outputs(tmp_path / "soup")
    soup(model="mix", parts=parts, configs=[p.with_suffix(".json") for p in parts], **files)
    assert torch.equal(load_file(files["weights"])["w"], torch.full((2, 3), 2.0))
