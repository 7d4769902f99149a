"""The flow stage: its file, both methods, and what a wrong choice says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_dataset import write_dataset
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.images import read_image
from vss.flow.flow_file import FlowReader, FlowWriter
from vss.flow.raft import RaftFlow
from vss.flow.run import cell_means, flow


def test_flow_is_stored_to_half_a_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    forward, backward = (rng.uniform(-40, 40, (5, 7, 2)).astype(np.float32) for _ in range(2))
    forward[0, 0] = np.nan, 1e9
    with FlowWriter(tmp_path / "flow.h5", provenance={}) as writer:
        writer.write("v", "1", forward, backward)
    with FlowReader(tmp_path / "flow.h5") as reader:
        assert ("v", "1") in reader and ("v", "2") not in reader
        found = reader.read("v", "1")
        np.testing.assert_allclose(found[1], backward, atol=0.25)
        np.testing.assert_allclose(found[0].ravel()[2:], forward.ravel()[2:], atol=0.25)
        assert found[0][0, 0].tolist() == [16383.5, 16383.5]  # nowhere in a frame
        with pytest.raises(UserError, match="no flow for frame '2'"):
            reader.read("v", "2")


def test_raft_through_the_stage(tmp_path: Path, raft_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos, of two frames and of one."""
    rng = np.random.default_rng(2)
    images = {
        "a": rng.integers(0, 256, (2, 128, 130, 3), np.uint8),
        "b": rng.integers(0, 256, (1, 128, 130, 3), np.uint8),
    }
    masks = {video: np.zeros(frames.shape[:3], np.uint8) for video, frames in images.items()}
    dataset = write_dataset(tmp_path, masks, images=images)
    monkeypatch.setattr("vss.flow.raft._ITERATIONS", 1)
    common = {"index": dataset.index, "card": dataset.card, "split": "val", "shard": 0, "shards": 1}

    flow(method="raft", weights=raft_weights, out=tmp_path / "0.h5", device="cpu", **common)
    with FlowReader(tmp_path / "0.h5") as reader:
        assert reader.keys() == [("a", "00000000")]
        assert reader.provenance["flow"] == "raft" and reader.provenance["precision"] == "float32"
        assert reader.provenance["weights_sha256"] == sha256_of_file(raft_weights)
        forward, backward = reader.read("a", "00000000")
    stored = [read_image(str(tmp_path / "0" / f"0000000{n}.jpg")) for n in (0, 1)]
    raft = RaftFlow(raft_weights, "cpu")
    for found, pair in ((forward, stored), (backward, stored[::-1])):
        np.testing.assert_allclose(found, cell_means(raft(*pair).transpose(1, 2, 0)), atol=0.26)


@pytest.mark.parametrize(
    ("method", "weights", "message"),
    [
        ("x", None, "flow method: 'x', allowed: dis, raft"),
        ("raft", None, "flow raft: no weights given"),
        ("dis", "raft.pth", "flow dis: takes no weights"),
    ],
)
def test_a_flow_that_cannot_be_used_is_one_line(tmp_path: Path, method: str, weights: str | None, message: str) -> None:
    files = {"index": tmp_path / "index.csv", "card": tmp_path / "dataset.json", "out": tmp_path / "0.h5"}
    with pytest.raises(UserError, match=message):
        flow(method=method, weights=weights, split="val", shard=0, shards=1, **files)
