"""Soup of one run: the average of a training's last weights, with or without a choice on val (Wortsman et al., 2022).

Uniform, it is SWA's average (Izmailov et al., arXiv 1803.05407). Greedy, parts are tried from the best on val on, and
one stays where val's mIoU does not fall, so that the soup is never below its best part there. Statistics of batch norm,
which no average of weights has, are computed again on training samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from vss.configs.resolve import train_pipeline
from vss.configs.resolved import TrainingConfig, read_training_config
from vss.configs.schema import read_section
from vss.configs.sections import RunSoup
from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.core.files import JsonObject, StrPath, read_json, sha256_of_file, write_json
from vss.core.log import log
from vss.infer.load import network_config
from vss.models.build import build_segmentor
from vss.train.datasets import IndexDataset
from vss.train.sampling import SeededDataset
from vss.train.validate import validate
from vss.train.workdir import finished_folder, kept_weights
from vss.weights.average import average_weights
from vss.weights.card import write_model_card
from vss.weights.fingerprint import Fingerprint, sha256_of_weights, write_fingerprint
from vss.weights.tensor_files import save_tensors

_BATCH_NORM_IMAGES = 256  # training samples that statistics of batch norm are computed on


def soup_of_run(
    *,
    model: str,
    settings: JsonObject,
    part: StrPath,
    part_config: StrPath,
    work_dir: StrPath,
    index: StrPath,
    card: StrPath,
    weights: StrPath,
    fingerprint: StrPath,
    config: StrPath,
    audit: StrPath,
    device: str = "auto",
) -> None:
    """Writes the average of the last weights of a training with the files that stand beside any weights.

    Args:
        model: name of the soup.
        settings: `run_soup` of the schema.
        part, part_config: published weights of the training, which are its last part, and its resolved config.
        work_dir: folder of the training's work folders, in which the parts before are.
        index, card: the dataset that the model is validated on, whose training samples renew batch norm.
        weights, fingerprint, config, audit: files to write.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: a mistake in the settings, or parts that the training did not keep.
    """
    chosen = read_section(RunSoup, "run_soup", settings, where="soup settings")
    resolved = read_json(part_config)
    typed = read_training_config(resolved)
    folder = finished_folder(work_dir, sha256_of_weights(part))
    parts = [*kept_weights(folder), Path(part)][-chosen.last :]
    if len(parts) < chosen.last:
        raise UserError(
            f"soup {model}: {folder} has {len(parts)} of the last {chosen.last} weights of {chosen.of}; lower soup.last"
            " or checkpoint_interval, or delete the folder, so that it is trained again and keeps them"
        )

    segmentor = build_segmentor(network_config(typed)).to(resolve_device(device))
    averager = _Averager(segmentor, typed, os.fspath(index), os.fspath(card))
    mixed = list(parts)
    scores: dict[str, float] = {}
    if chosen.greedy is None:
        tensors = averager.average(parts)
    else:
        tensors, mixed, scores = averager.greedy(parts)
        log(f"soup {model}: {len(mixed)} of {len(parts)} parts, mIoU on val {100 * scores['soup']:.2f}")

    # The last part has what inference leaves out: the auxiliary head.
    state = {**average_weights(mixed), **tensors}
    save_tensors(state, weights)
    write_json(audit, {"averaged": sorted(state), "parts": [path.name for path in mixed], "miou": scores})
    write_json(config, resolved)
    sources = [{"file": path.name, "sha256": sha256_of_file(path)} for path in mixed]
    facts = {"soup": sources, "of": chosen.of, "greedy": chosen.greedy}
    write_fingerprint(fingerprint, Fingerprint(sha256_of_file(weights), "finetune", model, facts, None))
    write_model_card(Path(weights).parent)


class _Averager:
    """Fills one network with averages of weights, renews its batch norm and scores it on val."""

    def __init__(self, segmentor: nn.Module, config: TrainingConfig, index: str, card: str) -> None:
        self._segmentor, self._config, self._index, self._card = segmentor, config, index, card

    def average(self, parts: Sequence[Path]) -> dict[str, Tensor]:
        """Fills the network with the average of weights and returns its tensors, batch norm renewed where averaged."""
        averaged = average_weights(parts)
        self._segmentor.load_state_dict(averaged, strict=False)  # without the auxiliary head
        if len(parts) > 1:
            renew_batch_norm(self._segmentor, self._config, self._index, self._card)
        return {name: tensor.cpu().clone() for name, tensor in self._segmentor.state_dict().items()}

    def greedy(self, parts: Sequence[Path]) -> tuple[dict[str, Tensor], list[Path], dict[str, float]]:
        """Returns the tensors of the best soup, what is in it, and the mIoU on val of every part and of the soup."""
        alone = {path: self._score([path])[0] for path in parts}
        order = sorted(parts, key=lambda path: -alone[path])
        mixed = order[:1]
        best, tensors = self._score(mixed)
        for path in order[1:]:
            score, candidate = self._score([*mixed, path])
            if score >= best:
                mixed, best, tensors = [*mixed, path], score, candidate
        return tensors, mixed, {**{path.name: score for path, score in alone.items()}, "soup": best}

    def _score(self, parts: Sequence[Path]) -> tuple[float, dict[str, Tensor]]:
        tensors = self.average(parts)
        frames = self._config.training.val_frames
        found = validate(self._segmentor, index=self._index, card=self._card, config=self._config, frames=frames)
        return found["miou"], tensors


@torch.no_grad()
def renew_batch_norm(segmentor: nn.Module, config: TrainingConfig, index: str, card: str) -> None:
    """Computes the running statistics of every batch norm again, as plain means over training samples."""
    norms = [module for module in segmentor.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    training = config.training
    with DefaultScope.overwrite_default_scope("mmseg"):  # where the transforms of a training are registered
        frames = IndexDataset(
            index=index, card=card, split="train", pipeline=train_pipeline(training, len(config.classes))
        )
    samples = SeededDataset(datasets=[frames], seed=training.seed)
    segmentor.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean of the batches
        norm.train()
    for start in range(0, min(_BATCH_NORM_IMAGES, 4 * len(frames)), training.batch_size):
        batch = pseudo_collate([samples[start + place] for place in range(training.batch_size)])
        segmentor.class_logits(segmentor.data_preprocessor(batch, training=True)["inputs"])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
