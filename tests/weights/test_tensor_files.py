"""Files of weights: every layout that trainers write is read, and nothing in a file is ever run."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from tests.fuzz.test_fuzz_text import one_line_or_fine
from vss.core.errors import UserError
from vss.weights.tensor_files import open_safetensors, read_tensor_file, save_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.num_batches_tracked": torch.tensor(7)}


def assert_read(path: Path) -> None:
    tensors = read_tensor_file(path).tensors
    assert list(tensors) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "model_ema", None])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_layout_is_read(key, legacy, tmp_path):
    content = OrderedDict(TENSORS) if key is None else {key: OrderedDict(TENSORS), "epoch": 3}
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert_read(path)


def test_the_first_of_the_known_keys_is_taken(tmp_path):
    torch.save({"model_ema": {"x": torch.zeros(1)}, "state_dict": TENSORS}, tmp_path / "weights.pth")
    assert_read(tmp_path / "weights.pth")


def test_safetensors_are_recognised_by_content_not_by_name(tmp_path):
    save_file(TENSORS, tmp_path / "model")
    assert set(read_tensor_file(tmp_path / "model").tensors) == set(TENSORS)
    torch.save(TENSORS, tmp_path / "model.safetensors")
    assert_read(tmp_path / "model.safetensors")


def test_what_trainers_leave_beside_the_weights_is_passed_over(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    left = {
        "message_hub": {"log_scalars": {"loss": buffer}, "resumed_keys": OrderedDict()},
        "best": np.float64(0.5),
        "palette": np.zeros((3, 3), np.uint8),
        "args": argparse.Namespace(lr=1.0),
        "config": ConfigDict(model={"type": "x", "depths": [1, 2]}),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    torch.save({"state_dict": TENSORS, **left}, tmp_path / "weights.pth")
    assert_read(tmp_path / "weights.pth")


@pytest.mark.parametrize("meta", [{"CLASSES": ("wall", "sky")}, {"dataset_meta": {"classes": ("wall", "sky")}}])
def test_class_names_of_the_file_are_found(meta, tmp_path):
    torch.save({"state_dict": TENSORS, "meta": meta}, tmp_path / "weights.pth")
    assert read_tensor_file(tmp_path / "weights.pth").classes == ["wall", "sky"]


def test_our_own_files_are_marked_and_those_of_a_newer_version_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_tensors({"t": torch.arange(6.0).reshape(2, 3).T}, path)
    file = read_tensor_file(path)
    assert (file.is_ours, file.tensors["t"].tolist()) == (True, [[0, 3], [1, 4], [2, 5]])
    with open_safetensors(path) as opened:
        assert opened.metadata() == {"vss_weights": "1"}  # more entries would come in random order
    save_file(TENSORS, path, metadata={"vss_weights": "2"})
    with pytest.raises(UserError, match=r"weights\.safetensors: weights of version 2, known is 1"):
        read_tensor_file(path)
    save_file(TENSORS, path, metadata={"format": "pt"})
    assert not read_tensor_file(path).is_ours


class _Runs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused(form, protocol, tmp_path):
    evil, path = {"state_dict": TENSORS, "meta": _Runs(tmp_path / "proof")}, tmp_path / "weights.pth"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(evil, protocol=protocol))
    else:
        torch.save(evil, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"weights\.pth") as caught:
        read_tensor_file(path)
    assert "\n" not in str(caught.value)
    if protocol == 2 and form != "bare pickle":
        assert "reading it would run" in str(caught.value)
        assert "mkdir" in str(caught.value)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("function", ["builtins.eval", "builtins.exec", "os.system", "subprocess.Popen", "torch.load"])
def test_the_list_of_allowed_names_holds_nothing_that_runs(function, tmp_path):
    module, name = function.rsplit(".", 1)
    code = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x01\x00\x00\x00x\x85R."
    (tmp_path / "weights.pth").write_bytes(code)
    with pytest.raises(UserError):
        read_tensor_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [b"", b"rrr", b"<html>not found</html>", b"PK\x03\x04broken", b"12345678{broken"])
def test_what_is_no_weights_file_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth") as caught:
        read_tensor_file(tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"echo hello world\n", "a text file"),
        (b"the quick brown fox\n", "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04broken", "a zip archive"),
        (pickle.dumps({"a": [1.0]}), "a pickle"),
        (pickle.dumps({"meta": _Runs(Path("proof"))}, protocol=4), "a pickle"),
        (bytes(range(1, 30)), "something unknown"),
    ],
)
def test_what_a_file_is_and_what_is_allowed_is_said_in_our_own_words(content, said, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=rf"weights\.pth: .*{said}.*allowed: safetensors, or .* by default$") as caught:
        read_tensor_file(tmp_path / "weights.pth")
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_damaged_anywhere_in_its_end_is_read_or_refused_in_one_line(tmp_path) -> None:
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    file = tmp_path / "harmed.pth"
    for place in range(len(content) - 120, len(content)):  # the zip archive's end records
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = one_line_or_fine(read_tensor_file, file)
        assert found is None or list(found.tensors) == ["layer.weight"]


def test_a_file_without_tensors_and_no_file_are_refused(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="no tensors found"):
        read_tensor_file(tmp_path / "empty.pth")
    with pytest.raises(UserError, match="no such weights file"):
        read_tensor_file(tmp_path / "absent.pth")


def test_what_current_trainers_leave_beside_the_weights_is_read(tmp_path) -> None:
    counts = collections.defaultdict(list, {"loss": [1.0]})
    content = {
        "state_dict": {"w": torch.arange(3.0)},
        "history": counts,
        "last": collections.deque([1, 2], maxlen=5),
        "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(seconds=3),
    }
    torch.save(content, tmp_path / "new.pth")
    assert read_tensor_file(tmp_path / "new.pth").tensors["w"].tolist() == [0, 1, 2]


def test_a_path_saved_under_python_3_13_is_read(tmp_path) -> None:
    class PosixPath:
        def __reduce__(self) -> tuple:
            return PosixPath, ("work", "run")

    PosixPath.__module__, PosixPath.__qualname__ = "pathlib._local", "PosixPath"
    local = types.ModuleType("pathlib._local")
    local.PosixPath = PosixPath
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pathlib._local", local)
        torch.save({"model": {"w": torch.ones(2)}, "folder": PosixPath()}, tmp_path / "new.pth")
    assert read_tensor_file(tmp_path / "new.pth").tensors["w"].tolist() == [1, 1]


def sharded(folder: Path) -> Path:
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, part in parts.items():
        save_file({name: torch.ones(2)}, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 16}, "weight_map": parts}))
    return index


def test_sharded_safetensors_are_read_by_their_index(tmp_path) -> None:
    assert sorted(read_tensor_file(sharded(tmp_path)).tensors) == ["a", "b"]


def test_sharded_safetensors_that_are_not_whole_are_named(tmp_path) -> None:
    index = sharded(tmp_path)
    with pytest.raises(UserError, match=r"part 1 of 2 of the weights; name .*index\.json instead"):
        read_tensor_file(tmp_path / "model-00001-of-00002.safetensors")
    for weight_map, says in (
        ({"a": "../secret.safetensors"}, "no file next to it"),
        ({"a": "model-00003-of-00002.safetensors"}, "no file next to it"),
        ({"c": "model-00001-of-00002.safetensors"}, "tensor 'c' is not in the part"),
        ({}, "'weight_map' is missing or empty"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=says):
            read_tensor_file(index)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2, 2).to_sparse(), "sparse"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (torch.ones(2, device="meta"), "without numbers"),
    ],
)
def test_a_tensor_that_holds_no_plain_numbers_is_named(tmp_path: Path, tensor: torch.Tensor, kind: str) -> None:
    torch.save({"whole": torch.ones(2), "odd": tensor}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: tensor 'odd' is {kind}.*; weights must be dense"):
        read_tensor_file(tmp_path / "w.pth")
