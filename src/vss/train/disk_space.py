"""A full disk as one line, where torch and safetensors answer with tracebacks that never name it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from vss.core.errors import UserError
from vss.core.files import NO_SPACE

# What torch's archive writer raises for a write that failed, whatever the reason.
_TORCH_WRITE_FAILED = ("iostream error", "unexpected pos", "PytorchStreamWriter")
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
        if not _is_full(error):
            raise
        folder = path if path.is_dir() else path.parent
        free = shutil.disk_usage(folder).free // _MIB
        raise UserError(
            f"{path}: cannot be written, its disk (or your quota there) is full, {free} MiB are free; make space and "
            "run again: a training continues from its newest checkpoint"
        ) from None


def _is_full(error: BaseException) -> bool:
    """Returns whether an error, or one that led to it, is a write without space."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in NO_SPACE or "No space left" in str(seen):
            return True
        if isinstance(seen, RuntimeError) and any(text in str(seen) for text in _TORCH_WRITE_FAILED):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
