"""What the files of a real dataset are, without opening them: by this it is seen that a mask was replaced."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vss.core.dataset_layout import DatasetLayout, FramePattern, read_list
from vss.core.patterns import IMAGE_SUFFIXES
from vss.core.video import VIDEO_SUFFIXES

# A folder, the pattern of its files, what the placeholders in its path are, and the names of the videos (or frames)
# that count; None for all.
_Part = tuple[str, FramePattern, dict[str, str], frozenset[str] | None]

# A file on the network takes its time; several are requested at once. A thread takes folders by the dozen: to pass one
# on costs more than to look at ten files.
_THREADS, _FOLDERS = 16, 32


def dataset_content(layout: DatasetLayout, root: str | os.PathLike) -> dict[str, str]:
    """Returns by split 16 hexadecimal digits that change when its list, or an image or mask of it, does."""
    return contents(layout, root)[0]


def contents(layout: DatasetLayout, root: str | os.PathLike) -> tuple[dict[str, str], dict[str, str]]:
    """Returns (`dataset_content`, the same of images alone), from one look at the files.

    Names, sizes and times of change are compared, which takes a second or two for the 450,000 files of VSPW on a local
    disk. What cannot be listed counts as absent: the prepare stage names it.

    Args:
        layout: where the files are.
        root: the dataset's folder.
    """
    root = Path(root)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = {split: _parts(layout, root, split) for split in layout.splits}
        found = {
            split: pool.map(
                lambda some: [_folder_digest(root / folder, *which) for folder, *which in some], _dozens(folders)
            )
            for split, (folders, _) in parts.items()
        }
        digests = {
            split: list(zip(folders, itertools.chain.from_iterable(found[split]), strict=True))
            for split, (folders, _) in parts.items()
        }
    names = {split: listed for split, (_, listed) in parts.items()}
    whole = {split: _joined(each, names[split]) for split, each in digests.items()}
    return whole, {
        split: _joined([item for item in each if item[0][1] is layout.images], names[split])
        for split, each in digests.items()
    }


def _dozens(folders: list[_Part]) -> list[list[_Part]]:
    return [folders[start : start + _FOLDERS] for start in range(0, len(folders), _FOLDERS)]


def _parts(layout: DatasetLayout, root: Path, split: str) -> tuple[list[_Part], list[str]]:
    """Returns the folders of a split, and the listed names that choose among the files in them."""
    patterns, value, file = layout.patterns(split), layout.folder_name(split), layout.list_file(split)
    names: list[str] = []
    if file is not None:
        with contextlib.suppress(OSError):
            names = list(dict.fromkeys(name for _, name in read_list(root / file)[0]))
    if file is None or not layout.images.video_is_folder:
        listed = None if file is None else frozenset(names)
        return [
            (folder, pattern, known, listed)
            for pattern in patterns
            for folder, known in pattern.folders_found(root, split=value)
            if listed is None or known.get("video") is None or known["video"] in listed
        ], names
    # A name that leaves the folder is refused by the prepare stage, and never followed.
    videos = [name for name in names if "/" not in name and "\0" not in name and name not in (".", "..")]
    return [
        (folder, pattern, known, None)
        for video in videos
        for pattern in patterns
        for folder, known in pattern.folders_found(root, split=value, video=video)
    ], []


def _joined(digests: list[tuple[_Part, bytes]], names: list[str]) -> str:
    digest = hashlib.sha256()
    for (folder, *_), found in digests:
        digest.update(os.fsencode(folder) + b"\0" + found)
    for name in names:
        digest.update(b"\n" + os.fsencode(name))
    return digest.hexdigest()[:16]


def _folder_digest(folder: Path, pattern: FramePattern, known: dict[str, str], listed: frozenset[str] | None) -> bytes:
    """Returns a digest of names, sizes and times of a folder's images, or videos; links are followed.

    Where splits list what lies in one folder, only the files of the `listed` names count: another split's are not this
    one's.
    """
    suffixes = tuple(VIDEO_SUFFIXES if pattern.is_video else IMAGE_SUFFIXES)
    facts = []
    name_of = pattern.names_in(known) if listed is not None else None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return b"absent"
    try:
        with os.scandir(handle) as entries:  # relative to the folder: its path is not resolved again for every file
            for entry in entries:
                if name_of is not None and name_of(entry.name) not in listed:
                    continue
                if entry.name.lower().endswith(suffixes):
                    facts.append(f"{entry.name}/{_size_and_time(entry)}")
    finally:
        os.close(handle)
    return hashlib.sha256("\n".join(sorted(facts)).encode("utf-8", "surrogateescape")).digest()


def _size_and_time(entry: os.DirEntry) -> str:
    try:
        stat = entry.stat()
    except OSError:
        return "link to nothing"
    return f"{stat.st_size}/{stat.st_mtime_ns}"
