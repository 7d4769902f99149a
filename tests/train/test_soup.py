"""A soup of one training: never below its best part on val, batch norm renewed, a model like any other."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DefaultScope

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.train.soup import soup_of_run
from vss.train.workdir import finished_folder, kept_weights
from vss.weights.average import average_weights
from vss.weights.fingerprint import read_fingerprint, sha256_of_weights
from vss.weights.tensor_files import read_tensor_file


@pytest.fixture
def run(run_train, prepared, tmp_path):
    """Trains with three parts kept, and returns what averages them."""
    trained = run_train(max_iters=6, checkpoint_interval=2, keep_weights=2, val_frames=2)

    def cook(**settings):
        to = tmp_path / "soup"
        files = {"weights": "weights.safetensors", "fingerprint": "fingerprint.json", "config": "config.json"}
        with DefaultScope.overwrite_default_scope("mmengine"):  # as in a process that has trained nothing
            soup_of_run(
                model="mix",
                settings={"of": "tiny", **settings},
                part=trained["weights"],
                part_config=trained["config"],
                work_dir=tmp_path / "work",
                **prepared("vspw"),
                **{key: to / name for key, name in (files | {"audit": "audit.json"}).items()},
                device="cpu",
            )
        return to

    folder = finished_folder(tmp_path / "work", sha256_of_weights(trained["weights"]))
    return cook, [*kept_weights(folder), trained["weights"]]


def test_soups_of_a_run(run):
    cook, parts = run
    assert [path.name for path in parts] == ["weights_2.safetensors", "weights_4.safetensors", "weights.safetensors"]

    # Greedy: at least as good as the best part.
    folder = cook(last=3)
    found = read_json(folder / "audit.json")["miou"]
    assert found["soup"] >= max(found[path.name] for path in parts)
    assert read_fingerprint(folder / "fingerprint.json").settings["greedy"] == "val"

    # Uniform: the mean of all, but for batch norm, whose statistics are of training samples.
    folder = cook(last=2, greedy=None)
    mean, mixed = average_weights(parts[-2:]), read_tensor_file(folder / "weights.safetensors").tensors
    differing = {name.rpartition(".")[2] for name, tensor in mean.items() if not torch.equal(tensor, mixed[name])}
    assert differing - {"num_batches_tracked"} == {"running_mean", "running_var"}
    assert not [name for name in mean if name.endswith("running_var") and "decode" in name and (mixed[name] <= 0).any()]

    with pytest.raises(UserError, match=r"soup mix: .* has 3 of the last 4 weights of tiny; lower soup\.last"):
        cook(last=4)


def test_weights_of_no_training_have_no_soup(tmp_path):
    with pytest.raises(UserError, match="holds no training of weights 0123"):
        finished_folder(tmp_path, "0123456789abcdef")
