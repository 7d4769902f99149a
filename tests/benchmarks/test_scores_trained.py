"""The measurement on a finished run: equal where storing changes nothing, and refused where it would compare apples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dataset import write_dataset

from benchmarks.scores_trained import measure
from tests.nano_model import write_nano_model
from vss.core.errors import UserError
from vss.ensemble.run import ensemble
from vss.infer.run import infer

SIZE = (40, 64)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one model, two predictions of it, and their ensemble."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    images = {"a": [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(2)]}
    masks = {"a": [rng.integers(1, 125, SIZE, dtype=np.uint8) for _ in range(2)]}
    data = write_dataset(folder / "data", masks, images=images)
    (folder / "prepare" / "vspw").mkdir(parents=True)
    index = Path(data.index).rename(folder / "prepare" / "vspw" / "index.csv")
    card = Path(data.card).rename(folder / "prepare" / "vspw" / "dataset.json")
    model = folder / "finetune" / "net"
    write_nano_model(model)
    shard = {"index": index, "split": "val", "shard": 0, "shards": 1}
    scores = []
    for name, flip in (("net.single", False), ("net.flip", True)):
        out = [folder / "predictions" / name / "val" / f"00.{kind}.h5" for kind in ("labels", "scores")]
        made_of = {"weights": model / "weights.safetensors", "config": model / "config.json", "card": card}
        infer(settings={"prediction": name, "tta": {"flip": flip}}, out=out, device="cpu", **made_of, **shard)
        scores.append(out[1:])
    members = [{"name": "net.single", "weight": 1}, {"name": "net.flip", "weight": 2}]
    out = [folder / "predictions" / "both" / "val" / "00.labels.h5"]
    ensemble(settings={"prediction": "both", "members": members}, scores=scores, out=out, **shard)
    return folder


def test_compares_every_ensemble(results) -> None:
    (row,) = measure(results)
    assert (row["ensemble"], row["members"], row["frames"], row["pixels_a_frame"]) == ("both", 2, 2, 40 * 64)
    files = [results / "predictions" / name / "val" / "00.scores.h5" for name in ("net.single", "net.flip")]
    assert row["bytes_a_frame"] == sum(path.stat().st_size for path in files) / 4
    assert 99 < row["percent_agreeing"] <= 100
    assert row["miou_stored"] == pytest.approx(row["miou_dense"], abs=0.1)
    assert measure(results, frames=1)[0]["frames"] == 1


def test_other_weights_are_refused(results, tmp_path) -> None:
    weights = results / "finetune" / "net" / "weights.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept + b" ")
    try:
        with pytest.raises(UserError, match="made with other weights"):
            measure(results)
    finally:
        weights.write_bytes(kept)
    with pytest.raises(UserError, match="no ensemble of split 'train'"):
        measure(results, split="train")
