"""Training of the small refinement network, for runs that have no CascadePSP weights.

CascadePSP's own recipe: true masks perturbed in, true masks out; Adam, step decay. One process, one device; the result
is a function of (settings, data), and a killed training continues where its last checkpoint was.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vss.configs.schema import read_section
from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.core.files import JsonObject, canonical_json, sealed, sha256_of_file, write_text
from vss.core.index import Card, read_dataset
from vss.core.log import log, track
from vss.prepare.recheck import checked_content
from vss.refine.losses import refinement_loss
from vss.refine.network import NETWORKS, build_network
from vss.refine.samples import MaskBatch, MaskSamples
from vss.refine.settings import RefinerTrainingSettings
from vss.train.whole import is_whole, remove, save_whole
from vss.train.workdir import folder_for_content, locked, note_content
from vss.weights.fingerprint import Fingerprint, write_fingerprint
from vss.weights.tensor_files import save_tensors


@dataclass(frozen=True)
class Recipe:
    """Fixed hyperparameters, mostly upstream's; with the settings they name the work folder.

    Attributes:
        weight_decay: of Adam.
        milestones: shares of max_iters after which the learning rate falls tenfold.
        iou_target: range of the perturbed masks' IoU with the truth.
        margin: see `parts.split_components`.
        log_interval: iterations.
    """

    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.5, 0.83)
    iou_target: tuple[float, float] = (0.8, 1.0)
    margin: float = 0.25
    log_interval: int = 20


RECIPE = Recipe()


def train_refiner(
    *,
    settings: JsonObject,
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
        settings: `refiner_training` of the schema.
        index, card: of the dataset.
        weights: safetensors file to write.
        fingerprint: JSON to write last (`Fingerprint`).
        log_file: JSON lines to write: {iter, loss, lr, iou_before, iou_after} of the training batches since the line
            before, and at the end {iter, split: "val", iou_before, iou_after} of perturbed masks of the val split.
        work_dir: where the checkpoint is kept, in a folder named by a hash of settings and data.
        code: digest of the training code, for the fingerprint.

    Raises:
        UserError: a mistake in the settings, no masks in the train split, a file that cannot be read.
    """
    options = read_section(RefinerTrainingSettings, "refiner_training", settings, where="refine training")
    rows, dataset = read_dataset(index, card)
    rows = rows[rows["mask"] != ""]
    if not (rows["split"] == "train").any():
        raise UserError(f"{index}: the train split has no masks to train a refiner on")
    content = checked_content(rows, dataset, ["train"])
    folder = folder_for_content(_folder(work_dir, options, dataset), content)
    with locked(folder):
        note_content(folder, content)
        try:
            trainer = RefinerTrainer(options, folder=folder, device=str(resolve_device("auto")))
            trainer.run(_samples(rows, "train", dataset, options))
            if (rows["split"] == "val").any() and options.val_samples:
                trainer.measure(_samples(rows, "val", dataset, options))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"train refiner: {options.batch_size} samples of {options.crop} pixels do not fit into the GPU's"
                " memory; lower batch_size or crop, or use network cascadepsp-mini"
            ) from error
        _publish(trainer, options, weights=weights, fingerprint=fingerprint, log_file=log_file, code=code)


def _whole_settings(settings: RefinerTrainingSettings) -> dict[str, Any]:
    """Returns all that the weights depend on but for the data, as JSON."""
    return {**asdict(settings), **asdict(RECIPE), "L": NETWORKS[settings.network].procedure.L}


def _folder(work_dir: str | os.PathLike, settings: RefinerTrainingSettings, card: Card) -> Path:
    content = {key: value for key, value in _whole_settings(settings).items() if key != "checkpoint_interval"}
    text = canonical_json({"settings": content, "data": card.sha256, "root": card.root})
    return Path(work_dir) / hashlib.sha256(text.encode()).hexdigest()[:16]


def _samples(rows: Any, split: str, card: Card, settings: RefinerTrainingSettings) -> MaskSamples:
    return MaskSamples(
        rows[rows["split"] == split],
        card,
        crop=settings.crop,
        L=NETWORKS[settings.network].procedure.L,
        min_area=settings.min_area,
        dilate=settings.dilate,
        margin=RECIPE.margin,
        iou_target=RECIPE.iou_target,
    )


class RefinerTrainer:
    """A resumable training: network, optimizer, iteration and log.

    Args:
        settings: of the training.
        folder: of the checkpoint; one that is found there is continued.
        device: torch device.
    """

    def __init__(self, settings: RefinerTrainingSettings, *, folder: Path, device: str) -> None:
        self._settings, self._device, self._state_file = settings, device, folder / "state.pth"
        torch.manual_seed(settings.seed)
        self.network = build_network(settings.network).to(device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr, weight_decay=RECIPE.weight_decay)
        self.iteration = 0
        self.log: list[dict[str, Any]] = []
        self._since: list[dict[str, float]] = []  # figures of the iterations since the last line of the log
        self._restore()

    def run(self, samples: MaskSamples) -> None:
        """Trains up to `max_iters`."""
        s = self._settings
        log(f"train refiner {s.network}: iterations {self.iteration}..{s.max_iters} on {self._device}")
        self.network.train()
        iterations = range(self.iteration, s.max_iters)
        for iteration in track(iterations, what=f"train refiner {s.network}", unit="iteration"):
            self._since.append(self._step(samples.batch(s.seed, iteration, size=s.batch_size), iteration))
            self.iteration = iteration + 1
            last = self.iteration == s.max_iters
            if last or self.iteration % RECIPE.log_interval == 0:
                self.log.append({"iter": self.iteration, **_means(self._since)})
                self._since = []
            if last or self.iteration % s.checkpoint_interval == 0:
                self._save()

    def _step(self, batch: MaskBatch, iteration: int) -> dict[str, float]:
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
        passed = sum(iteration >= share * self._settings.max_iters for share in RECIPE.milestones)
        return self._settings.lr * 0.1**passed

    @torch.inference_mode()
    def measure(self, samples: MaskSamples) -> None:
        """Logs the mean IoU of perturbed masks before and after refinement."""
        self.network.eval()
        size, count = self._settings.batch_size, self._settings.val_samples
        lines = []
        for start in range(0, count, size):
            batch = samples.batch(self._settings.seed, start, size=min(size, count - start))
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


def _overlap(batch: MaskBatch, refined: torch.Tensor) -> dict[str, float]:
    truth = batch.truth > 0.5
    return {
        "iou_before": _mean_iou(batch.given > 0, truth),
        "iou_after": _mean_iou(refined.detach().cpu() > 0.5, truth),
    }


def _mean_iou(masks: torch.Tensor, truth: torch.Tensor) -> float:
    both, either = (masks & truth).sum(dim=(1, 2, 3)), (masks | truth).sum(dim=(1, 2, 3))
    return float((both / either.clamp(min=1)).mean())


def _publish(
    trainer: RefinerTrainer,
    settings: RefinerTrainingSettings,
    *,
    weights: str | os.PathLike,
    fingerprint: str | os.PathLike,
    log_file: str | os.PathLike,
    code: str,
) -> None:
    save_tensors(trainer.network.state_dict(), weights)
    write_text(log_file, "".join(json.dumps(sealed(line)) + "\n" for line in trainer.log))
    write_fingerprint(
        fingerprint,
        Fingerprint(
            sha256=sha256_of_file(weights),
            stage="refine",
            model=settings.network,
            settings=_whole_settings(settings),
            code=code,
        ),
    )
