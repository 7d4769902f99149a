"""Lists a VSPW_480p folder: data/<video>/origin/*.jpg, data/<video>/mask/*.png, train.txt, val.txt, test.txt."""

from __future__ import annotations

from pathlib import Path

from vss.core.order import natural_key
from vss.prepare.listing import IMAGE_SUFFIXES, MASK_SUFFIX, SPLITS, Frame, Listing, files_by_stem, why_refused

# A video listed twice is kept where it is scored, so that nothing is trained on what is scored.
_PRECEDENCE = ("val", "test", "train")


def list_vspw(root: Path) -> Listing:
    """Returns every listed frame of a VSPW folder, with the problems of its lists and folders.

    Masks are looked for in train and val only: the test split has none (files found there are not ground truth).
    """
    listing = Listing()
    split_of: dict[str, str] = {}
    for split in _PRECEDENCE:
        for line, video in _read_list(root / f"{split}.txt", listing):
            where = f"{split}.txt line {line}"
            if reason := why_refused(video):
                listing.problem(where, "name_refused", reason)
            elif split_of.get(video) == split:
                listing.problem(where, "list_duplicate", f"{video!r} again")
            elif video in split_of:
                listing.problem(where, "split_overlap", f"{video!r} is in {split_of[video]}.txt too")
            elif not (root / "data" / video).is_dir():
                listing.problem(where, "video_absent", f"no folder data/{video}")
            else:
                split_of[video] = split
    for video, split in sorted(split_of.items(), key=lambda item: (SPLITS.index(item[1]), item[0])):
        _list_video(root, video, split, listing)
    return listing


def _read_list(path: Path, listing: Listing) -> list[tuple[int, str]]:
    """Returns (line number, video id) of a list file; blank lines and a carriage return at a line's end are no data."""
    try:
        data = path.read_bytes()
    except OSError as error:
        listing.problem(path.name, "list_missing", error.strerror or "not readable")
        return []
    if data and not data.endswith(b"\n"):
        listing.problem(path.name, "list_final_newline", "none after the last id")
    text = data.decode("utf-8-sig", "surrogateescape")
    # Not str.splitlines: it also splits at characters that a name may hold.
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip(" \t")]


def _list_video(root: Path, video: str, split: str, listing: Listing) -> None:
    folder = f"data/{video}"
    images = files_by_stem(root / folder / "origin", IMAGE_SUFFIXES, listing=listing, shown=f"{folder}/origin")
    if not images:
        listing.problem(f"{folder}/origin", "video_empty", "no image")
        return
    masks = {}
    if split != "test":
        masks = files_by_stem(root / folder / "mask", (MASK_SUFFIX,), listing=listing, shown=f"{folder}/mask")
        for frame in masks.keys() - images.keys():
            listing.problem(f"{folder}/mask/{masks[frame]}", "image_missing", f"no image {frame} in origin")
    for frame, image in sorted(images.items(), key=lambda item: natural_key(item[0])):
        path = f"{folder}/origin/{image}"
        if split == "test":
            listing.frames.append(Frame(video, frame, split, path, ""))
        elif frame in masks:
            listing.frames.append(Frame(video, frame, split, path, f"{folder}/mask/{masks[frame]}"))
        else:
            listing.problem(path, "mask_missing", f"no mask/{frame}{MASK_SUFFIX}")
