"""Opens the files of a listing and names what is wrong with each.

`full` decodes every file. `fast` reads sizes and modes from the headers and looks for the end marker of each file, so
that cut files are still found; it sees neither damage inside a file nor label values.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vss.core.errors import UserError
from vss.core.files import regular_file
from vss.core.images import mask_mistake, read_image, read_raw_mask, unknown_mask_colours
from vss.core.index import Card, LeftOut
from vss.core.label_space import LabelSpace
from vss.core.log import track
from vss.core.masks import MaskCoding
from vss.core.video import place_of_frame, size_of_frames
from vss.prepare.listing import FRAME_SKIPPED, PROBLEM_KINDS, Listing, Problem, RawFrame
from vss.prepare.parallel import map_in_order

_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL_BYTES = 64
_IMAGES = ("JPEG", "MPO", "PNG")
_ORIENTATION_TAG, _UPRIGHT, _TURNED = 0x0112, 1, 4  # of EXIF; from 5 on height and width change places
_COLOURS_NAMED = 3  # of a mask whose colours the class table does not have
# Below these, starting processes takes longer than the work: a full check takes 4 ms per frame, a fast one 0.1 ms.
_FRAMES_WORTH_PROCESSES = {"full": 1000, "fast": 40000}


@dataclass(frozen=True, slots=True)
class CheckedFrame:
    """A frame after its files were opened.

    Attributes:
        frame: which one.
        height, width: in pixels, 0 where the image is broken.
        problems: what is wrong with its files.
        labelled: whether the mask labels a pixel; None where its values were not read.
        values: pixels of each raw id of the mask; empty where its values were not read.
        digest: of the image file's bytes, or of the pixels of a video's frame; empty where it was not decoded.
        orientation: by which its EXIF would have the image turned or mirrored; 1 = as it is stored.
    """

    frame: RawFrame
    height: int
    width: int
    problems: tuple[Problem, ...]
    labelled: bool | None = None
    values: tuple[tuple[int, int], ...] = ()
    digest: bytes = b""
    orientation: int = _UPRIGHT

    @property
    def may_be_flipped(self) -> bool:
        """Whether the mask fits the image's size as it is stored and as EXIF would have it: mirrored or upside down."""
        return bool(self.frame.mask) and _UPRIGHT < self.orientation <= _TURNED


@dataclass(frozen=True)
class MaskLabels:
    """What a dataset's masks may hold.

    Attributes:
        dataset: its name.
        space: the label space that it is used in.
        coding: how masks hold raw ids.
        table: name of the class table, for messages.
    """

    dataset: str
    space: LabelSpace
    coding: MaskCoding
    table: str = "the class table"

    @classmethod
    def of_card(cls, card: Card) -> MaskLabels:
        """Returns what the masks of a prepared dataset may hold."""
        raw_ids = tuple(raw for raw, train in enumerate(card.label_map) if train != card.ignore_index)
        space = LabelSpace(
            name=card.label_space,
            classes=tuple(card.classes),
            raw_ids=raw_ids,
            train_ids=tuple(card.label_map[raw] for raw in raw_ids),
            ignored=card.ignored,
            mask_colours=card.coding.colours,
        )
        return cls(card.name, space, card.coding)

    def strange(self, path: str, values: Mapping[int, int]) -> list[str]:
        """Returns what of a mask's values (raw id -> pixels) is not in the class table, one line for each."""
        known = self.space.known_raw_values()
        strange = {value: pixels for value, pixels in values.items() if value not in known}
        if not strange or self.coding.values != "colours":
            return [f"{value} on {pixels} pixels" for value, pixels in strange.items()]
        lines = []
        for colour, pixels in list(unknown_mask_colours(path, self.coding).items())[:_COLOURS_NAMED]:
            nearest = min(self.space.mask_colours, key=lambda known: math.dist(known, colour))
            lines.append(
                f"colour #{bytes(colour).hex()} on {pixels} pixels, the nearest in {self.table} is"
                f" #{bytes(nearest).hex()}"
            )
        return lines


class _BrokenError(Exception):
    """A file that cannot be used: (kind, found)."""


def check_frames(
    frames: Sequence[RawFrame], *, root: Path, labels: MaskLabels, checks: str, workers: int | None = None
) -> Iterator[CheckedFrame]:
    """Yields every frame checked, in order.

    Args:
        frames: what to check.
        root: folder the frames' paths are relative to.
        labels: what the masks may hold.
        checks: "full" or "fast".
        workers: processes; by default one for each core this process may use.
    """
    check = partial(check_frame, root=str(root), labels=labels, checks=checks)
    checked = map_in_order(check, frames, worth=_FRAMES_WORTH_PROCESSES[checks], workers=workers)
    yield from track(checked, what=f"check {labels.dataset} ({checks})", total=len(frames))


