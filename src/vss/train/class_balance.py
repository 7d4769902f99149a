"""Rare classes: how much their pixels weigh in the loss, and training samples that are chosen by class.

Sources: median frequency balancing, arXiv 1411.4734, section 6.3.2; rare class sampling, arXiv 2111.14887 (DAFormer),
section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vss.configs.resolved import RareClassSampling, TrainingSettings
from vss.core.errors import UserError
from vss.core.files import atomic_path
from vss.core.index import read_card
from vss.core.log import log
from vss.models.config_types import NetworkConfig
from vss.prepare.frame_counts import ClassPixels, class_pixels
from vss.train.job import TrainingPart

CLASS_PIXELS = "class_pixels.npz"  # in the work folder
MEDIAN_FREQUENCY = "median_frequency"
_HEADS = ("decode_head", "auxiliary_head")


@dataclass(frozen=True)
class MixedPixels:
    """The pixels of every class in every frame of all the datasets of a training, in the model's classes.

    Attributes:
        frame: [K] int64, counted over the datasets one after the other.
        train_id: [K] int64.
        pixels: [K] int64.
        weight: [K] float64: how often an epoch holds the frame.
    """

    frame: np.ndarray
    train_id: np.ndarray
    pixels: np.ndarray
    weight: np.ndarray


def needs_counts(training: TrainingSettings) -> bool:
    """Returns whether a training's settings need the pixels of each class."""
    return training.class_weights == MEDIAN_FREQUENCY or training.rare_class_sampling is not None


def write_pixels(folder: Path, parts: Sequence[TrainingPart], content: Mapping[str, str], *, what: str) -> None:
    """Writes the pixels of every class in the frames that are trained on, for every rank to read.

    Args:
        folder: work folder of the training.
        parts: the datasets, the one whose classes the model has first.
        content: digests of the train splits' files: "train" of the first dataset, "1.train" of the second, ...
        what: starts the progress lines.
    """
    mixed, begin, ignored = [], 0, read_card(parts[0].card).ignore_index
    for number, part in enumerate(parts):
        key = f"{number}.train" if number else "train"
        now = {"train": content[key]} if key in content else {}
        found = class_pixels(part.index, part.card, split="train", content=now, what=what)
        mixed.append(_in_model_classes(found, part, begin, ignored))
        begin += found.num_frames
    arrays = {name: np.concatenate([getattr(each, name) for each in mixed]) for name in MixedPixels.__annotations__}
    with atomic_path(folder / CLASS_PIXELS) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)


def _in_model_classes(found: ClassPixels, part: TrainingPart, begin: int, ignored: int) -> MixedPixels:
    if part.train_ids is None:
        train = found.train_id
    else:
        train = np.array(part.train_ids, np.int64)[found.train_id]
    kept = train != ignored
    return MixedPixels(
        found.frame[kept] + begin, train[kept], found.pixels[kept], np.full(int(kept.sum()), float(part.weight))
    )


def read_pixels(path: str | Path) -> MixedPixels:
    """Returns what `write_pixels` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return MixedPixels(**{name: file[name] for name in MixedPixels.__annotations__})


def loss_weights(training: TrainingSettings, classes: Sequence[str], folder: Path) -> list[float] | None:
    """Returns the factor on each class's pixels in the loss, by train id; None where all count alike."""
    chosen = training.class_weights
    if chosen is None:
        return None
    if isinstance(chosen, Mapping):
        return [float(chosen.get(name, 1)) for name in classes]
    return median_frequency(read_pixels(folder / CLASS_PIXELS), len(classes)).tolist()


def median_frequency(found: MixedPixels, num_classes: int) -> np.ndarray:
    """Returns weights [C] float64 by median frequency balancing; 1 for classes without a pixel.

    A class's frequency is its share of the labelled pixels of the frames that have it, and its weight the median of all
    classes' frequencies over its own.
    """
    of_frame = np.bincount(found.frame, weights=found.pixels)
    own = np.bincount(found.train_id, weights=found.weight * found.pixels, minlength=num_classes)
    around = np.bincount(found.train_id, weights=found.weight * of_frame[found.frame], minlength=num_classes)
    seen = around > 0
    frequency = own[seen] / around[seen]
    weights = np.ones(num_classes)
    weights[seen] = np.median(frequency) / frequency
    return weights


def weighted(model: NetworkConfig, weights: Sequence[float] | None) -> NetworkConfig:
    """Returns a model's config with class weights in every loss: MMSegmentation's `class_weight`.

    A pixel's cross entropy is multiplied by the weight of its true class, and the mean divides by the sum of the
    weights of the labelled pixels (mmseg/models/losses/cross_entropy_loss.py). Of a head that matches masks, the weight
    is that of a matched query's class; "no object" keeps its own.
    """
    if weights is None:
        return model
    return {key: _weighted_head(part, list(weights)) if key in _HEADS else part for key, part in model.items()}


def _weighted_head(head: NetworkConfig, weights: list[float]) -> dict[str, Any]:
    losses = head.get("loss_decode")
    if losses is None:
        return {**head, "class_weight": weights}
    if isinstance(losses, (list, tuple)):
        return {**head, "loss_decode": [{**loss, "class_weight": weights} for loss in losses]}
    return {**head, "loss_decode": {**losses, "class_weight": weights}}


def log_weights(what: str, classes: Sequence[str], weights: Sequence[float]) -> None:
    """Logs the range of a training's class weights."""
    least, most = (int(choose(weights)) for choose in (np.argmin, np.argmax))
    log(f"{what}: class weights from {weights[least]:.3g} ({classes[least]}) to {weights[most]:.3g} ({classes[most]})")


class RareClasses:
    """Chooses a class, rare ones more often, then a frame that has it.

    With f the share of a class in all labelled pixels, it is chosen with a probability in proportion to
    exp((1 - f) / temperature); then a frame among those that have at least `min_pixels` of it, by the weight of its
    dataset.

    Raises:
        UserError: no frame has that many pixels of any class.
    """

    def __init__(self, found: MixedPixels, settings: RareClassSampling) -> None:
        totals = np.bincount(found.train_id, weights=found.weight * found.pixels)
        enough = found.pixels >= settings.min_pixels
        self._classes = np.unique(found.train_id[enough])
        if not len(self._classes):
            raise UserError(
                f"rare_class_sampling.min_pixels: is {settings.min_pixels}, and no frame of train has so many pixels of"
                " any class; lower it"
            )
        self.min_pixels = settings.min_pixels
        rarity = (1 - totals[self._classes] / totals.sum()) / settings.temperature
        self.probabilities = np.exp(rarity - rarity.max())
        self.probabilities /= self.probabilities.sum()
        self._frames, self._sums = [], []
        for each in self._classes:
            having = enough & (found.train_id == each)
            self._frames.append(found.frame[having])
            self._sums.append(np.cumsum(found.weight[having]))

    def choose(self, rng: np.random.Generator) -> tuple[int, int]:
        """Returns (train id, frame, counted over the datasets one after the other)."""
        at = int(rng.choice(len(self._classes), p=self.probabilities))
        sums = self._sums[at]
        place = np.searchsorted(sums, rng.random() * sums[-1], side="right")
        return int(self._classes[at]), int(self._frames[at][place])
