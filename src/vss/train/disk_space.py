"""A full disk as one line, where torch and safetensors answer with tracebacks that never name it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from vss.core.errors import UserError
from vss.core.files import no_space

_MIB = 2**20


@contextlib.contextmanager
def full_disk_is_one_line(path: Path) -> Iterator[None]:
    """Turns the error of a write that found no space into a `UserError` that names `path` and the space left.

    Raises:
        UserError: the disk, or the user's share of it, is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if no_space(error) is None:
            raise
        folder = path if path.is_dir() else path.parent
        free = shutil.disk_usage(folder).free // _MIB
        raise UserError(
            f"{path}: cannot be written, its disk (or your quota there) is full, {free} MiB are free; make space and "
            "run again: a training continues from its newest checkpoint"
        ) from None
