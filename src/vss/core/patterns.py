"""Paths with placeholders, such as `/runs/net/{split}/{video}/{frame}.png`: filled in, and found on disk."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vss.core.errors import UserError, did_you_mean
from vss.core.files import is_folder

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
# A file on the network takes its time; several are requested at once.
_THREADS = 16
_NAMED = 3  # entries of a folder that a message names


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
        """Returns the files that match, sorted by path; hidden ones do not, and what cannot be listed has none."""
        found = [FoundFile(entry.path, values) for entry, values in self._entries()]
        return sorted(found, key=lambda file: file.path)

    def contents(self, name: str) -> dict[str, str]:
        """Returns by value of a placeholder a digest that changes when one of its files does.

        Names, sizes and times of change are compared, as of a dataset's files.

        Args:
            name: of a placeholder with `has_part_of_its_own`; "" gives one digest of all, under "".
        """
        entries = list(self._entries())
        with ThreadPoolExecutor(_THREADS) as pool:
            facts = list(pool.map(_size_and_time, (entry for entry, _ in entries)))
        by_value: dict[str, list[str]] = {}
        for (entry, values), fact in zip(entries, facts, strict=True):
            by_value.setdefault(values[name] if name else "", []).append(
                f"{os.path.relpath(entry.path, self.root)}/{fact}"
            )
        return {value: _digest(sorted(facts)) for value, facts in sorted(by_value.items())}

    @property
    def root(self) -> Path:
        """The folder below which all files are: the parts of the path before the first placeholder."""
        parts = Path(self.text).parts
        first = next((at for at, part in enumerate(parts) if _PLACEHOLDER.search(part)), len(parts) - 1)
        return Path(*parts[:first]) if first else Path()

    def mistake(self) -> str | None:
        """Returns why no file matches, with what stands there instead; None where one does."""
        folder = self.root
        if not folder.is_dir():
            return f"{self._where}: no folder {str(folder)!r}"
        if next(self._entries(), None) is not None:
            return None
        # Down to where nothing matches any more: what is there shows what the pattern should be.
        for part in Path(self.text).parts[len(folder.parts) :]:
            matching = [entry for entry, _ in _matching(folder, part, {})]
            if not matching:
                names = sorted(entry.name for entry in _entries_of(folder))
                shown = ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
                return f"{self._where}: no file matches {self.text!r}; {folder} holds {shown or 'nothing'}, no {part!r}"
            folder = Path(matching[0].path)
        return f"{self._where}: no file matches {self.text!r}"

    def _entries(self) -> Iterator[tuple[os.DirEntry, dict[str, str]]]:
        parts = Path(self.text).parts[len(self.root.parts) :]
        return _walk(self.root, parts, {})


def _walk(folder: Path, parts: Sequence[str], values: dict[str, str]) -> Iterator[tuple[os.DirEntry, dict[str, str]]]:
    for entry, known in _matching(folder, parts[0], values):
        if len(parts) > 1:
            yield from _walk(Path(entry.path), parts[1:], known)
        elif not is_folder(entry):
            yield entry, known


def _matching(folder: Path, part: str, values: dict[str, str]) -> Iterator[tuple[os.DirEntry, dict[str, str]]]:
    """Yields the entries of a folder that match a part of the path, each with the values known so far and its own."""
    pattern = re.compile(_regular_expression(part, values))
    for entry in _entries_of(folder):
        found = pattern.fullmatch(entry.name)
        if found and (not entry.name.startswith(".") or part.startswith(".")):
            yield entry, {**values, **found.groupdict()}


def _entries_of(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # no folder, or none that may be listed
        return []


def _regular_expression(part: str, values: Mapping[str, str]) -> str:
    """Returns a part of a path as a regular expression; a name that has a value already stands for that alone."""
    pieces, seen = _PLACEHOLDER.split(part), set()
    for at in range(1, len(pieces), 2):
        name = pieces[at]
        if name in values:
            pieces[at] = re.escape(values[name])
        else:
            pieces[at] = f"(?P={name})" if name in seen else f"(?P<{name}>.+)"
        seen.add(name)
    return "".join(piece if at % 2 else re.escape(piece) for at, piece in enumerate(pieces))


def _size_and_time(entry: os.DirEntry) -> str:
    try:
        stat = entry.stat()
    except OSError:
        return "link to nothing"
    return f"{stat.st_size}/{stat.st_mtime_ns}"


def _digest(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
