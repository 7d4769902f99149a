"""What the values stored in another system's predictions mean: a table from them to train ids."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from vss.core.class_table import read_class_table
from vss.core.errors import UserError, did_you_mean
from vss.core.index import Card
from vss.core.label_space import IGNORE_INDEX, ignore_index
from vss.core.masks import MaskCoding

_MOST_OFF = 0.02  # that 124 probabilities in float16 may sum up to away from 1
_ANY_ID = MaskCoding(bits=16)
_NAMED = 5  # unknown values that a message names


class IdTable:
    """The train id of every stored value.

    Args:
        train_id_of: train id by stored value, the ignore index for what is no class.
        allowed: what may be stored, in words.
        coding: how the values stand in a PNG.
        dtype: of the dataset's label maps.
    """

    def __init__(self, train_id_of: Mapping[int, int], allowed: str, coding: MaskCoding, dtype: np.dtype) -> None:
        self._train_id_of, self._allowed, self.coding, self._dtype = dict(train_id_of), allowed, coding, dtype
        self._lookup = np.full(max(train_id_of, default=0) + 1, -1, np.int32)
        for stored, train_id in train_id_of.items():
            self._lookup[stored] = train_id

    def to_train(self, values: np.ndarray, *, where: object) -> np.ndarray:
        """Returns stored values, unsigned integers of any shape, as train ids of the dataset's label dtype.

        Raises:
            UserError: a value that the table does not have; the line starts with `where`.
        """
        known = self._lookup[np.minimum(values, len(self._lookup) - 1)]
        unknown = (known < 0) | (values >= len(self._lookup))
        if unknown.any():
            found = np.unique(values[unknown]).tolist()
            named = ", ".join(map(str, found[:_NAMED])) + (", ..." if len(found) > _NAMED else "")
            raise UserError(f"{where}: holds the id{'s' * (len(found) > 1)} {named}; {self._allowed}")
        return known.astype(self._dtype)

    def gather(self, planes: np.ndarray, num_classes: int, *, where: object) -> np.ndarray:
        """Returns class probabilities [C, H, W] float32, summing to 1 over C, of planes [K, H, W] by stored value.

        Planes of one class are added; those of no class are dropped, and the rest is made to sum to 1. A pixel at which
        nothing is left has every class alike.

        Raises:
            UserError: a plane that the table does not have, or numbers that are no probabilities.
        """
        train_ids = self.to_train(
            np.arange(len(planes), dtype=np.uint32), where=f"{where}: of its {len(planes)} planes, one"
        )
        no_class = ignore_index(self._dtype)
        if lacking := set(self._train_id_of.values()) - {no_class} - set(train_ids.tolist()):
            raise UserError(f"{where}: has {len(planes)} planes, none for train id {min(lacking)}; {self._allowed}")
        _check_probabilities(planes, where)
        gathered = np.zeros((num_classes, *planes.shape[1:]), np.float32)
        for plane, train_id in zip(planes, train_ids.tolist(), strict=True):
            if train_id != no_class:
                gathered[train_id] += plane
        total = gathered.sum(axis=0)
        np.divide(gathered, total, out=gathered, where=total > 0)
        gathered[:, total == 0] = 1 / num_classes
        return gathered


def _check_probabilities(planes: np.ndarray, where: object) -> None:
    total = planes.sum(axis=0, dtype=np.float32)
    off = float(np.abs(total - 1).max(initial=0))  # NaN where any value is none
    if not (off <= _MOST_OFF and float(planes.min(initial=0)) >= 0):
        raise UserError(
            f"{where}: holds no class probabilities: they must be at least 0 and sum to 1 over the first axis;"
            f" found a least value of {planes.min(initial=0):.3g} and sums up to {off:.3g} away from 1"
        )


def read_ids(ids: str, dataset: Card) -> IdTable:
    """Returns the table that a config's `ids` names.

    Args:
        ids: "train", "raw", or the path of a class table (`vss.core.class_table`), whose classes are the dataset's.
        dataset: whose classes and masks these are.

    Raises:
        UserError: the table cannot be read, has a mistake, or names a class that the dataset does not have.
    """
    dtype, no_class = dataset.label_dtype, dataset.ignore_index
    if ids == "train":
        classes = len(dataset.classes)
        table = {train_id: train_id for train_id in range(classes)}
        allowed = f"train ids are 0..{classes - 1}, and {no_class} for no class"
        return IdTable({no_class: no_class} | table, allowed, _ANY_ID, dtype)
    if ids == "raw":
        table = {raw: int(train_id) for raw, train_id in enumerate(dataset.label_map) if train_id != no_class}
        # Among colours, what is no class is every unknown one.
        of_no_class = {} if dataset.coding.values == "colours" else {IGNORE_INDEX: no_class, no_class: no_class}
        allowed = (
            f"raw ids of classes are among {min(table)}..{max(table)}, and {no_class} is no class; are these train ids"
            " (ids: train)?"
        )
        return IdTable(of_no_class | table, allowed, dataset.coding, dtype)
    space = read_class_table(ids, name=dataset.name)
    position = [train_id_of_class(name, dataset.classes, where=ids) for name in space.classes]
    table = {raw: position[train_id] for raw, train_id in zip(space.raw_ids, space.train_ids, strict=True)}
    coding = MaskCoding("colours", colours=space.mask_colours) if space.mask_colours else _ANY_ID
    return IdTable(dict.fromkeys(space.ignored, no_class) | table, f"it is not in {ids}", coding, dtype)


def train_id_of_class(name: str, classes: Sequence[str], *, where: str | os.PathLike) -> int:
    """Returns the train id of a class name.

    Raises:
        UserError: the dataset has no such class; the nearest name is proposed.
    """
    if name not in classes:
        raise UserError(f"{where}: the dataset has no class {name!r}{did_you_mean(name, classes)}")
    return list(classes).index(name)
