"""Where a dataset's files are: patterns of paths, found on disk, and the splits that they are dealt to."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vss.core.errors import UserError, did_you_mean
from vss.core.files import JsonObject, regular_file
from vss.core.patterns import TOKENS, filled, part_regex, walk, why_nothing
from vss.core.video import VIDEO_SUFFIXES, count_frames, frame_name, place_of_frame

SPLITS = ("train", "val", "test")
_ANY_IMAGE = ".*"
_PLACEHOLDERS = ("split", "video", "frame")


@dataclass(frozen=True)
class Found:
    """A file that a pattern matches: its path relative to the root, and what the placeholders are there."""

    path: str
    video: str
    frame: str


class FramePattern:
    """A path relative to a dataset's root, with placeholders {split}, {video}, {frame}, and * for any part of a name.

    A placeholder stands for one name or a part of it, never for several folders; {video} may be absent. A name that
    ends in ".*" is that of any image file; other file types are compared in any case. A pattern that ends in a video's
    type is that of whole clips: it has {video} and no {frame}, and frames are numbered (`vss.core.video.frame_name`).

    Raises:
        UserError: it cannot be the pattern of a frame's file; the message begins with `where`.
    """

    def __init__(self, text: str, *, where: str) -> None:
        self.text = text
        self._parts = text.split("/")
        self.names = frozenset(token[1:-1] for token in TOKENS.findall(text) if token != "*")
        if unknown := sorted(self.names - set(_PLACEHOLDERS)):
            raise UserError(
                f"{where}: unknown placeholder {{{unknown[0]}}}{did_you_mean(unknown[0], _PLACEHOLDERS)};"
                " allowed are {split}, {video}, {frame} and *"
            )
        self.is_video = Path(self._parts[-1]).suffix.lower() in VIDEO_SUFFIXES
        if self.is_video and ("frame" in self.names or "video" not in self.names):
            raise UserError(f"{where}: is {text!r}, a video file, which must hold {{video}} and no {{frame}}")
        if not self.is_video and "frame" not in self.names:
            raise UserError(f"{where}: is {text!r}, must hold {{frame}}, the name of a frame")
        if text.startswith(("/", "~")) or any(part in ("", ".", "..") for part in self._parts):
            raise UserError(f"{where}: is {text!r}, must be a path below root, without empty parts, '.' and '..'")
        if not re.search(r"\.(\*|[A-Za-z0-9]+)$", self._parts[-1]):
            raise UserError(f"{where}: is {text!r}, must end in a file type such as .png, or in .* for any image")
        # From the folder on that names the video, a listed video can be gone to without listing all of them.
        self.video_is_folder = any("{video}" in part for part in self._parts[:-1])

    def find(self, root: Path, *, split: str | None = None, video: str | None = None) -> Iterator[Found]:
        """Yields the files of a split (and of one video), sorted by path.

        A dangling link counts as a file, so that it is found broken later instead of being overlooked.

        Raises:
            UserError: a folder cannot be listed.
        """
        known = {name: value for name, value in (("split", split), ("video", video)) if value is not None}
        for path, names in walk(root, self._parts, known, files=True):
            if self.is_video:
                yield from (Found(f"{path}#{frame}", names["video"], frame) for frame in _frames_of(root / path))
            else:
                yield Found(path, names.get("video", names["frame"]), names["frame"])

    def folders_found(
        self, root: Path, *, split: str | None = None, video: str | None = None
    ) -> list[tuple[str, dict[str, str]]]:
        """Returns the folders that hold such files, sorted, each with what the placeholders in its path are.

        They are relative to the root; one without wildcards is returned as it is, whether it is there or not.
        """
        known = {name: value for name, value in (("split", split), ("video", video)) if value is not None}
        return list(walk(root, self._parts[:-1], known, files=False))

    def names_in(self, known: Mapping[str, str]) -> Callable[[str], str | None]:
        """Returns a function from a file's name to that of its video, or without {video} of its frame; None: no match.

        Args:
            known: what the placeholders in the path of the file's folder are.
        """
        matches = part_regex(self._parts[-1], known, file_type=True).fullmatch

        def name(file: str) -> str | None:
            match = matches(file)
            names = {**known, **match.groupdict()} if match else {}
            return names.get("video", names.get("frame"))

        return name

    def video_folder(self, *, split: str, video: str) -> str:
        """Returns the folder that names a video, relative to the root."""
        depth = next(at for at, part in enumerate(self._parts) if "{video}" in part)
        return "/".join(filled(part, {"split": split, "video": video}) for part in self._parts[: depth + 1])

    def fixed_folder(self) -> str:
        """Returns the folder that all files are below: the path up to the first placeholder or *."""
        return "/".join(itertools.takewhile(lambda part: not TOKENS.search(part), self._parts[:-1]))

    def shown(self, **known: str) -> str:
        """Returns the pattern with some placeholders filled in, for messages."""
        return "/".join(filled(part, known) for part in self._parts)

    def shown_folder(self, **known: str) -> str:
        """Returns the folder of `shown`."""
        return "/".join(filled(part, known) for part in self._parts[:-1])

    def path(self, *, split: str, video: str, frame: str) -> str:
        """Returns the path of a frame to be written; for a pattern without *, where .* stands for .jpg."""
        names = {"split": split, "video": video, "frame": frame}
        path = "/".join(filled(part, names) for part in self._parts)
        return f"{path.removesuffix(_ANY_IMAGE)}.jpg" if path.endswith(_ANY_IMAGE) else path

    def why_nothing(self, root: Path, **known: str) -> str:
        """Returns where the pattern leads nowhere: the deepest folder that there is, and what it holds instead."""
        return why_nothing(root, self._parts, known)


def _frames_of(path: Path) -> list[str]:
    """Returns the names of a video's frames; of a broken one that of its first, so that the check names the file."""
    try:
        count = count_frames(path)
    except UserError:
        count = 0
    return [frame_name(number) for number in range(max(count, 1))]


