"""What a raw dataset folder holds: frames, and the problems met while listing them.

Names are data: a video id or a frame name may hold spaces, `--`, unicode, leading dots and leading zeros, and is never
split, stripped or reformatted. Only names that cannot be one plain path component are refused.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
MASK_SUFFIX = ".png"


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        allowed: what is right, in one clause.
        remedy: what `on_problem: skip` does.
        note: True where nothing is lost and nothing has to be decided: it is reported and never stops the run.
    """

    allowed: str
    remedy: str
    note: bool = False


FRAME_SKIPPED = "frame skipped"
VIDEO_SKIPPED = "video skipped"

KINDS = {
    "list_missing": Kind("a text file with one video id per line", "split left empty"),
    "list_final_newline": Kind("a final newline", "last line read whole", note=True),
    "list_duplicate": Kind("each video id once", "read once", note=True),
    "split_missing": Kind("a folder of images", "split left empty"),
    "split_overlap": Kind("each video in one split", "kept in the first of val, test, train"),
    "name_refused": Kind("one plain file name: no separator, no control character, valid UTF-8", "name skipped"),
    "video_absent": Kind("a folder for every listed video", VIDEO_SKIPPED),
    "video_empty": Kind("at least one image", VIDEO_SKIPPED),
    "frame_size": Kind("frames of one size within a video", "frames kept", note=True),
    "frame_duplicate": Kind("one image for a frame name", "first file used"),
    "image_missing": Kind("an image for every mask", "mask skipped"),
    "image_broken": Kind("a whole JPEG or PNG", FRAME_SKIPPED),
    "mask_missing": Kind("a mask for every image of train and val", FRAME_SKIPPED),
    "mask_broken": Kind("a whole PNG", FRAME_SKIPPED),
    "mask_meaning": Kind("labels as 8-bit grey values or palette indices", FRAME_SKIPPED),
    "mask_size": Kind("the size of the image", FRAME_SKIPPED),
    "split_unlabelled": Kind("at least one pixel of a class in the masks of a split", "frames kept"),
    "label_value": Kind("a value of the label set", "pixels mapped to 255 (ignored), frame kept"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a dataset.

    Attributes:
        file: path relative to the dataset root; for a list file, with the line.
        kind: key of `KINDS`.
        found: what was there instead.
    """

    file: str
    kind: str
    found: str

    @property
    def note(self) -> bool:
        return KINDS[self.kind].note

    def line(self) -> str:
        """Returns the problem in one line."""
        return f"{self.file}: {self.kind}: {self.found} (allowed: {KINDS[self.kind].allowed})"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a raw dataset; paths are relative to the dataset root, `mask` is "" where there is none."""

    video: str
    frame: str
    split: str
    image: str
    mask: str


@dataclass
class Listing:
    """The frames of a raw dataset folder and the problems met while listing them."""

    frames: list[Frame] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, file: str, kind: str, found: str) -> None:
        """Adds a problem."""
        assert kind in KINDS, kind
        self.problems.append(Problem(printable(file), kind, printable(found)))


def printable(text: str) -> str:
    """Returns text that can be written as UTF-8 on one line: other characters become escapes."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def why_refused(name: str) -> str | None:
    """Returns why a name cannot be one plain path component, or None where it can.

    Path traversal (`..`, separators, absolute paths) is refused here, before any path is joined.
    """
    if name in ("", ".", ".."):
        return f"{name!r} is not a name"
    if "/" in name or os.sep in name:
        return f"{name!r} holds a path separator"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return f"{name!r} holds a control character or invalid UTF-8"
    return None


def files_by_stem(folder: Path, suffixes: Iterable[str], *, listing: Listing, shown: str) -> dict[str, str]:
    """Returns {stem: file name} of a folder's files with one of `suffixes` (any case).

    A dangling link counts as a file, so that it is found broken later instead of being overlooked. A missing folder
    has no files.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in suffixes:
            continue
        if reason := why_refused(name):
            listing.problem(f"{shown}/{name}", "name_refused", reason)
        elif stem in found:
            listing.problem(f"{shown}/{name}", "frame_duplicate", f"also {found[stem]}")
        else:
            found[stem] = name
    return found
