"""Paths with placeholders, such as `/runs/net/{split}/{video}/{frame}.png`: filled in, and found on disk."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vss.core import zip_folder
from vss.core.errors import UserError, did_you_mean
from vss.core.files import is_folder

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
TOKENS = re.compile(r"(\{[^{}]*\}|\*)")  # a placeholder, or * for any part of a name
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_SHOWN = 5  # names of a folder in a message
# A file on the network takes its time; several are requested at once.
_THREADS = 16


@dataclass(frozen=True)
class FoundFile:
    """A file that a pattern matches.

    Attributes:
        path: of the file.
        values: what stands in place of each placeholder.
    """

    path: str
    values: Mapping[str, str]


class PathPattern:
    """A path with placeholders in braces, each for a part of one file's or folder's name.

    Args:
        text: the path.
        allowed: names that may stand in braces.
        where: starts every message: the key or the option that the pattern stands in.

    Raises:
        UserError: a placeholder of another name, or a brace without its partner.
    """

    def __init__(self, text: str, *, allowed: Sequence[str], where: str) -> None:
        self.text, self._allowed, self._where = text, tuple(allowed), where
        self.names = tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))
        for name in self.names:
            if name not in allowed:
                known = ", ".join(f"{{{name}}}" for name in allowed)
                raise UserError(
                    f"{where}: no placeholder {f'{{{name}}}'!r}{did_you_mean(name, allowed)}; allowed: {known}"
                )
        if "*" in text:
            raise UserError(f"{where}: is {text!r}; * has no meaning here, name the parts: {', '.join(allowed)}")
        if set("{}") & set(_PLACEHOLDER.sub("", text)):
            raise UserError(f"{where}: is {text!r}, in which a brace has no partner")

    def __str__(self) -> str:
        return self.text

    def filled(self, **values: str) -> PathPattern:
        """Returns the pattern with some placeholders replaced."""
        text = _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), self.text)
        return PathPattern(text, allowed=self._allowed, where=self._where)

    def path(self, **values: str) -> str:
        """Returns the path with every placeholder replaced; values that it does not need are welcome."""
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)

    def has_part_of_its_own(self, name: str) -> bool:
        """Returns whether some part of the path has this placeholder and no other, so that it can be read back."""
        return any(_PLACEHOLDER.findall(part) == [name] for part in Path(self.text).parts)

    def files(self) -> list[FoundFile]:
        """Returns the files that match, sorted by path; hidden ones do not.

        Raises:
            UserError: a folder cannot be listed.
        """
        found = walk(self.root, self._parts, {}, files=True)
        kept = ((path, values) for path, values in found if not os.path.basename(path).startswith("."))
        return sorted(
            (FoundFile(os.path.join(self.root, path), values) for path, values in kept), key=lambda file: file.path
        )

    def contents(self, name: str) -> dict[str, str]:
        """Returns by value of a placeholder a digest that changes when one of its files does.

        Names, sizes and times of change are compared, as of a dataset's files.

        Args:
            name: of a placeholder with `has_part_of_its_own`; "" gives one digest of all, under "".
        """
        files = self.files()
        with ThreadPoolExecutor(_THREADS) as pool:
            facts = list(pool.map(size_and_time, (file.path for file in files)))
        by_value: dict[str, list[str]] = {}
        for file, fact in zip(files, facts, strict=True):
            key = file.values[name] if name else ""
            by_value.setdefault(key, []).append(f"{os.path.relpath(file.path, self.root)}/{fact}")
        return {value: _digest(lines) for value, lines in sorted(by_value.items())}

    @property
    def root(self) -> Path:
        """The folder below which all files are: the parts of the path before the first placeholder."""
        parts = Path(self.text).parts
        first = next((at for at, part in enumerate(parts) if _PLACEHOLDER.search(part)), len(parts) - 1)
        return Path(*parts[:first]) if first else Path()

    @property
    def _parts(self) -> list[str]:
        return list(Path(self.text).parts[len(self.root.parts) :])

    def mistake(self) -> str | None:
        """Returns why no file matches, with what stands there instead; None where one does."""
        root, parts = self.root, self._parts
        if not root.is_dir() and not zip_folder.is_folder(root):
            return f"{self._where}: no folder {str(root)!r}"
        if next(walk(root, parts, {}, files=True), None) is not None:
            return None
        return f"{self._where}: no file matches {self.text!r}; {why_nothing(root, parts, {})}"


def filled(part: str, known: Mapping[str, str]) -> str:
    """Returns a part of a path with the known placeholders filled in."""
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], match[0]), part)


def walk(
    root: Path, parts: list[str], known: dict[str, str], *, files: bool, at: str = ""
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (relative path, placeholders) of what is there; folders without a wildcard need not be."""
    if not parts:
        yield at, known
        return
    part, rest = parts[0], parts[1:]
    last = not rest
    if not set(TOKENS.findall(part)) - {f"{{{name}}}" for name in known} and not (files and last):
        yield from walk(root, rest, known, files=files, at=_join(at, filled(part, known)))
        return
    matches = part_regex(part, known, file_type=files and last).fullmatch
    for name, is_dir in _listed(root / at):
        if is_dir is not (files and last) and (match := matches(name)):
            names = {**known, **match.groupdict()}
            yield from walk(root, rest, names, files=files, at=_join(at, name))


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _listed(folder: Path) -> list[tuple[str, bool]]:
    """Returns (name, is a folder) of a folder's entries, sorted; of a missing folder none."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, is_folder(entry)) for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return zip_folder.entries(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None


def part_regex(part: str, known: Mapping[str, str], *, file_type: bool) -> re.Pattern[str]:
    """Returns what matches the names that a part of a path stands for, with a group for every unknown placeholder.

    Args:
        part: between two separators.
        known: what some placeholders are.
        file_type: whether the part ends in a file's type, which is compared in any case; ".*" is that of any image.
    """
    suffix = ""
    if file_type:
        part, dot, kind = part.rpartition(".")
        types = "|".join(sorted(name[1:] for name in IMAGE_SUFFIXES)) if kind == "*" else re.escape(kind)
        suffix = rf"{re.escape(dot)}(?i:{types})"
    seen: set[str] = set()
    pieces = []
    for token in TOKENS.split(part):
        name = token[1:-1]
        if token == "*":
            pieces.append(".*")
        elif not token.startswith("{"):
            pieces.append(re.escape(token))
        elif name in known:
            pieces.append(re.escape(known[name]))
        else:
            pieces.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+)")
            seen.add(name)
    return re.compile("".join(pieces) + suffix, re.DOTALL)


def why_nothing(root: Path, parts: list[str], known: Mapping[str, str]) -> str:
    """Returns where a pattern leads nowhere: the deepest folder that there is, and what it holds instead."""
    folder = ""
    for depth, part in enumerate(parts, start=1):
        last = depth == len(parts)
        entries, matches = _listed(root / folder), part_regex(part, known, file_type=last).fullmatch
        found = next((match for name, is_dir in entries if is_dir is not last and (match := matches(name))), None)
        if found is None:
            names = [name for name, _ in entries]
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            expected = filled(part, known)
            near = "" if "{" in expected else did_you_mean(expected, names)
            return f"no {expected} in {folder or 'the root'}, which holds {shown or 'nothing'}{near}"
        folder, known = _join(folder, found[0]), {**known, **found.groupdict()}
    return f"nothing but {folder}"


def size_and_time(path: str | os.PathLike) -> str:
    """Returns a file's size and time of change, as text; links are followed. In a zip file: its size and checksum."""
    if zip_folder.is_file(path):
        return zip_folder.facts(path)
    try:
        found = os.stat(path)
    except OSError:
        return "link to nothing"
    return f"{found.st_size}/{found.st_mtime_ns}"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
