"""What the values stored in another system's predictions mean: a table from them to train ids."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vss.core.errors import UserError, did_you_mean
from vss.core.labels import IGNORE_INDEX

_MOST_IDS = 1 << 16
_MOST_OFF = 0.02  # that 124 probabilities in float16 may sum up to away from 1
_COLUMNS = ("id", "class")
_NAMED = 5  # unknown values that a message names


class IdTable:
    """The train id of every stored value.

    Args:
        train_id_of: train id by stored value, `IGNORE_INDEX` for what is no class.
        allowed: what may be stored, in words.
    """

    def __init__(self, train_id_of: Mapping[int, int], allowed: str) -> None:
        self._train_id_of, self._allowed = dict(train_id_of), allowed
        self._lookup = np.full(max(train_id_of, default=0) + 1, -1, np.int16)
        for stored, train_id in train_id_of.items():
            self._lookup[stored] = train_id

    def to_train(self, values: np.ndarray, *, where: object) -> np.ndarray:
        """Returns stored values, unsigned integers of any shape, as train ids uint8.

        Raises:
            UserError: a value that the table does not have; the line starts with `where`.
        """
        known = self._lookup[np.minimum(values, len(self._lookup) - 1)]
        unknown = (known < 0) | (values >= len(self._lookup))
        if unknown.any():
            found = np.unique(values[unknown]).tolist()
            named = ", ".join(map(str, found[:_NAMED])) + (", ..." if len(found) > _NAMED else "")
            raise UserError(f"{where}: holds the id{'s' * (len(found) > 1)} {named}; {self._allowed}")
        return known.astype(np.uint8)

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
        if lacking := set(self._train_id_of.values()) - {IGNORE_INDEX} - set(train_ids.tolist()):
            raise UserError(f"{where}: has {len(planes)} planes, none for train id {min(lacking)}; {self._allowed}")
        _check_probabilities(planes, where)
        gathered = np.zeros((num_classes, *planes.shape[1:]), np.float32)
        for plane, train_id in zip(planes, train_ids.tolist(), strict=True):
            if train_id != IGNORE_INDEX:
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


def read_ids(ids: str, classes: Sequence[str], label_map: Sequence[int]) -> IdTable:
    """Returns the table that a config's `ids` names.

    Args:
        ids: "train", "raw", or the path of a CSV file with the columns `id` and `class`: a class name of the dataset,
            empty for what is no class.
        classes: class names, position = train id.
        label_map: train ids, position = raw mask value, 255 = ignore.

    Raises:
        UserError: the file cannot be read, or a mistake in it.
    """
    if ids == "train":
        table = {train_id: train_id for train_id in range(len(classes))}
        return IdTable(
            table | {IGNORE_INDEX: IGNORE_INDEX}, f"train ids are 0..{len(classes) - 1}, and 255 for no class"
        )
    if ids == "raw":
        table = {raw: int(train_id) for raw, train_id in enumerate(label_map) if train_id != IGNORE_INDEX}
        span = f"{min(table)}..{max(table)}"
        allowed = f"raw ids of classes are among {span}, and 255 is no class; are these train ids (ids: train)?"
        return IdTable(table | {IGNORE_INDEX: IGNORE_INDEX}, allowed)
    return IdTable(_read_csv(ids, classes), f"it is not in {ids}")


def _read_csv(path: str, classes: Sequence[str]) -> dict[int, int]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not rows or tuple(cell.strip() for cell in rows[0]) != _COLUMNS:
        found = ",".join(rows[0]) if rows else ""
        raise UserError(f"{path}: the first line is {found!r}, must be {','.join(_COLUMNS)!r}")
    table: dict[int, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        where = f"{path}, line {number}"
        if len(row) != len(_COLUMNS):
            raise UserError(f"{where}: has {len(row)} cells, must have {len(_COLUMNS)}: {', '.join(_COLUMNS)}")
        stored = _stored_value(row[0].strip(), where)
        if stored in table:
            raise UserError(f"{where}: the id {stored} is there twice")
        table[stored] = train_id_of_class(row[1].strip(), classes, where=where) if row[1].strip() else IGNORE_INDEX
    if not table:
        raise UserError(f"{path}: has no ids")
    return table


def _stored_value(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) < _MOST_IDS):
        raise UserError(f"{where}: the id is {text!r}, must be a whole number from 0 to {_MOST_IDS - 1}")
    return int(text)


def train_id_of_class(name: str, classes: Sequence[str], *, where: str | os.PathLike) -> int:
    """Returns the train id of a class name.

    Raises:
        UserError: the dataset has no such class; the nearest name is proposed.
    """
    if name not in classes:
        raise UserError(f"{where}: the dataset has no class {name!r}{did_you_mean(name, classes)}")
    return list(classes).index(name)
