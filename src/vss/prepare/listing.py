"""What a raw dataset folder holds: frames, and the problems met while listing them.

Names are data: a video id or a frame name may hold spaces, `--`, unicode, leading dots and leading zeros, and is never
split, stripped or reformatted. Only names that cannot be one plain path component are refused.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass, field

from vss.core.index import LeftOut
from vss.core.log import printable

_LONGEST_NAME = 255  # bytes of one path component, on every common file system


@dataclass(frozen=True)
class ProblemKind:
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

PROBLEM_KINDS = {
    "list_missing": ProblemKind("a text file with one video id, or frame name, per line", "split left empty"),
    "list_final_newline": ProblemKind("a final newline", "last line read whole", note=True),
    "list_duplicate": ProblemKind("each video id once", "read once", note=True),
    "split_missing": ProblemKind("a folder of images", "split left empty"),
    "split_overlap": ProblemKind("each video in one split", "kept in the first of val, test, train"),
    "name_refused": ProblemKind(
        "one plain file name: no separator, no control character, valid UTF-8, at most 255 bytes", "name skipped"
    ),
    "video_absent": ProblemKind("a folder or a file for every listed name", VIDEO_SKIPPED),
    "video_empty": ProblemKind("at least one image", VIDEO_SKIPPED),
    "frame_size": ProblemKind("frames of one size within a video", "frames kept", note=True),
    "frame_duplicate": ProblemKind("one image for a frame name", "first file used"),
    "image_missing": ProblemKind("an image for every mask", "mask skipped"),
    "image_broken": ProblemKind("a whole JPEG or PNG", FRAME_SKIPPED),
    "mask_missing": ProblemKind("a mask for every image of train and val", FRAME_SKIPPED),
    "mask_broken": ProblemKind("a whole PNG", FRAME_SKIPPED),
    "mask_meaning": ProblemKind("labels as the class table has them: ids or colours", FRAME_SKIPPED),
    "mask_size": ProblemKind("the size of the image", FRAME_SKIPPED),
    "split_unlabelled": ProblemKind("at least one pixel of a class in the masks of a split", "frames kept"),
    "split_without_masks": ProblemKind("a mask for some frame of train and val", "frames kept"),
    "label_value": ProblemKind("a value of the class table", "pixels mapped to 255 (ignored), frame kept"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a dataset.

    Attributes:
        file: path relative to the dataset root; for a list file, with the line.
        kind: key of `PROBLEM_KINDS`.
        found: what was there instead.
        left_out: what the index lacks because of it, where the problem does not stop the run.
    """

    file: str
    kind: str
    found: str
    left_out: LeftOut | None = None

    @property
    def note(self) -> bool:
        return PROBLEM_KINDS[self.kind].note

    def line(self) -> str:
        """Returns the problem in one line."""
        return f"{self.file}: {self.kind}: {self.found} (allowed: {PROBLEM_KINDS[self.kind].allowed})"


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame of a raw dataset; paths are relative to the dataset root, `mask` is "" where there is none."""

    video: str
    frame: str
    split: str
    image: str
    mask: str


@dataclass
class Listing:
    """The frames of a raw dataset folder and the problems met while listing them."""

    frames: list[RawFrame] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, file: str, kind: str, found: str, *, without: tuple[str, str, str] | None = None) -> None:
        """Adds a problem.

        Args:
            file, kind, found: see `Problem`.
            without: (split, video, frame) that is left out because of it; see `LeftOut`.
        """
        assert kind in PROBLEM_KINDS, kind
        left_out = LeftOut(*map(printable, without), kind) if without else None
        self.problems.append(Problem(printable(file), kind, printable(found), left_out))


def why_refused(name: str) -> str | None:
    """Returns why a name cannot be one plain path component, or None where it can.

    Path traversal (`..`, separators, absolute paths) is refused here, before any path is joined.
    """
    if name in ("", ".", ".."):
        return f"{name!r} is not a name"
    if "/" in name or os.sep in name:
        return f"{name!r} holds a path separator"
    plain = name.isascii() and name.isprintable()  # most are, and 500,000 of them take a second less
    if not plain and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return f"{name!r} holds a control character or invalid UTF-8"
    if (length := len(os.fsencode(name))) > _LONGEST_NAME:
        return f"{name[:20]!r}... is {length} bytes long, at most {_LONGEST_NAME} are allowed"
    return None
