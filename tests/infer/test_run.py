"""The infer stage: shards, frames of any size, bit-equality, whole files, provenance, mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_dataset import write_dataset

from tests.stopped_jobs import stopped_and_run_again
from vss.configs.resolved import read_model_config
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.core.index import read_index
from vss.core.labels_file import LabelsReader
from vss.core.scores_file import ScoresReader
from vss.infer.load import default_precision
from vss.infer.run import infer
from vss.weights.fingerprint import Fingerprint, write_fingerprint

SIZES = {"wide": (32, 57), "-- tall": (57, 32), "odd": (41, 33), "square": (40, 40)}
TTA = {"img_ratios": [0.5, 1.0, 1.25], "flip": True}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = {v: [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(3)] for v, size in SIZES.items()}
    masks = {video: [np.ones(size, np.uint8)] * 3 for video, size in SIZES.items()}
    return write_dataset(tmp_path_factory.mktemp("data"), masks, images=images)


def run(model, dataset, out, **options):
    options = {"settings": {"tta": TTA}, "split": "val", "shard": 0, "shards": 1, "device": "cpu"} | options
    weights = options.pop("weights", model / "weights.safetensors")
    infer(weights=weights, config=model / "config.json", index=dataset.index, card=dataset.card, out=out, **options)


def read_labels(*paths):
    found = {}
    for path in paths:
        with LabelsReader(path) as reader:
            keys = reader.keys()
            assert not found.keys() & set(keys)
            found |= {key: reader.read(*key) for key in keys}
    return found


@pytest.fixture(scope="module")
def reference(nano_model, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    run(nano_model, dataset, [folder / "0.labels.h5", folder / "0.scores.h5"])
    return folder


def test_every_frame_at_its_own_size(reference, dataset):
    rows = read_index(dataset.index)
    found = read_labels(reference / "0.labels.h5")
    assert {key: labels.shape for key, labels in found.items()} == {
        (row.video, row.frame): (row.height, row.width) for row in rows.itertuples()
    }
    assert max(labels.max() for labels in found.values()) < 124
    assert len(np.unique(np.concatenate([labels.ravel() for labels in found.values()]))) > 3


def test_a_stopped_shard_goes_on_and_is_equal_to_the_bit(nano_model, dataset, reference, tmp_path, monkeypatch):
    def job(folder):
        run(nano_model, dataset, [folder / "0.labels.h5", folder / "0.scores.h5"])

    expected = tuple((reference / name).read_bytes() for name in ("0.labels.h5", "0.scores.h5"))
    assert stopped_and_run_again(job, tmp_path, monkeypatch, frames=9) == expected


def test_labels_are_the_argmax_of_the_scores(reference):
    labels = read_labels(reference / "0.labels.h5")
    with ScoresReader(reference / "0.scores.h5") as scores:
        for (video, frame), expected in labels.items():
            probabilities = scores.read(video, frame)
            assert probabilities.shape == (124, *expected.shape)
            assert np.array_equal(probabilities.argmax(0), expected)


@pytest.mark.parametrize(
    "options",
    [{"workers": 1}, {"workers": 3}, {"shards": 3}, {"threads": 2}],
    ids=str,
)
def test_bit_equal_whatever_the_schedule(nano_model, dataset, reference, tmp_path, options):
    options = dict(options)
    torch.set_num_threads(options.pop("threads", 1))
    shards = options.get("shards", 1)
    for shard in range(shards):
        out = [tmp_path / f"{shard}.labels.h5", tmp_path / f"{shard}.scores.h5"]
        run(nano_model, dataset, out, **options | {"shard": shard})
    torch.set_num_threads(1)
    found = read_labels(*tmp_path.glob("*.labels.h5"))
    expected = read_labels(reference / "0.labels.h5")
    assert found.keys() == expected.keys()
    with ScoresReader(reference / "0.scores.h5") as whole:
        for path in tmp_path.glob("*.scores.h5"):
            with ScoresReader(path) as part:
                keys = part.keys()
                for key in keys:
                    assert np.array_equal(found[key], expected[key])
                    assert np.array_equal(part.read(*key), whole.read(*key))


def test_labels_do_not_depend_on_whether_scores_are_kept(nano_model, dataset, reference, tmp_path):
    run(nano_model, dataset, [tmp_path / "0.labels.h5"])
    found, expected = read_labels(tmp_path / "0.labels.h5"), read_labels(reference / "0.labels.h5")
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_an_empty_shard_gives_valid_files(nano_model, dataset, tmp_path):
    run(nano_model, dataset, [tmp_path / "0.labels.h5", tmp_path / "0.scores.h5"], split="test")
    assert read_labels(tmp_path / "0.labels.h5") == {}
    with ScoresReader(tmp_path / "0.scores.h5") as scores:
        assert scores.keys() == []


def test_provenance_names_every_realised_view(reference, nano_model):
    with LabelsReader(reference / "0.labels.h5") as reader:
        provenance = reader.provenance
        assert reader.classes[0] == "wall"
    assert provenance["weights_sha256"] == [sha256_of_file(nano_model / "weights.safetensors")]
    assert (provenance["device"], provenance["precision"], provenance["protocol"]) == ("cpu", "float32", "paper")
    assert set(provenance["views"]) == {f"{h}x{w}" for h, w in SIZES.values()}
    views = provenance["views"]["32x57"]
    assert [(view["size"], view["flip"], view["weight"]) for view in views] == [
        ([16, 29], False, 1),
        ([16, 29], True, 1),
        ([32, 57], False, 1),
        ([32, 57], True, 1),
        ([40, 71], False, 1),
        ([40, 71], True, 1),
    ]


def test_the_resolved_config_names_every_setting_and_realised_view(nano_model, dataset, reference, tmp_path):
    run(nano_model, dataset, [tmp_path / "0.labels.h5", tmp_path / "0.config.json"])
    resolved = read_json(tmp_path / "0.config.json")
    with LabelsReader(reference / "0.labels.h5") as reader:
        assert {key: resolved[key] for key in reader.provenance} == reader.provenance
    assert (resolved["tta"]["img_ratios"], resolved["tta"]["flip"], resolved["tta"]["mode"]) == (
        [0.5, 1, 1.25],
        True,
        "whole",
    )
    assert resolved["views"]["57x32"][0]["size"] == [29, 16]
    config = read_json(nano_model / "config.json")
    assert config.pop("training") and resolved["config"] == config


@pytest.mark.parametrize(
    ("device", "protocol", "trained", "precision"),
    [
        ("cpu", "as_published", "float16", "float32"),
        ("cuda", "paper", "float32", "bfloat16"),
        ("cuda", "as_published", "float16", "float16"),
        ("cuda", "as_published", None, "float32"),
    ],
)
def test_default_precision(device, protocol, trained, precision):
    document = {"model": {}} | ({"training": {"precision": trained}} if trained else {})
    config = read_model_config(document, where="config.json")
    assert default_precision(torch.device(device), protocol, config) == precision


def test_as_published_breaks_the_flip_of_convnext(nano_model, dataset, tmp_path):
    run(nano_model, dataset, [tmp_path / "0.labels.h5"], settings={"tta": {"flip": True}, "protocol": "as_published"})
    with LabelsReader(tmp_path / "0.labels.h5") as reader:
        views = reader.provenance["views"]["32x57"]
    assert {(view["flip"], view["image_flipped"]) for view in views} == {(False, False), (True, False)}


# ---- mistakes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tat": {}}, "unknown key 'tat'"),
        ({"tta": {"ratios": [1]}}, "tta: unknown key 'ratios'"),
        ({"protocol": "published"}, "protocol: is 'published'"),
        ({"tta": {"precision": "int8"}}, "precision: is 'int8'"),
        ({"tta": {"compile": "yes"}}, "compile: is 'yes'"),
    ],
)
def test_mistakes_in_settings(nano_model, dataset, tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        run(nano_model, dataset, [tmp_path / "0.labels.h5"], settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [[], ["0.scores.h5"], ["0.labels.h5", "1.labels.h5"], ["0.labels.h5", "0.txt"]])
def test_mistakes_in_outputs(nano_model, dataset, tmp_path, out):
    with pytest.raises(UserError, match=r"^out: .*expected one \*\.labels\.h5, at most one"):
        run(nano_model, dataset, [tmp_path / name for name in out])


def test_no_such_device(nano_model, dataset, tmp_path):
    with pytest.raises(UserError, match="device: found 'tpu9'"):
        run(nano_model, dataset, [tmp_path / "0.labels.h5"], device="tpu9")
    with pytest.raises(UserError, match="torch sees"):
        run(nano_model, dataset, [tmp_path / "0.labels.h5"], device="cuda:99")


def test_weights_that_do_not_fill_the_model(nano_model, dataset, tmp_path):
    tensors = load_file(nano_model / "weights.safetensors")
    del tensors["decode_head.bottleneck.conv.weight"]
    save_file(tensors, tmp_path / "holes.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of the model, such as decode_head\.bottleneck\.conv\.weight"):
        run(nano_model, dataset, [tmp_path / "0.labels.h5"], weights=tmp_path / "holes.safetensors")


def test_damaged_weights_are_told_by_their_fingerprint(nano_model, dataset, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(nano_model, model)
    weights = model / "weights.safetensors"
    recorded = Fingerprint(sha256_of_file(weights), "finetune", "m", {}, None)
    write_fingerprint(model / "fingerprint.json", recorded)
    run(model, dataset, [out / "0.labels.h5"])
    data = bytearray(weights.read_bytes())
    data[-4000:-2000] = bytes(2000)
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.safetensors: .*damaged or replaced.*made again"):
        run(model, dataset, [out / "1.labels.h5"])
    assert [path.name for path in out.iterdir()] == ["0.labels.h5"]


def test_a_cut_index_is_told(nano_model, dataset, tmp_path):
    index = tmp_path / "index.csv"
    index.write_text("".join(dataset.index.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(UserError, match=r"index\.csv: not the index"):
        run(nano_model, dataclasses.replace(dataset, index=index), [tmp_path / "0.labels.h5"])


def test_nan_weights_are_told_and_leave_no_file(nano_model, dataset, tmp_path):
    tensors = load_file(nano_model / "weights.safetensors")
    tensors["decode_head.conv_seg.bias"][7] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="the model returned inf or nan"):
        run(nano_model, dataset, [out / "0.labels.h5", out / "0.scores.h5"], weights=tmp_path / "nan.safetensors")
    assert not list(out.iterdir())


@pytest.mark.parametrize("damage", ["gone", "broken", "resized"])
def test_a_bad_image_is_named_and_leaves_no_file(nano_model, tmp_path, damage):
    masks = {"a": [np.ones((24, 32), np.uint8)] * 3}
    dataset = write_dataset(tmp_path / "data", masks)
    image = tmp_path / "data" / read_index(dataset.index).image[1]
    if damage == "gone":
        image.unlink()
    elif damage == "broken":
        image.write_bytes(b"\xff\xd8 not a jpeg")
    else:
        cv2.imwrite(str(image), np.zeros((10, 10, 3), np.uint8))
    out = tmp_path / "out"
    with pytest.raises(UserError, match=image.name):
        run(nano_model, dataset, [out / "0.labels.h5"])
    assert not list(out.iterdir())


def test_settings_are_recorded_as_given(reference):
    with LabelsReader(reference / "0.labels.h5") as reader:
        assert reader.provenance["settings"] == json.loads(json.dumps({"tta": TTA}))
