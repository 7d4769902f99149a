"""Training of the small refinement network, for runs that have no CascadePSP weights.

CascadePSP's own recipe: true masks perturbed in, true masks out; Adam, step decay. One process, one device; the result
is a function of (settings, data), and a killed training continues where its last checkpoint was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.core.files import canonical_json, sealed, sha256_of_file, write_text
from vss.core.index import Card, read_dataset
from vss.core.log import log, track
from vss.prepare.recheck import checked_content
from vss.refine.losses import refinement_loss
from vss.refine.network import NETWORKS, build_network
from vss.refine.samples import Batch, MaskSamples
from vss.refine.settings import one_of, with_defaults
from vss.train.whole import is_whole, remove, save_whole
from vss.train.workdir import folder_for_content, locked, note_content
from vss.weights.fingerprint import Fingerprint, write_fingerprint
from vss.weights.tensor_files import save_tensors

DEFAULTS: dict[str, Any] = {
    "network": "cascadepsp-mini",  # row of NETWORKS
    "crop": 64,  # pixels of a sample's sides; upstream 224
    "max_iters": 240,
    "batch_size": 8,
    "lr": 5e-3,  # Adam; upstream 2.25e-4 for the large network
    "min_area": 48,  # pixels; smaller parts are not trained on
    "dilate": 3,  # pixels; see parts.split_components
    "seed": 0,
    "checkpoint_interval": 40,  # iterations
    "val_samples": 64,  # parts of val measured at the end; 0 = none
}
# The rest of the recipe, upstream's where upstream has one. Together with the settings it names the work folder.
RECIPE: dict[str, Any] = {
    "weight_decay": 1e-4,
    "milestones": [0.5, 0.83],  # shares of max_iters after which the learning rate falls tenfold
    "iou_target": [0.8, 1.0],  # range of the perturbed masks' IoU with the truth
    "margin": 0.25,  # see parts.split_components
    "log_interval": 20,  # iterations
}
_NOT_IN_HASH = ("checkpoint_interval",)


def train_refiner(
    *,
    settings: Mapping[str, Any],
    index: str | os.PathLike,
    card: str | os.PathLike,
    weights: str | os.PathLike,
    fingerprint: str | os.PathLike,
    log_file: str | os.PathLike,
    work_dir: str | os.PathLike,
    code: str,
) -> None:
    """Trains a refinement network on the masks of the train split.

    Args:
        settings: see `DEFAULTS`.
        index, card: of the dataset.
        weights: safetensors file to write.
        fingerprint: JSON to write last (`Fingerprint`).
        log_file: JSON lines to write: {iter, loss, lr, iou_before, iou_after} of the training batches since the line
            before, and at the end {iter, split: "val", iou_before, iou_after} of perturbed masks of the val split.
        work_dir: where the resumable state is kept, in a folder named by a hash of settings and data.
        code: digest of the training code, for the fingerprint.

    Raises:
        UserError: a mistake in the settings, no masks in the train split, a file that cannot be read.
    """
    resolved = resolve_settings(settings)
    rows, dataset = read_dataset(index, card)
    rows = rows[rows["mask"] != ""]
    if not (rows["split"] == "train").any():
        raise UserError(f"{index}: the train split has no masks to train a refiner on")
    content = checked_content(rows, dataset, ["train"])
    folder = folder_for_content(_folder(work_dir, resolved, dataset), content)
    with locked(folder):
        note_content(folder, content)
        training = Training(resolved, folder=folder, device=str(resolve_device("auto")))
        training.run(_samples(rows, "train", dataset, resolved))
        if (rows["split"] == "val").any() and resolved["val_samples"]:
            training.measure(_samples(rows, "val", dataset, resolved))
        _publish(training, resolved, weights=weights, fingerprint=fingerprint, log_file=log_file, code=code)


def resolve_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns complete training settings: with `RECIPE`, and L, the pixels that a part's longer side is reduced to.

    Raises:
        UserError: an unknown key or a value outside its range.
    """
    resolved = with_defaults(settings, DEFAULTS, where="refine training")
    row = NETWORKS[one_of(resolved["network"], NETWORKS, where="refine training network")]
    resolved |= {**RECIPE, "L": row.settings["L"]}
    if resolved["crop"] % 8:
        raise UserError(f"refine training: crop = {resolved['crop']}, expected a multiple of 8")
    for key in ("crop", "max_iters", "batch_size", "checkpoint_interval"):
        if resolved[key] < 1:
            raise UserError(f"refine training: {key} = {resolved[key]}, expected at least 1")
    return resolved


def _folder(work_dir: str | os.PathLike, settings: Mapping[str, Any], card: Card) -> Path:
    content = {key: value for key, value in settings.items() if key not in _NOT_IN_HASH}
    text = canonical_json({"settings": content, "data": card.sha256, "root": card.root})
    return Path(work_dir) / hashlib.sha256(text.encode()).hexdigest()[:16]


