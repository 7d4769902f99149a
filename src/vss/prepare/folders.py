"""Lists a dataset's folder: the frames that its patterns match, dealt to splits, each with its mask."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from vss.core.dataset_layout import SPLITS, DatasetLayout, read_list
from vss.core.errors import did_you_mean
from vss.core.order import natural_key
from vss.prepare.listing import Listing, RawFrame, why_refused

_NEAREST = 10  # problems of which the nearest name that there is is proposed
# A video listed twice is kept in the split that is scored, so that no training sees it.
_PRECEDENCE = ("val", "test", "train")

Frames = dict[str, dict[str, str]]  # video -> frame -> path


def list_dataset(layout: DatasetLayout, root: Path) -> Listing:
    """Returns every frame of a dataset's folder, with the problems of its lists and folders.

    Without {video} an image is a video of one frame: `video` and `frame` are both its name, so that images spread over
    the shards. Masks are looked for in train and val only (files found in test are not ground truth).
    """
    listing = Listing()
    split_of: dict[str, str] = {}
    for split in (split for split in _PRECEDENCE if split in layout.splits):
        if layout.share(split) is not None:
            continue
        if layout.list_file(split) is None:
            _list_found(layout, root, split, listing)
        else:
            _read_split(layout, root, split, split_of, listing)
    if layout.images.video_is_folder:
        for video, split in sorted(split_of.items(), key=lambda item: (SPLITS.index(item[1]), item[0])):
            _list_video(layout, root, video, split, listing)
    elif split_of:
        _list_named(layout, root, split_of, listing)
    if shares := {split: share for split in layout.splits if (share := layout.share(split)) is not None}:
        _list_shares(layout, root, shares, listing)
    return listing


def _read_split(layout: DatasetLayout, root: Path, split: str, split_of: dict[str, str], listing: Listing) -> None:
    """Adds the names of a list file that can be used to `split_of`."""
    file = layout.list_file(split)
    assert file is not None
    try:
        lines, ended = read_list(root / file)
    except OSError as error:
        listing.problem(file, "list_missing", error.strerror or "not readable", without=(split, "", ""))
        return
    if not ended:
        listing.problem(file, "list_final_newline", "none after the last id")
    by_folder, value = layout.images.video_is_folder, layout.folder_name(split)
    for number, name in lines:
        where = f"{file} line {number}"
        if reason := why_refused(name):
            listing.problem(where, "name_refused", reason, without=(split, name, ""))
        elif split_of.get(name) == split:
            listing.problem(where, "list_duplicate", f"{name!r} again")
        elif name in split_of:
            found = f"{name!r} is in {layout.list_file(split_of[name])} too"
            listing.problem(where, "split_overlap", found, without=(split, name, ""))
        elif by_folder and not _has_folder(root, folder := layout.images.video_folder(split=value, video=name)):
            beside, _, last = folder.rpartition("/")
            # A message names a few; to look for the nearest of thousands would take minutes.
            near = did_you_mean(last, _names_in(root / beside)) if len(listing.problems) < _NEAREST else ""
            found = f"no folder {folder}{near}"
            listing.problem(where, "video_absent", found, without=(split, name, ""))
        else:
            split_of[name] = split


def _has_folder(root: Path, folder: str) -> bool:
    return next(root.glob(folder), None) is not None if "*" in folder else (root / folder).is_dir()


def _list_video(layout: DatasetLayout, root: Path, video: str, split: str, listing: Listing) -> None:
    """Adds the frames of a video that has a folder."""
    value = layout.folder_name(split)
    images = _found(layout, root, "images", split, value, listing, video=video).get(video, {})
    if not images:
        shown = layout.images.shown_folder(split=value, video=video)
        listing.problem(shown, "video_empty", "no image", without=(split, video, ""))
        return
    masks = _found(layout, root, "masks", split, value, listing, video=video) if split != "test" else {}
    _add(layout, {video: images}, masks, split, value, listing)


def _list_found(layout: DatasetLayout, root: Path, split: str, listing: Listing) -> None:
    """Adds what the patterns find with {split} filled in."""
    value = layout.folder_name(split)
    images = _found(layout, root, "images", split, value, listing)
    if not images:
        _split_missing(layout, root, split, value, listing)
    masks = _found(layout, root, "masks", split, value, listing) if split != "test" else {}
    _add(layout, images, masks, split, value, listing)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _list_named(layout: DatasetLayout, root: Path, split_of: dict[str, str], listing: Listing) -> None:
    """Adds the listed frames, or videos, where a name is no folder to go to."""
    for split in dict.fromkeys(split_of.values()):
        value = layout.folder_name(split)
        images = _found(layout, root, "images", split, value, listing)
        named = {name: images[name] for name in split_of if split_of[name] == split and name in images}
        if not images:
            _split_missing(layout, root, split, value, listing)
            continue
        for name in (name for name in split_of if split_of[name] == split and name not in images):
            found = f"no image for {name!r}{did_you_mean(name, images)}"
            listing.problem(layout.list_file(split), "video_absent", found, without=(split, name, ""))
        masks = _found(layout, root, "masks", split, value, listing) if split != "test" else {}
        _add(layout, named, {name: masks[name] for name in named if name in masks}, split, value, listing)


def _list_shares(layout: DatasetLayout, root: Path, shares: dict[str, float], listing: Listing) -> None:
    """Deals all that is found to the splits: in the order of a hash of seed and name, by cumulative shares."""
    images = _found(layout, root, "images", "train", "train", listing)
    masks = _found(layout, root, "masks", "train", "train", listing)
    order = sorted(images, key=lambda name: hashlib.sha256(f"{layout.seed}:{name}".encode()).digest())
    begin, total = 0, 0.0
    for split, share in shares.items():
        total += share
        end = round(total * len(order))
        named = order[begin:end]
        begin = end
        if not named:
            found = f"{share} of {len(order)} videos or images is none" if order else None
            _split_missing(layout, root, split, "train", listing, found)
        kept = {name: masks[name] for name in named if name in masks} if split != "test" else {}
        _add(layout, {name: images[name] for name in named}, kept, split, "train", listing)


def _split_missing(
    layout: DatasetLayout, root: Path, split: str, value: str, listing: Listing, found: str | None = None
) -> None:
    shown = layout.images.shown(split=value)
    found = found or layout.images.why_nothing(root, split=value)
    listing.problem(shown, "split_missing", found, without=(split, "", ""))


def _found(
    layout: DatasetLayout, root: Path, part: str, split: str, value: str, listing: Listing, *, video: str | None = None
) -> Frames:
    """Returns what a pattern finds, by video and frame; refused names and second files of a frame are problems."""
    pattern = layout.images if part == "images" else layout.masks
    frames: Frames = {}
    refused_videos: dict[str, str | None] = {}
    for item in pattern.find(root, split=value, video=video):
        if layout.ignores(item.path):
            continue
        if item.video not in frames:
            refused_videos[item.video] = why_refused(item.video)
        of_video = frames.setdefault(item.video, {})
        name = item.path.rpartition("/")[2]
        refused = why_refused(name) or why_refused(item.frame) or refused_videos[item.video]
        if refused:
            listing.problem(item.path, "name_refused", refused, without=(split, item.video, item.frame))
        elif item.frame in of_video:
            listing.problem(item.path, "frame_duplicate", f"also {of_video[item.frame]}")
        else:
            of_video[item.frame] = item.path
    return {name: of_video for name, of_video in frames.items() if of_video}


def _add(layout: DatasetLayout, images: Frames, masks: Frames, split: str, value: str, listing: Listing) -> None:
    """Adds frames with their masks; a lone mask is a problem, and where all frames are labelled a lone image."""
    for video, path, frame in _without(masks, images):
        folder = layout.images.shown_folder(split=value, video=video)
        listing.problem(path, "image_missing", f"no image {frame} in {folder}", without=(split, video, frame))
    for video in sorted(images):
        for frame, path in sorted(images[video].items(), key=lambda item: natural_key(item[0])):
            mask = masks.get(video, {}).get(frame, "")
            if mask or split == "test" or not layout.all_labelled:
                listing.frames.append(RawFrame(video, frame, split, path, mask))
            else:
                expected = layout.masks.shown(split=value, video=video, frame=frame)
                listing.problem(path, "mask_missing", f"no mask {expected}", without=(split, video, frame))


def _without(these: Frames, others: Frames) -> Iterable[tuple[str, str, str]]:
    for video in sorted(these):
        for frame in sorted(these[video].keys() - others.get(video, {}).keys()):
            yield video, these[video][frame], frame


def check_masks_found(layout: DatasetLayout, root: Path, listing: Listing) -> None:
    """Reports the splits of which frames were found and not one mask: the pattern of masks leads nowhere."""
    for split in ("train", "val"):
        frames = [frame for frame in listing.frames if frame.split == split]
        if frames and not any(frame.mask for frame in frames):
            first = frames[0]
            known = {"split": layout.folder_name(split), "video": first.video}
            found = layout.masks.why_nothing(root, **known, frame=first.frame)
            listing.problem(layout.masks.shown(split=known["split"]), "split_without_masks", found)
