"""Opens the files of a listing and names what is wrong with each.

`full` decodes every file. `fast` reads sizes and modes from the headers and looks for the end marker of each file, so
that cut files are still found; it sees neither damage inside a file nor label values.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vss.core.errors import UserError
from vss.core.images import mask_mistake, read_image, read_raw_mask
from vss.core.index import LeftOut
from vss.core.labels import LabelSpace
from vss.core.log import track
from vss.prepare.listing import FRAME_SKIPPED, PROBLEM_KINDS, Listing, Problem, RawFrame
from vss.prepare.parallel import map_in_order

_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL_BYTES = 64
# Below these, starting processes takes longer than the work: a full check takes 4 ms per frame, a fast one 0.1 ms.
_FRAMES_WORTH_PROCESSES = {"full": 1000, "fast": 40000}


@dataclass(frozen=True, slots=True)
class CheckedFrame:
    """A frame after its files were opened; height and width in pixels, 0 where the image is broken."""

    frame: RawFrame
    height: int
    width: int
    problems: tuple[Problem, ...]
    labelled: bool | None = None  # whether the mask labels a pixel; None where its values were not read


class _BrokenError(Exception):
    """A file that cannot be used: (kind, found)."""


def check_frames(
    frames: Sequence[RawFrame], *, root: Path, space: LabelSpace, checks: str, workers: int | None = None
) -> Iterator[CheckedFrame]:
    """Yields every frame checked, in order.

    Args:
        frames: what to check.
        root: folder the frames' paths are relative to.
        space: label space of the masks.
        checks: "full" or "fast".
        workers: processes; by default one for each core this process may use.
    """
    check = partial(check_frame, root=str(root), space=space, checks=checks)
    checked = map_in_order(check, frames, worth=_FRAMES_WORTH_PROCESSES[checks], workers=workers)
    yield from track(checked, what=f"check {space.name} ({checks})", total=len(frames))


def check_frame(frame: RawFrame, *, root: str, space: LabelSpace, checks: str) -> CheckedFrame:
    """Opens the image and the mask of one frame."""
    read_image, read_mask = (_full_image, _full_mask) if checks == "full" else (_fast_image, _fast_mask)
    try:
        height, width = read_image(f"{root}/{frame.image}")
    except _BrokenError as error:
        return CheckedFrame(frame, 0, 0, (_problem(frame, frame.image, *error.args),))
    if not frame.mask:
        return CheckedFrame(frame, height, width, ())
    problems, labelled = [], None
    try:
        mask_size, values = read_mask(f"{root}/{frame.mask}")
        if mask_size != (height, width):
            found = f"{mask_size[1]}x{mask_size[0]}, image {width}x{height}"
            problems.append(_problem(frame, frame.mask, "mask_size", found))
        for value, pixels in values.items():
            if value not in space.known_raw_values():
                problems.append(_problem(frame, frame.mask, "label_value", f"{value} on {pixels} pixels"))
        labelled = bool(values.keys() & set(space.raw_ids)) if values else None
    except _BrokenError as error:
        problems.append(_problem(frame, frame.mask, *error.args))
    return CheckedFrame(frame, height, width, tuple(problems), labelled)


def _problem(frame: RawFrame, file: str, kind: str, found: str) -> Problem:
    skipped = PROBLEM_KINDS[kind].remedy == FRAME_SKIPPED
    left_out = LeftOut(frame.split, frame.video, frame.frame, kind) if skipped else None
    return Problem(file, kind, found, left_out)


def check_sizes(checked: Sequence[CheckedFrame], listing: Listing) -> None:
    """Notes the videos whose frames differ in size: video consistency compares frames pixel by pixel."""
    sizes: dict[str, Counter] = {}
    for item in checked:
        if item.height:
            sizes.setdefault(item.frame.video, Counter())[item.height, item.width] += 1
    for video, count in sizes.items():
        if len(count) > 1:
            found = ", ".join(f"{n} of {width}x{height}" for (height, width), n in count.most_common())
            listing.problem(video, "frame_size", found)


def check_labels(checked: Sequence[CheckedFrame], listing: Listing) -> None:
    """Reports the splits in whose masks not one pixel has a class: a training on them would learn nothing.

    Masks of 0 and 255, for example, are valid PNGs in which everything is "others" or "void". Splits with a mask whose
    values were not read (`fast`) are left out.
    """
    labelled: dict[str, list[bool | None]] = {}
    for item in checked:
        if item.frame.mask and item.height:
            labelled.setdefault(item.frame.split, []).append(item.labelled)
    for split, found in labelled.items():
        if not any(value is None or value for value in found):
            listing.problem(split, "split_unlabelled", f"{len(found)} masks without a pixel of any class")


def _full_image(path: str) -> tuple[int, int]:
    _, height, width = _header(path, "image_broken", ("JPEG", "MPO", "PNG"))
    try:
        decoded = read_image(path).shape[:2]
    except UserError as error:
        raise _BrokenError("image_broken", str(error).removeprefix(f"{path}: ")) from None
    if decoded != (height, width):
        raise _BrokenError("image_broken", f"header says {width}x{height}, decoded {decoded[1]}x{decoded[0]}")
    return height, width


def _fast_image(path: str) -> tuple[int, int]:
    kind, height, width = _header(path, "image_broken", ("JPEG", "MPO", "PNG"))
    return (height, width) if _ends(path, kind) else _full_image(path)


def _full_mask(path: str) -> tuple[tuple[int, int], dict[int, int]]:
    _mask_header(path)
    try:
        mask = read_raw_mask(path)
    except UserError as error:
        raise _BrokenError("mask_broken", str(error).removeprefix(f"{path}: ")) from None
    counts = np.bincount(mask.ravel(), minlength=256)
    return mask.shape, {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _fast_mask(path: str) -> tuple[tuple[int, int], dict[int, int]]:
    size = _mask_header(path)
    return (size, {}) if _ends(path, "PNG") else _full_mask(path)


def _mask_header(path: str) -> tuple[int, int]:
    _, height, width = _header(path, "mask_broken", ("PNG",))
    with Image.open(path) as image, open(path, "rb") as file:
        if mistake := mask_mistake(image, file.read(32)):
            raise _BrokenError("mask_meaning", mistake)
    return height, width


def _header(path: str, kind: str, allowed: tuple[str, ...]) -> tuple[str, int, int]:
    """Returns (file format, height, width) from a file's header."""
    try:
        if os.path.getsize(path) == 0:
            raise _BrokenError(kind, "empty file")
        with Image.open(path) as image:
            found, (width, height) = image.format, image.size
    except _BrokenError:
        raise
    except FileNotFoundError:
        raise _BrokenError(kind, "link to nothing" if os.path.islink(path) else "no such file") from None
    except PermissionError:
        raise _BrokenError(kind, "no permission to read") from None
    except Exception:  # image libraries raise many types on damaged files
        raise _BrokenError(kind, "not a readable image") from None
    if found not in allowed:
        raise _BrokenError(kind, f"a {found} file")
    return found, height, width


def _ends(path: str, kind: str) -> bool:
    """Returns whether a file's last bytes hold the end marker of its format."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL_BYTES))
        return _END_MARKERS[kind] in file.read()
