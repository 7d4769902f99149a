"""Folders inside zip files, read in place: `/runs/submission.zip/video/frame.png` is a path like any other."""

from __future__ import annotations

import functools
import os
import zipfile

from vss.core.errors import UserError
from vss.core.files import BROKEN_ZIP

_SUFFIX = ".zip"
_MOST_BYTES = 1 << 30  # of one file: a zip of some kB may announce terabytes


def place_in_zip(path: str | os.PathLike) -> tuple[str, str] | None:
    """Returns (zip file, path inside, "" for the top) of a path that leads into a zip file; None for any other."""
    text = os.fspath(path)
    at = f"{text.lower()}/".find(f"{_SUFFIX}/")
    if at < 0:
        return None
    archive, inside = text[: at + len(_SUFFIX)], text[at + len(_SUFFIX) :].strip("/")
    return (archive, inside) if os.path.isfile(archive) else None


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether a path is a folder inside a zip file, or the zip file itself."""
    place = place_in_zip(path)
    return place is not None and place[1] in _opened(place[0])[1]


def is_file(path: str | os.PathLike) -> bool:
    """Returns whether a path is a file inside a zip file."""
    place = place_in_zip(path)
    return place is not None and place[1] in _opened(place[0])[0].NameToInfo and not is_folder(path)


def entries(path: str | os.PathLike) -> list[tuple[str, bool]]:
    """Returns (name, is a folder) of the entries of a folder inside a zip file; none where it is no such folder."""
    place = place_in_zip(path)
    return [] if place is None else sorted(_opened(place[0])[1].get(place[1], {}).items())


def facts(path: str | os.PathLike) -> str:
    """Returns the size and the checksum of a file inside a zip file, as text."""
    archive, inside = place_in_zip(path) or ("", "")
    found = _opened(archive)[0].NameToInfo[inside]
    return f"{found.file_size}/{found.CRC:08x}"


def read(path: str | os.PathLike) -> bytes:
    """Returns the bytes of a file inside a zip file, whose checksum is verified.

    Raises:
        UserError: there is no such file, or it is damaged, encrypted or too large.
    """
    archive, inside = place_in_zip(path) or ("", "")
    file = _opened(archive)[0]
    try:
        found = file.getinfo(inside)
        if found.file_size > _MOST_BYTES:
            raise UserError(f"{path}: is {found.file_size:,} bytes, at most {_MOST_BYTES:,} are allowed")
        return file.read(found)
    except KeyError:
        raise UserError(f"{path}: No such file in {archive}") from None
    except BROKEN_ZIP as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None


Folders = dict[str, dict[str, bool]]  # path of a folder -> name of an entry -> whether that is a folder


def _opened(archive: str) -> tuple[zipfile.ZipFile, Folders]:
    found = os.stat(archive)
    return _read_directory(archive, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read_directory(archive: str, size: int, time: int) -> tuple[zipfile.ZipFile, Folders]:
    try:
        file = zipfile.ZipFile(archive)
    except BROKEN_ZIP as error:
        raise UserError(f"{archive}: not a readable zip file ({error})") from None
    folders: Folders = {"": {}}
    for name in file.namelist():
        parts = name.split("/")
        for depth, part in enumerate(parts):
            if part:
                is_folder_itself = depth < len(parts) - 1
                folders.setdefault("/".join(parts[:depth]), {})[part] = is_folder_itself
                if is_folder_itself:
                    folders.setdefault("/".join(parts[: depth + 1]), {})
    return file, folders
