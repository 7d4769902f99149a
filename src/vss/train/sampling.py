"""Which sample comes when: a function of the seed and of the sample's position in the training, of nothing else.

MMEngine's InfiniteSampler walks one generator from the start, and augmentations draw from worker processes' global
generators: what a resumed or re-partitioned training sees then depends on the number of workers and GPUs, and
resuming costs time in proportion to what was done. Here the sampler only counts positions; `SeededDataset` turns a
position into (frame, random numbers). Resuming at iteration i is starting to count at i * batch size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info
from mmseg.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset, Sampler

from vss.configs.resolved import RareClassSampling
from vss.train.class_balance import RareClasses, read_pixels

_CROPS = 10  # that are tried for one of the chosen class


@DATA_SAMPLERS.register_module()
class PositionSampler(Sampler):
    """Yields this rank's positions of an endless stream: rank, rank + world size, ...

    Position p belongs to iteration p // (global batch size), however many GPUs share the batch.

    Args:
        dataset: what positions are taken of.
        seed: not looked at; the order is the dataset's.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        self._rank, self._world_size = get_dist_info()
        self._size, self._start = len(dataset), 0

    def __len__(self) -> int:
        """Returns this rank's samples in one epoch, which MMEngine asks for; iteration does not end there."""
        return self._size // self._world_size

    def skip(self, num_samples: int) -> None:
        """Starts after `num_samples` samples of this rank, in constant time; called by MMEngine's loop on resume."""
        self._start = num_samples

    def __iter__(self) -> Iterator[int]:
        position = self._start * self._world_size + self._rank
        while True:
            yield position
            position += self._world_size


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Wraps datasets so that item p is the p-th sample of a training: epoch p // n of a new shuffle each.

    An epoch holds every image of a dataset as often as its weight says; of the fraction that remains, another choice of
    images each time. Weights of 1 give what one dataset of all the images would. Augmentations draw from numpy's and
    Python's global generators, which are seeded for every item from (seed, p).

    Where samples are chosen by class (`RareClasses`) there are no epochs: every item is chosen from (seed, p), and
    cropped again, up to ten times, until the class is in it.

    Args:
        datasets: MMSeg datasets or their configs.
        weights: one for each of them, by default 1.
        seed: of order and augmentations.
        rare_classes: `pixels`, the file of `class_balance.write_pixels`, and `settings`, those of
            `RareClassSampling`; None shows every frame alike.
    """

    def __init__(
        self,
        *,
        datasets: Sequence[dict | Sequence],
        seed: int,
        weights: Sequence[float] | None = None,
        rare_classes: Mapping[str, Any] | None = None,
    ) -> None:
        self.datasets = [DATASETS.build(each) if isinstance(each, dict) else each for each in datasets]
        self._weights = [1.0] * len(self.datasets) if weights is None else list(weights)
        self._starts = np.cumsum([0, *map(len, self.datasets)])
        self._seed = seed
        self._epoch, self._order = -1, np.arange(0)
        self._rare_classes = None
        if rare_classes is not None:
            settings = RareClassSampling(**rare_classes["settings"])
            self._rare_classes = RareClasses(read_pixels(rare_classes["pixels"]), settings)

    @property
    def metainfo(self) -> dict:
        """The first dataset's classes and palette."""
        return self.datasets[0].metainfo

    def __len__(self) -> int:
        """Returns the number of samples of an epoch."""
        return sum(round(weight * len(each)) for each, weight in zip(self.datasets, self._weights, strict=True))

    def index_of(self, position: int) -> int:
        """Returns which item stands at a position, counted over the datasets one after the other."""
        epoch, place = divmod(position, len(self))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._order_of(epoch)
        return int(self._order[place])

    def _order_of(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, epoch])
        parts = []
        for start, each, weight in zip(self._starts, self.datasets, self._weights, strict=False):
            whole, rest = divmod(round(weight * len(each)), len(each))
            parts += [np.arange(len(each)) + start] * whole
            if rest:
                parts.append(rng.permutation(len(each))[:rest] + start)
        order = np.concatenate(parts)
        rng.shuffle(order)
        return order

    def __getitem__(self, position: int) -> Any:
        words = np.random.SeedSequence([self._seed, position]).generate_state(2)
        np.random.seed(words[0])
        random.seed(int(words[1]))
        if self._rare_classes is None:
            return self._item(self.index_of(position))
        train_id, index = self._rare_classes.choose(np.random.default_rng([self._seed, position, 1]))
        for _ in range(_CROPS):
            sample = self._item(index)
            labels = sample["data_samples"].gt_sem_seg.data
            if 2 * int((labels == train_id).sum()) >= self._rare_classes.min_pixels:
                break
        return sample

    def _item(self, index: int) -> Any:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.datasets[part][index - int(self._starts[part])]
