"""The inputs of `vss predict`: images, folders of images, and videos."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vss.core.errors import UserError
from vss.core.files import is_folder, read_json
from vss.core.log import log, one_line
from vss.core.video import VIDEO_SUFFIXES

READABLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Lists the files that a prediction wrote into a folder, so that a later one neither reads them nor leaves them behind.
WRITTEN = "predicted.json"


@dataclass(frozen=True)
class Source:
    """One input of the user.

    Attributes:
        path: the file or folder.
        kind: "images" or "video".
        files: of images: (name without suffix, relative to the output; path).
        folder: where its results go, below the output folder.
    """

    path: Path
    kind: str
    files: tuple[tuple[str, Path], ...]
    folder: str


def find_sources(inputs: Sequence[str | os.PathLike], out_dir: Path) -> list[Source]:
    """Returns the sources that the inputs name.

    Args:
        inputs: image files, video files, or folders whose images are taken, subfolders included.
        out_dir: where the results go; what lies there is never an input of a folder.

    Raises:
        UserError: an input does not exist, holds no images, or is neither image, video nor folder; or the results of
            two inputs would get one name.
    """
    sources = [_find_source(Path(path), out_dir) for path in inputs]
    _refuse_equal_names(sources)
    return sources


def _find_source(path: Path, out_dir: Path) -> Source:
    if path.is_dir():
        return _folder(path, out_dir)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_file():
        raise UserError(f"{path}: neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        # The stem of "...mp4" is "..", which as a folder leads out of the output folder.
        return Source(path, "video", (), path.stem if path.stem.strip(".") else "video")
    if suffix in READABLE_SUFFIXES:
        return Source(path, "images", ((path.stem, path),), "")
    allowed = ", ".join(sorted(READABLE_SUFFIXES | VIDEO_SUFFIXES))
    raise UserError(f"{path}: neither a folder nor an image nor a video; suffixes known: {allowed}")


def _folder(path: Path, out_dir: Path) -> Source:
    """Returns the images of a folder, and logs what is passed over."""
    passed: collections.Counter[str] = collections.Counter()
    found = sorted(_images(path, out_dir.resolve(), passed))
    if passed:
        counts = ", ".join(f"{what} ({count})" for what, count in sorted(passed.items()))
        log(f"{path}: {len(found)} images; passed over: {counts}")
    if not found:
        raise UserError(
            f"{path}: no images in this folder; suffixes looked for: {', '.join(sorted(READABLE_SUFFIXES))}"
        )
    # Of one video of VSPW the frames lie in `origin`, which distinguishes nothing.
    base = path / "origin" if all(file.is_relative_to(path / "origin") for file in found) else path
    files = tuple((file.relative_to(base).with_suffix("").as_posix(), file) for file in found)
    return Source(path, "images", files, path.resolve().name or "root")


def _images(folder: Path, out_dir: Path, passed: collections.Counter[str]) -> Iterator[Path]:
    """Yields the images of a folder and its subfolders; counts what is passed over, by kind."""
    names = {entry.name for entry in os.scandir(folder) if is_folder(entry)}
    own = {"labels", "overlays"} if _is_prediction(folder, names) else set()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            passed["hidden files"] += 1
        elif entry.is_dir(follow_symlinks=False):
            if path.resolve() == out_dir or entry.name in own:
                passed["folders of earlier predictions"] += 1
            elif entry.name == "mask" and "origin" in names:
                passed["folders of VSPW masks"] += 1
            else:
                yield from _images(path, out_dir, passed)
        elif path.exists() and not path.is_file():
            passed["links to folders" if path.is_dir() else "pipes or devices"] += 1
        elif path.suffix.lower() in READABLE_SUFFIXES and not (own and entry.name == "legend.png"):
            yield path
        elif entry.name != WRITTEN:
            passed[path.suffix.lower() or "without suffix"] += 1


def _is_prediction(folder: Path, subfolders: set[str]) -> bool:
    """Returns whether `vss predict` wrote into a folder, before it listed its files as well."""
    if (folder / WRITTEN).is_file():
        return True
    return "labels" in subfolders and ("overlays" in subfolders or (folder / "overlay.mp4").is_file())


def _refuse_equal_names(sources: Sequence[Source]) -> None:
    seen: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    for source in sources:
        if source.folder and folders.setdefault(source.folder, source.path) is not source.path:
            raise UserError(f"{source.path}: its results would mix with those of {folders[source.folder]}; rename one")
        names = [name for name, _ in source.files] if source.kind == "images" else [""]
        paths = [path for _, path in source.files] if source.kind == "images" else [source.path]
        for name, path in zip(names, paths, strict=True):
            key = f"{source.folder}/{name}"
            if key in seen:
                raise UserError(f"{path}: its results would replace those of {seen[key]}; rename one of them")
            seen[key] = path


def written_before(folder: Path) -> list[str]:
    """Returns the files, relative to `folder`, that the last prediction into it wrote."""
    try:
        files = read_json(folder / WRITTEN)["files"]
    except (UserError, KeyError, TypeError):  # none, or not ours
        return []
    inside = [name for name in files if isinstance(name, str) and ".." not in Path(name).parts]
    return [name for name in inside if not Path(name).is_absolute()]


def title(source: Source) -> str:
    """Returns the name of an input in messages, on one line; names of files may hold anything."""
    return one_line(str(source.path))
