"""What readers say of files in which a few bytes have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from vss.core import frames_file
from vss.core.errors import UserError


def refusals_of_damage(path: Path, seeds: Iterable[int], read: Callable[[Path], object]) -> list[str]:
    """Reads copies of a file, four random bytes of its first 6 kB changed by each seed.

    Returns the `UserError`s, having checked that each names the copy in one line; other errors are let through.
    """
    refusals, broken = [], path.with_name(f"broken-{path.name}")
    for seed in seeds:
        data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
        for position in rng.integers(0, min(6000, len(data)), 4):
            data[position] = rng.integers(256)
        broken.write_bytes(data)
        try:
            read(broken)
        except UserError as error:
            refusals.append(str(error))
    assert all(line.startswith(f"{broken}: ") and "\n" not in line for line in refusals)
    return refusals


def sealed_again(path: Path) -> None:
    """Makes the checksum of a whole HDF5 file that of its content, as who changes a file on purpose would."""
    with open(path, "r+b") as file:
        mark = frames_file._mark_of(file)
        file.seek(0)
        file.write(mark)