def _samples(rows: Any, split: str, card: Card, settings: Mapping[str, Any]) -> MaskSamples:
    options = {key: settings[key] for key in ("crop", "L", "min_area", "dilate", "margin")}
    return MaskSamples(rows[rows["split"] == split], card, iou_target=tuple(settings["iou_target"]), **options)


class Training:
    """A training that can be continued: network, optimizer, iteration and log.

    Args:
        settings: complete.
        folder: where the state file is; a state found there is taken up.
        device: torch device.
    """

    def __init__(self, settings: Mapping[str, Any], *, folder: Path, device: str) -> None:
        self._settings, self._device, self._state_file = settings, device, folder / "state.pth"
        torch.manual_seed(settings["seed"])
        self.network = build_network(settings["network"]).to(device)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"]
        )
        self.iteration, self.log = 0, []
        self._since: list[dict[str, float]] = []  # figures of the iterations since the last line of the log
        self._restore()

    def run(self, samples: MaskSamples) -> None:
        """Trains up to `max_iters`."""
        s = self._settings
        log(f"train refiner {s['network']}: iterations {self.iteration}..{s['max_iters']} on {self._device}")
        self.network.train()
        iterations = range(self.iteration, s["max_iters"])
        for iteration in track(iterations, what=f"train refiner {s['network']}", unit="iteration"):
            self._since.append(self._step(samples.batch(s["seed"], iteration, size=s["batch_size"]), iteration))
            self.iteration = iteration + 1
            last = self.iteration == s["max_iters"]
            if last or self.iteration % s["log_interval"] == 0:
                self.log.append({"iter": self.iteration, **_means(self._since)})
                self._since = []
            if last or self.iteration % s["checkpoint_interval"] == 0:
                self._save()

    def _step(self, batch: Batch, iteration: int) -> dict[str, float]:
        lr = self._lr(iteration)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        outputs = self.network(batch.image.to(self._device), batch.given.to(self._device))
        truth = batch.truth.to(self._device)
        loss = refinement_loss(outputs, truth)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return {"loss": loss.item(), "lr": lr, **_overlap(batch, outputs["pred_224"])}

    def _lr(self, iteration: int) -> float:
        passed = sum(iteration >= share * self._settings["max_iters"] for share in self._settings["milestones"])
        return self._settings["lr"] * 0.1**passed

    @torch.inference_mode()
    def measure(self, samples: MaskSamples) -> None:
        """Logs the mean IoU of perturbed masks before and after refinement."""
        self.network.eval()
        size, count = self._settings["batch_size"], self._settings["val_samples"]
        lines = []
        for start in range(0, count, size):
            batch = samples.batch(self._settings["seed"], start, size=min(size, count - start))
            outputs = self.network(batch.image.to(self._device), batch.given.to(self._device))
            lines += len(batch.image) * [_overlap(batch, outputs["pred_224"])]  # a sample counts the same in any batch
        means = _means(lines)
        self.log.append({"iter": self.iteration, "split": "val", **means})
        log(f"train refiner: val IoU of perturbed masks {means['iou_before']:.4f}, refined {means['iou_after']:.4f}")

    def _save(self) -> None:
        state = {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "log": json.dumps([self.log, self._since]),
        }
        save_whole(self._state_file, lambda aside: torch.save(state, aside))

    def _restore(self) -> None:
        if not self._state_file.is_file():
            return
        if not is_whole(self._state_file):
            log(f"{self._state_file}: damaged or cut short, removed; the training starts from iteration 0")
            remove(self._state_file)
            return
        state = torch.load(self._state_file, map_location=self._device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.iteration, (self.log, self._since) = state["iteration"], json.loads(state["log"])


def _means(lines: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(sum(line[key] for line in lines) / len(lines), 6) for key in lines[0]}


def _overlap(batch: Batch, refined: torch.Tensor) -> dict[str, float]:
    truth = batch.truth > 0.5
    return {
        "iou_before": _mean_iou(batch.given > 0, truth),
        "iou_after": _mean_iou(refined.detach().cpu() > 0.5, truth),
    }


def _mean_iou(masks: torch.Tensor, truth: torch.Tensor) -> float:
    both, either = (masks & truth).sum(dim=(1, 2, 3)), (masks | truth).sum(dim=(1, 2, 3))
    return float((both / either.clamp(min=1)).mean())


def _publish(
    training: Training,
    settings: Mapping[str, Any],
    *,
    weights: str | os.PathLike,
    fingerprint: str | os.PathLike,
    log_file: str | os.PathLike,
    code: str,
) -> None:
    save_tensors(training.network.state_dict(), weights)
    write_text(log_file, "".join(json.dumps(sealed(line)) + "\n" for line in training.log))
    write_fingerprint(
        fingerprint,
        Fingerprint(
            sha256=sha256_of_file(weights),
            stage="refine",
            model=settings["network"],
            settings=dict(settings),
            code=code,
        ),
    )
