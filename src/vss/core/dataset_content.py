"""What the files of a real dataset are, without opening them: by this it is seen that a mask was replaced."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SUFFIXES = (".jpg", ".jpeg", ".png")
_MASKS = re.compile(r"^stuffthingmaps/|/mask$")
_COCO_YEARS = {"train": "train2017", "val": "val2017"}
# A file on the network takes its time; several are requested at once.
_THREADS = 16


def dataset_content(dataset: str, root: str | os.PathLike) -> dict[str, str]:
    """Returns by split 16 hexadecimal digits that change when its list, or an image or mask of it, does."""
    return contents(dataset, root)[0]


def contents(dataset: str, root: str | os.PathLike) -> tuple[dict[str, str], dict[str, str]]:
    """Returns (`dataset_content`, the same of images alone), from one look at the files.

    Names, sizes and times of change are compared, which takes a second or two for the 450,000 files of VSPW on a local
    disk. What cannot be listed counts as absent: the prepare stage names it.

    Args:
        dataset: "vspw" or "coco_stuff".
        root: its folder.
    """
    root = Path(root)
    folders = _vspw_folders(root) if dataset == "vspw" else _coco_stuff_folders(root)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = {split: pool.map(_folder_digest, (root / part for part in parts)) for split, parts in folders.items()}
        digests = {split: dict(zip(parts, found[split], strict=True)) for split, parts in folders.items()}
    whole = {split: _joined(parts) for split, parts in digests.items()}
    return whole, {split: _joined(_without_masks(parts)) for split, parts in digests.items()}


def _vspw_folders(root: Path) -> dict[str, list[str]]:
    folders = {}
    for split in ("train", "val", "test"):
        try:
            text = (root / f"{split}.txt").read_text("utf-8-sig", "surrogateescape")
        except OSError:
            text = ""
        videos = dict.fromkeys(line.removesuffix("\r") for line in text.split("\n") if line.strip())
        # A name that leaves the folder is refused by the prepare stage, and never followed.
        videos = [video for video in videos if "/" not in video and "\0" not in video and video not in (".", "..")]
        parts = ("origin",) if split == "test" else ("origin", "mask")
        folders[split] = [f"data/{video}/{part}" for video in videos for part in parts]
    return folders


def _coco_stuff_folders(root: Path) -> dict[str, list[str]]:
    return {split: [f"images/{year}", f"stuffthingmaps/{year}"] for split, year in _COCO_YEARS.items()}


def _without_masks(digests: dict[str, bytes]) -> dict[str, bytes]:
    return {folder: found for folder, found in digests.items() if not _MASKS.search(folder)}


def _joined(digests: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for folder, found in digests.items():
        digest.update(os.fsencode(folder) + b"\0" + found)
    return digest.hexdigest()[:16]


def _folder_digest(folder: Path) -> bytes:
    """Returns a digest of names, sizes and times of a folder's images; links are followed."""
    facts = []
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return b"absent"
    try:
        with os.scandir(handle) as entries:  # relative to the folder: its path is not resolved again for every file
            for entry in entries:
                if entry.name.lower().endswith(_SUFFIXES):
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