def check_frame(frame: RawFrame, *, root: str, labels: MaskLabels, checks: str) -> CheckedFrame:
    """Opens the image and the mask of one frame."""
    read_image, read_mask = (_full_image, _full_mask) if checks == "full" else (_fast_image, _fast_mask)
    try:
        height, width, orientation = read_image(f"{root}/{frame.image}")
    except _BrokenError as error:
        return CheckedFrame(frame, 0, 0, (_problem(frame, frame.image, *error.args),))
    digest = _digest_of_image(f"{root}/{frame.image}") if checks == "full" else b""
    if not frame.mask:
        return CheckedFrame(frame, height, width, (), digest=digest, orientation=orientation)
    problems, labelled, values = [], None, {}
    try:
        mask_size, values = read_mask(f"{root}/{frame.mask}", labels)
        if mask_size != (height, width):
            found = f"{mask_size[1]}x{mask_size[0]}, image {width}x{height}"
            if mask_size == (width, height) and orientation > _TURNED:
                found += (
                    f" (stored lying, by EXIF orientation {orientation}: images are read as stored; store it upright)"
                )
            problems.append(_problem(frame, frame.mask, "mask_size", found))
        for found in labels.strange(f"{root}/{frame.mask}", values):
            problems.append(_problem(frame, frame.mask, "label_value", found))
        labelled = bool(values.keys() & set(labels.space.raw_ids)) if values else None
    except _BrokenError as error:
        problems.append(_problem(frame, frame.mask, *error.args))
    return CheckedFrame(frame, height, width, tuple(problems), labelled, tuple(values.items()), digest, orientation)


def _digest_of_image(path: str) -> bytes:
    content = Path(path).read_bytes() if place_of_frame(path) is None else read_image(path).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


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


def _full_image(path: str) -> tuple[int, int, int]:
    is_video = place_of_frame(path) is not None
    _, height, width, orientation = _video_header(path) if is_video else _header(path, "image_broken", _IMAGES)
    try:
        decoded = read_image(path).shape[:2]
    except UserError as error:
        raise _BrokenError("image_broken", str(error).removeprefix(f"{path}: ")) from None
    if decoded != (height, width):
        raise _BrokenError("image_broken", f"header says {width}x{height}, decoded {decoded[1]}x{decoded[0]}")
    return height, width, orientation


def _fast_image(path: str) -> tuple[int, int, int]:
    if place_of_frame(path) is not None:
        return _video_header(path)[1:]
    kind, height, width, orientation = _header(path, "image_broken", _IMAGES)
    return (height, width, orientation) if _ends(path, kind) else _full_image(path)


def _video_header(path: str) -> tuple[str, int, int, int]:
    """Returns what `_header` does of the video that a frame is in, by its first frame."""
    file, _ = place_of_frame(path) or (path, 0)
    try:
        return ("video", *size_of_frames(file), _UPRIGHT)
    except UserError as error:
        raise _BrokenError("image_broken", str(error).removeprefix(f"{file}: ")) from None


def _full_mask(path: str, labels: MaskLabels) -> tuple[tuple[int, int], dict[int, int]]:
    _mask_header(path, labels)
    try:
        mask = read_raw_mask(path, labels.coding)
    except UserError as error:
        raise _BrokenError("mask_broken", str(error).removeprefix(f"{path}: ")) from None
    counts = np.bincount(mask.ravel())
    return mask.shape, {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _fast_mask(path: str, labels: MaskLabels) -> tuple[tuple[int, int], dict[int, int]]:
    size = _mask_header(path, labels)
    return (size, {}) if _ends(path, "PNG") else _full_mask(path, labels)


def _mask_header(path: str, labels: MaskLabels) -> tuple[int, int]:
    _, height, width, _ = _header(path, "mask_broken", ("PNG",))
    with Image.open(path) as image, open(path, "rb") as file:
        if mistake := mask_mistake(image, file.read(32), labels.coding):
            raise _BrokenError("mask_meaning", mistake)
    return height, width


def _header(path: str, kind: str, allowed: tuple[str, ...]) -> tuple[str, int, int, int]:
    """Returns (file format, height, width, EXIF orientation) from a file's header."""
    try:
        if os.path.getsize(regular_file(path)) == 0:
            raise _BrokenError(kind, "empty file")
        with Image.open(path) as image:
            found, (width, height) = image.format, image.size
            # Asked of a PNG without EXIF, Pillow decodes all of it to look for some at its end.
            exif = image.getexif() if "exif" in image.info else {}
            orientation = int(exif.get(_ORIENTATION_TAG, _UPRIGHT))
    except _BrokenError:
        raise
    except FileNotFoundError:
        raise _BrokenError(kind, "link to nothing" if os.path.islink(path) else "no such file") from None
    except PermissionError:
        raise _BrokenError(kind, "no permission to read") from None
    except Exception as error:  # image libraries raise many types on damaged files
        raise _BrokenError(kind, getattr(error, "strerror", None) or "not a readable image") from None
    if found not in allowed:
        raise _BrokenError(kind, f"a {found} file")
    return found, height, width, orientation


def _ends(path: str, kind: str) -> bool:
    """Returns whether a file's last bytes hold the end marker of its format."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL_BYTES))
        return _END_MARKERS[kind] in file.read()
