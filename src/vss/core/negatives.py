"""Which classes an unlabelled pixel surely does not have: a file next to a map of pseudo-labels.

A compressed `.npz` of two arrays: `which` [H, W] uint8 or uint16, 0 = nothing is known of the pixel, n = row n - 1 of
`wrong` [S, ceil(C / 8)] uint8, whose bit c (`numpy.packbits`) says that class c is surely wrong. Few of the 2^C rows
that there could be occur in a frame, so that a map of their numbers and the table take some kilobytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vss.core.errors import UserError
from vss.core.files import BROKEN_NPZ, atomic_path

MOST_ROWS = 65_535


@dataclass(frozen=True)
class Negatives:
    """The classes that the pixels of a frame surely do not have.

    Attributes:
        which: [H, W] uint8 or uint16: 0 = nothing is known, n = row n - 1 of `wrong`.
        wrong: [S, C] bool, S at most `MOST_ROWS`.
    """

    which: np.ndarray
    wrong: np.ndarray


def negatives_path(mask: str | os.PathLike) -> Path:
    """Returns the path of the file that belongs to a map of pseudo-labels."""
    return Path(mask).with_suffix(".npz")


def write_negatives(path: str | os.PathLike, negatives: Negatives) -> None:
    """Writes the file of a frame, whole or not at all."""
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, which=negatives.which, wrong=np.packbits(negatives.wrong, axis=1))


def read_negatives(path: str | os.PathLike, num_classes: int) -> Negatives:
    """Returns what `write_negatives` wrote for `num_classes` classes.

    Raises:
        UserError: there is no such file, it is damaged, or of other classes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            which, packed = file["which"], file["wrong"]
    except BROKEN_NPZ as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); make the pseudo-labels again") from None
    if packed.ndim != 2 or packed.shape[1] != -(-num_classes // 8) or which.max(initial=0) > len(packed):
        raise UserError(f"{path}: is not of {num_classes} classes; make the pseudo-labels again")
    return Negatives(which, np.unpackbits(packed, axis=1, count=num_classes).astype(bool))