@dataclass(frozen=True)
class DatasetLayout:
    """Where a dataset's images and masks are, and what is in which split.

    Attributes:
        images, masks: patterns; both have {video}, or neither. Masks are images.
        splits: by split: a list file (".txt") below the root, with one video (or, without {video}, frame) per line;
            another text, which {split} stands for; or a share of the videos (frames), 0..1.
        seed: of the order in which shares are dealt.
        all_labelled: whether a frame of train or val without a mask is a problem.
        ignore: names of files to skip, with * for any part.
    """

    images: FramePattern
    masks: FramePattern
    splits: Mapping[str, str | float]
    seed: int = 0
    all_labelled: bool = False
    ignore: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Returns the layout as plain values, for `from_json`."""
        return {
            "images": self.images.text,
            "masks": self.masks.text,
            "splits": dict(self.splits),
            "seed": self.seed,
            "all_labelled": self.all_labelled,
            "ignore": list(self.ignore),
        }

    @classmethod
    def from_json(cls, content: JsonObject, *, where: str) -> DatasetLayout:
        """Returns the layout that `to_json` wrote."""
        patterns = {key: FramePattern(content[key], where=f"{where}: {key}") for key in ("images", "masks")}
        return cls(**{**content, **patterns, "ignore": tuple(content["ignore"])})

    def list_file(self, split: str) -> str | None:
        """Returns the file that lists a split, relative to the root, None where none does."""
        source = self.splits[split]
        return source if isinstance(source, str) and source.endswith(".txt") else None

    def share(self, split: str) -> float | None:
        """Returns the share of all videos that a split is, None where it is given otherwise."""
        source = self.splits[split]
        return None if isinstance(source, str) else float(source)

    def folder_name(self, split: str) -> str:
        """Returns what {split} stands for."""
        source = self.splits[split]
        return source if isinstance(source, str) and self.list_file(split) is None else split

    def ignores(self, path: str) -> bool:
        """Returns whether a file is passed over."""
        file, _ = place_of_frame(path) or (path, 0)
        name = file.rpartition("/")[2]
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignore)

    def patterns(self, split: str) -> tuple[FramePattern, ...]:
        """Returns the patterns of a split's files: what lies where test masks would be is not ground truth."""
        return (self.images,) if split == "test" else (self.images, self.masks)


def read_list(path: Path) -> tuple[list[tuple[int, str]], bool]:
    """Returns (line number, name) of a list file, and whether its last line ends; blank lines are no data.

    Raises:
        OSError: it cannot be read.
    """
    data = regular_file(path).read_bytes()
    text = data.decode("utf-8-sig", "surrogateescape")
    # Not str.splitlines: it also splits at characters that a name may hold.
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    named = [(number, line) for number, line in enumerate(lines, start=1) if line.strip(" \t")]
    return named, not data or data.endswith(b"\n")


def count_images(layout: DatasetLayout, root: Path, split: str) -> int:
    """Returns how many images of a split there are, without checking any."""
    images, value, file = layout.images, layout.folder_name(split), layout.list_file(split)
    if file is None:
        found = sum(1 for _ in images.find(root, split=value))
        return found if (share := layout.share(split)) is None else round(share * found)
    try:
        names = {name for _, name in read_list(root / file)[0]}
    except OSError:
        return 0
    if images.video_is_folder:
        return sum(1 for name in names for _ in images.find(root, split=value, video=name))
    return sum(item.video in names for item in images.find(root, split=value))
