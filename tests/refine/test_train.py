"""Training of the small refiner: perturbed masks, losses, the network's start, kill and resume."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.refine.scenes import DISC, scene
from tests.train.tiny import start
from vss.configs.schema import read_section
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.index import read_card, read_index, write_card, write_index
from vss.core.labels_file import LabelsReader
from vss.refine import train as train_module
from vss.refine.cascadepsp import image_tensor, mask_tensor
from vss.refine.losses import gradient_magnitude, refinement_loss
from vss.refine.network import build_network
from vss.refine.perturb import iou, perturb
from vss.refine.run import refine
from vss.refine.settings import RefinerTrainingSettings
from vss.refine.train import train_refiner
from vss.weights.fingerprint import read_fingerprint

SHORT = {"crop": 32, "max_iters": 6, "batch_size": 2, "checkpoint_interval": 2, "val_samples": 2}


def arguments(dataset, name: str, work: str = "work", **settings) -> dict[str, object]:
    out = dataset.folder / name
    return {
        "settings": {**SHORT, **settings},
        "index": dataset.index,
        "card": dataset.card,
        "weights": out / "weights.safetensors",
        "fingerprint": out / "fingerprint.json",
        "log_file": out / "log.jsonl",
        "work_dir": dataset.folder / work,
        "code": "0",
    }


def train(dataset, name: str, work: str = "work", **settings) -> Path:
    train_refiner(**arguments(dataset, name, work, **settings))
    return dataset.folder / name


@pytest.fixture(autouse=True)
def log_every_other_iteration(monkeypatch):
    monkeypatch.setattr(train_module, "RECIPE", dataclasses.replace(train_module.RECIPE, log_interval=2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), target=st.floats(0.5, 1.0))
def test_perturbed_masks_fall_just_below_their_target(seed, target):
    rng = np.random.default_rng(seed)
    _, truth = scene(rng, 60, 90)
    mask = truth == DISC
    changed = perturb(mask, rng, iou_target=target)
    assert changed.dtype == bool and changed.shape == mask.shape
    assert 0.3 * target < iou(changed, mask) < target


@pytest.mark.parametrize("mask", [np.zeros((20, 20), bool), np.ones((20, 20), bool), np.ones((1, 9), bool)])
def test_masks_without_a_boundary_can_be_perturbed(mask):
    assert perturb(mask, np.random.default_rng(0), iou_target=0.9).shape == mask.shape


def test_iou_by_hand():
    assert iou(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)) == pytest.approx(1 / 3)
    assert iou(np.zeros(3, bool), np.zeros(3, bool)) == 1.0


def test_gradient_magnitude_by_hand():
    # A ramp of slope 1: the 3x3 mean keeps it, Sobel / 4 sees (2 - 0) * (1 + 2 + 1) / 4 = 2 along it and 0 across.
    ramp = torch.arange(9.0).repeat(9, 1)[None, None]
    assert gradient_magnitude(ramp)[0, 0, 4, 4].item() == pytest.approx(np.sqrt(4 + 1e-4))
    torch.testing.assert_close(gradient_magnitude(ramp.mT), gradient_magnitude(ramp).mT)


def test_the_loss_is_least_at_the_truth():
    truth = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()

    def loss(certainty: float) -> float:
        logits = (2 * truth - 1) * certainty
        names = ("224", "28", "56", "28_2", "28_3", "56_2")
        outputs = {f"out_{name}": logits for name in names} | {f"pred_{name}": logits.sigmoid() for name in names}
        return refinement_loss(outputs, truth).item()

    assert loss(20.0) == pytest.approx(0, abs=1e-6)
    assert loss(20.0) < loss(1.0) < loss(0.0) < loss(-1.0)


@torch.inference_mode()
def test_the_untrained_small_network_returns_the_mask_it_is_given():
    torch.manual_seed(0)
    network = build_network("cascadepsp-mini").eval()
    image, truth = scene(np.random.default_rng(1), 48, 64)
    mask = mask_tensor(truth == DISC)
    outputs = network(image_tensor(image), mask)
    torch.testing.assert_close(outputs["pred_224"] > 0.5, mask > 0)
    assert {name for name in outputs if name.startswith("pred")} == {
        "pred_224", "pred_28", "pred_28_2", "pred_28_3", "pred_56", "pred_56_2",
    }  # fmt: skip


def test_a_trained_network_mends_perturbed_masks_and_predictions(dataset):
    """The drawn scenes are easy: sixty small batches must show."""
    out = train(dataset, "out", crop=48, max_iters=60, batch_size=4, lr=0.01, val_samples=16, dilate=0)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in log] == [*range(2, 61, 2), 60]
    assert log[-1]["split"] == "val"
    assert 1 - log[-1]["iou_after"] < 0.9 * (1 - log[-1]["iou_before"])

    refined = dataset.folder / "refined.h5"
    refine(
        settings={"method": "cascadepsp", "settings": {"min_area": 40, "dilate": 0}},
        labels=dataset.labels,
        index=dataset.index,
        card=dataset.card,
        split="val",
        shard=0,
        shards=1,
        weights=out / "weights.safetensors",
        out=refined,
    )
    with LabelsReader(dataset.labels) as before, LabelsReader(refined) as after:
        errors = [
            np.mean([(reader.read(*key) != dataset.truths[key]).mean() for key in reader.keys()])  # noqa: SIM118
            for reader in (before, after)
        ]
    assert errors[1] < errors[0]


def test_the_fingerprint_stands_for_the_weights(dataset):
    out = train(dataset, "out")
    fingerprint = read_fingerprint(out / "fingerprint.json")
    assert fingerprint.sha256 == sha256_of_file(out / "weights.safetensors")
    assert (fingerprint.stage, fingerprint.model) == ("refine", "cascadepsp-mini")
    assert fingerprint.settings["max_iters"] == 6 and fingerprint.settings["lr"] == 0.005


def test_exactly_as_many_val_samples_as_asked_for_are_measured_alike(dataset, monkeypatch):
    batch, sizes = train_module.MaskSamples.batch, []

    def recorded(self, *key, size):
        sizes.append(size)
        return batch(self, *key, size=size)

    ious = iter([0.5, 0.5, 0.8])  # of two samples, of two, of one
    monkeypatch.setattr(train_module.MaskSamples, "batch", recorded)
    monkeypatch.setattr(train_module.RefinerTrainer, "_step", lambda self, batch, iteration: {"loss": 0.0})
    monkeypatch.setattr(train_module, "_overlap", lambda *_: dict.fromkeys(("iou_before", "iou_after"), next(ious)))
    out = train(dataset, "out", max_iters=1, val_samples=5)
    assert sizes[1:] == [2, 2, 1]
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["iou_after"] == pytest.approx(0.56)


def test_an_interrupted_training_continues_to_the_same_weights(dataset, monkeypatch):
    whole = train(dataset, "whole", work="work-1")

    step = train_module.RefinerTrainer._step

    def interrupted(self, batch, iteration):
        if iteration == 5:
            raise KeyboardInterrupt
        return step(self, batch, iteration)

    monkeypatch.setattr(train_module.RefinerTrainer, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, "parts", work="work-2")
    assert not (dataset.folder / "parts").exists()

    seen = []
    monkeypatch.setattr(train_module.RefinerTrainer, "_step", lambda *a: seen.append(a[2]) or step(*a))
    parts = train(dataset, "parts", work="work-2")
    assert seen == [4, 5]  # continued from the checkpoint after iteration 4
    for name, value in load_file(whole / "weights.safetensors").items():
        torch.testing.assert_close(load_file(parts / "weights.safetensors")[name], value, rtol=0, atol=0)
    assert (whole / "log.jsonl").read_text() == (parts / "log.jsonl").read_text()

    seen.clear()
    train(dataset, "again", work="work-2")
    assert seen == []  # finished: published without training

    (state,) = (dataset.folder / "work-2").rglob("state.pth")
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    train(dataset, "damaged", work="work-2")
    assert seen == list(range(6))


def test_a_killed_job_leaves_the_lock_free_and_its_checkpoints_whole(dataset):
    job = start(train_refiner, **arguments(dataset, "out", max_iters=10**6))
    try:
        while not list((dataset.folder / "work").glob("*/state.pth")):
            assert job.is_alive()
            time.sleep(0.05)
    finally:
        job.kill()
        job.join()
    assert not (dataset.folder / "out").exists()
    (state,) = (dataset.folder / "work").glob("*/state.pth")
    assert torch.load(state, weights_only=True)["iteration"] % SHORT["checkpoint_interval"] == 0
    with train_module.locked(state.parent):
        pass


def test_other_settings_or_data_have_another_work_folder(dataset):
    train(dataset, "a")
    train(dataset, "b", lr=0.1)
    train(dataset, "c", checkpoint_interval=3)
    assert len(list((dataset.folder / "work").iterdir())) == 2


def test_trainings_of_today_are_found_again(monkeypatch):
    card = SimpleNamespace(sha256="0" * 64, root="/data")

    def folder(**given):
        settings = read_section(RefinerTrainingSettings, "refiner_training", given, where="refine training")
        return train_module._folder("work", settings, card).name

    monkeypatch.setattr(train_module, "RECIPE", train_module.Recipe())
    assert folder() == "60a118a487f67162"
    assert folder(max_iters=3, lr=0.01) == "82d3dc885b74c90a"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"iterations": 3}, "iterations"),
        ({"network": "cascadepsp-maxi"}, "cascadepsp-maxi"),
        ({"crop": 60}, "crop: is 60, must be a multiple of 8"),
        ({"max_iters": 0}, "max_iters: is 0, must be at least 1"),
        ({"log_interval": 5}, "log_interval"),
        ({"min_area": 10**6}, "min_area"),
    ],
)
def test_mistakes_are_named(dataset, given, named):
    with pytest.raises(UserError, match=named):
        train(dataset, "out", **given)


def test_a_full_memory_is_one_line(dataset, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(train_module.RefinerTrainer, "_step", full)
    with pytest.raises(UserError, match=r"^train refiner: 2 samples of 32 pixels do not fit .*; lower batch_size or"):
        train(dataset, "out")


def test_a_dataset_without_training_masks_is_refused(dataset):
    rows = read_index(dataset.index)
    write_index(dataset.index, pd.DataFrame(rows[rows["split"] == "val"]))
    card = dataclasses.replace(read_card(dataset.card), sha256=sha256_of_file(dataset.index))
    write_card(dataset.card, card)
    with pytest.raises(UserError, match="train split has no masks"):
        train(dataset, "out")
