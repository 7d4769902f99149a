"""What the score stage refuses, in one line that names the file, frame or key."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tiny_dataset import write_dataset, write_labels

from tests.damaged_files import refusals_of_damage
from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.index import LeftOut, read_card, write_card
from vss.score.counts import load_counts
from vss.score.shard import score_shard
from vss.score.summary import summarise

MASK = np.array([[1, 2]], np.uint8)
LABELS = np.array([[0, 1]], np.uint8)


def run(folder, dataset, labels, **changes):
    settings = {"split": "val", "shard": 0, "shards": 1, "out": folder / "0.npz", "index": dataset.index}
    score_shard(labels=labels, card=dataset.card, **(settings | changes))


def test_missing_frame_is_named(tmp_path):
    dataset = write_dataset(tmp_path, {"a--b c": [MASK, MASK]})
    labels = write_labels(tmp_path / "x.labels.h5", {"a--b c": [LABELS]})
    with pytest.raises(UserError, match=r"'00000001' of video 'a--b c'"):
        run(tmp_path, dataset, labels)
    assert not (tmp_path / "0.npz").exists()


def test_size_and_values_are_checked(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    for wrong, words in ((LABELS.T, "size"), (LABELS + 123, "outside")):
        labels = write_labels(tmp_path / "x.labels.h5", {"a": [wrong.astype(np.uint8)]})
        with pytest.raises(UserError, match=f"'00000000' of video 'a'.*{words}"):
            run(tmp_path, dataset, labels)


def test_other_classes_are_refused(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    labels = write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]}, classes=["one", "two"])
    with pytest.raises(UserError, match="classes"):
        run(tmp_path, dataset, labels)


def test_split_without_masks_is_refused(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]}, split="test", with_masks=False)
    labels = write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]})
    with pytest.raises(UserError, match="no mask"):
        run(tmp_path, dataset, labels, split="test")


def test_a_cut_index_is_refused(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    labels = write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]})
    header = dataset.index.read_text().splitlines(keepends=True)[0]
    (tmp_path / "short.csv").write_text(header)
    with pytest.raises(UserError, match=r"short\.csv: not the index that .*dataset\.json was written for"):
        run(tmp_path, dataset, labels, index=tmp_path / "short.csv")
    assert not (tmp_path / "0.npz").exists()


def test_a_damaged_score_shard_is_named(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    run(tmp_path, dataset, write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]}), out=tmp_path / "0.npz")
    assert len(refusals_of_damage(tmp_path / "0.npz", range(120), load_counts)) > 60
    (tmp_path / "1.npz").touch()
    with pytest.raises(UserError, match=r"1\.npz: not a readable score shard"):
        load_counts(tmp_path / "1.npz")


def test_unknown_flow_is_refused(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    labels = write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]})
    with pytest.raises(UserError, match=r"flow.*gma.*dis, raft"):
        run(tmp_path, dataset, labels, flow="gma")


def test_incomplete_and_doubled_shards_are_refused(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    labels = write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]})
    for shard in (0, 1):
        run(tmp_path, dataset, labels, shard=shard, shards=2, out=tmp_path / f"{shard}.npz")
    out = {name: tmp_path / f"{name}.out" for name in ("scores", "per_class", "per_video")}
    with pytest.raises(UserError, match="missing"):
        summarise(shards=[tmp_path / "0.npz"], card=dataset.card, **out)
    with pytest.raises(UserError, match="more than one"):
        summarise(shards=[tmp_path / "0.npz", tmp_path / "0.npz"], card=dataset.card, **out)
    assert not out["scores"].exists()


def test_broken_shard_is_named(tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match=r"broken\.npz"):
        load_counts(path)
    with pytest.raises(UserError, match=r"absent\.npz"):
        load_counts(tmp_path / "absent.npz")


def test_scores_say_how_much_was_left_out(tmp_path):
    dataset = write_dataset(tmp_path, {"a": [MASK]})
    run(tmp_path, dataset, write_labels(tmp_path / "x.labels.h5", {"a": [LABELS]}))
    left_out = (LeftOut("val", "a", "1", "image_broken"), LeftOut("train", "b", "", "video_absent"))
    write_card(dataset.card, dataclasses.replace(read_card(dataset.card), left_out=left_out))
    out = {name: tmp_path / f"{name}.out" for name in ("scores", "per_class", "per_video")}
    summarise(shards=[tmp_path / "0.npz"], card=dataset.card, **out)
    counts = read_json(out["scores"])["counts"]
    assert (counts["frames"], counts["left_out"]) == (1, 1)
