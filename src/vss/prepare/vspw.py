"""Lists a VSPW_480p folder: data/<video>/origin/*.jpg, data/<video>/mask/*.png, train.txt, val.txt, test.txt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vss.core.order import natural_key
from vss.prepare.listing import IMAGE_SUFFIXES, MASK_SUFFIX, SPLITS, Listing, RawFrame, files_by_stem, why_refused

# A video listed twice is kept where it is scored, so that nothing is trained on what is scored.
_PRECEDENCE = ("val", "test", "train")


def list_vspw(root: Path) -> Listing:
    """Returns every listed frame of a VSPW folder, with the problems of its lists and folders.

    Masks are looked for in train and val only: the test split has none (files found there are not ground truth).
    """
    listing = Listing()
    split_of: dict[str, str] = {}
    for split in _PRECEDENCE:
        for line, video in _read_list(root, split, listing):
            where = f"{split}.txt line {line}"
            if reason := why_refused(video):
                listing.problem(where, "name_refused", reason, without=(split, video, ""))
            elif split_of.get(video) == split:
                listing.problem(where, "list_duplicate", f"{video!r} again")
            elif video in split_of:
                found = f"{video!r} is in {split_of[video]}.txt too"
                listing.problem(where, "split_overlap", found, without=(split, video, ""))
            elif not (root / "data" / video).is_dir():
                listing.problem(where, "video_absent", f"no folder data/{video}", without=(split, video, ""))
            else:
                split_of[video] = split
    for video, split in sorted(split_of.items(), key=lambda item: (SPLITS.index(item[1]), item[0])):
        _list_video(root, video, split, listing)
    return listing


def _read_list(root: Path, split: str, listing: Listing) -> list[tuple[int, str]]:
    """Returns (line number, video id) of a list file; blank lines and a carriage return at a line's end are no data."""
    path = root / f"{split}.txt"
    try:
        data = path.read_bytes()
    except OSError as error:
        listing.problem(path.name, "list_missing", error.strerror or "not readable", without=(split, "", ""))
        return []
    if data and not data.endswith(b"\n"):
        listing.problem(path.name, "list_final_newline", "none after the last id")
    text = data.decode("utf-8-sig", "surrogateescape")
    # Not str.splitlines: it also splits at characters that a name may hold.
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip(" \t")]


def _list_video(root: Path, video: str, split: str, listing: Listing) -> None:
    folder = f"data/{video}"

    def files(part: str, suffixes: Iterable[str]) -> dict[str, str]:
        shown = f"{folder}/{part}"
        return files_by_stem(root / shown, suffixes, listing=listing, shown=shown, split=split, video=video)

    images = files("origin", IMAGE_SUFFIXES)
    if not images:
        listing.problem(f"{folder}/origin", "video_empty", "no image", without=(split, video, ""))
        return
    masks = {}
    if split != "test":
        masks = files("mask", (MASK_SUFFIX,))
        for frame in sorted(masks.keys() - images.keys()):
            found = f"no image {frame} in origin"
            listing.problem(f"{folder}/mask/{masks[frame]}", "image_missing", found, without=(split, video, frame))
    for frame, image in sorted(images.items(), key=lambda item: natural_key(item[0])):
        path = f"{folder}/origin/{image}"
        if split == "test":
            listing.frames.append(RawFrame(video, frame, split, path, ""))
        elif frame in masks:
            listing.frames.append(RawFrame(video, frame, split, path, f"{folder}/mask/{masks[frame]}"))
        else:
            listing.problem(path, "mask_missing", f"no mask/{frame}{MASK_SUFFIX}", without=(split, video, frame))
