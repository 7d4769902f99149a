"""Files of a work folder with their SHA-256 next to them, by which damage is seen before one is used."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from vss.core.files import BROKEN_ZIP, atomic_path, sha256_of_file, write_text
from vss.train.disk_space import full_disk_is_one_line


def save_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file whole or not at all, with its digest.

    Args:
        path: of the file.
        write: writes it to the path that it is given.

    Raises:
        UserError: the disk is full.
    """
    with atomic_path(path) as aside:
        with full_disk_is_one_line(path):
            write(aside)
        # A kill may come between the two files: until the new one stands, the digest of the old one holds as well.
        before = _digests(path)[:1]
        write_text(_beside(path), "".join(f"{digest}  {path.name}\n" for digest in [sha256_of_file(aside), *before]))


def is_whole(path: Path) -> bool:
    """Returns whether a file is what `save_whole` wrote.

    A file without a digest (of an earlier version) is whole unless it is a zip archive, as torch writes them, whose
    checksums inside do not hold.
    """
    if digests := _digests(path):
        return sha256_of_file(path) in digests
    if path.suffix != ".pth":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except BROKEN_ZIP:
        return False


def remove(path: Path) -> None:
    """Removes a file and its digest."""
    path.unlink(missing_ok=True)
    _beside(path).unlink(missing_ok=True)


def _digests(path: Path) -> list[str]:
    """Returns the SHA-256 that a file may have, newest first; none where none is noted."""
    beside = _beside(path)
    lines = beside.read_bytes().splitlines() if beside.exists() else []
    return [line.split()[0].decode("ascii", "replace") for line in lines if line.strip()]


def _beside(path: Path) -> Path:
    """Returns where the digest of a file is, in the form of `sha256sum`."""
    return path.with_name(f"{path.name}.sha256")
