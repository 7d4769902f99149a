"""A label space: a dataset's classes, and which value or colour of its masks is which of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from vss.core.errors import UserError, did_you_mean

IGNORE_INDEX = 255  # of label maps of one byte per pixel; of others see `ignore_index`
MOST_CLASSES = 65_534  # label maps have at most two bytes per pixel
RgbColour = tuple[int, int, int]


def label_dtype(num_classes: int) -> np.dtype:
    """Returns the dtype of label maps of train ids: uint8 for up to 255 classes, uint16 for more."""
    return np.dtype(np.uint8 if num_classes <= IGNORE_INDEX else np.uint16)


@cache
def ignore_index(dtype: np.dtype) -> int:
    """Returns which value of label maps of a dtype (`label_dtype`) is no class, its highest: 255 or 65,535."""
    return int(np.iinfo(dtype).max)


@dataclass(frozen=True)
class LabelSpace:
    """A dataset's classes and how its raw mask values map to train ids.

    Attributes:
        name: of the class table shipped here, or of the dataset whose own table it is.
        classes: class names, position = train id.
        raw_ids: every raw id that has a class.
        train_ids: the train id of each of `raw_ids`; several raw ids may have one.
        ignored: raw ids that mean "no label"; anything else outside `raw_ids` is an error in the data.
        colours: "#rrggbb" by train id, "" where the table gives none; empty where it gives none at all.
        mask_colours: RGB of each raw id 0, 1, ... where masks hold colours; empty where they hold ids.
    """

    name: str
    classes: tuple[str, ...]
    raw_ids: tuple[int, ...]
    train_ids: tuple[int, ...]
    ignored: tuple[int, ...]
    colours: tuple[str, ...] = ()
    mask_colours: tuple[RgbColour, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def raw_to_train(self) -> np.ndarray:
        """Returns the lookup table [256 or more] of `label_dtype` from raw id to train id."""
        dtype = label_dtype(self.num_classes)
        table = np.full(max(256, *(raw + 1 for raw in self.raw_ids)), ignore_index(dtype), dtype)
        table[list(self.raw_ids)] = self.train_ids
        return table

    def known_raw_values(self) -> frozenset[int]:
        """Returns every raw id that a correct mask may hold."""
        return frozenset(self.raw_ids) | frozenset(self.ignored)

    def mapped(self, positions: Sequence[int | None], target: LabelSpace) -> LabelSpace:
        """Returns the space of these masks in another one's classes.

        Args:
            positions: the target's train id of each class here; None = ignored.
            target: whose name, classes and colours are taken.
        """
        pairs = [(raw, positions[train]) for raw, train in zip(self.raw_ids, self.train_ids, strict=True)]
        return replace(
            target,
            raw_ids=tuple(raw for raw, train in pairs if train is not None),
            train_ids=tuple(train for _, train in pairs if train is not None),
            ignored=(*self.ignored, *(raw for raw, train in pairs if train is None)),
            mask_colours=self.mask_colours,
        )

    def positions_by_name(self, target: LabelSpace) -> list[int | None]:
        """Returns the target's train id of each class here, None where it has no class of that name.

        Names are equal in lower case, with a space for each run of spaces, underscores and hyphens.
        """
        there = {_plain(name): position for position, name in enumerate(target.classes)}
        return [there.get(_plain(name)) for name in self.classes]

    def position(self, name: str, *, where: str) -> int:
        """Returns the train id of a class by its name.

        Raises:
            UserError: no class has this name.
        """
        if name not in self.classes:
            raise UserError(f"{where}: {self.name} has no class {name!r}{did_you_mean(name, self.classes)}")
        return self.classes.index(name)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())
