"""The audit of loading weights: what became of every tensor of the file and of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Audit:
    """What became of every tensor of a checkpoint and of the model.

    Every tensor of the model is in exactly one of `loaded`, `renamed`, `resized`, `new`; every tensor of the file went
    into one of the first three or is in `unused`.

    Attributes:
        source: file name.
        kind: what the file was found to be.
        loaded: model tensors taken under their own name.
        renamed: {name in the model: name in the file}.
        resized: {name in the model: what was done}, shapes differ; perhaps renamed as well.
        new: model tensors that keep their fresh initialisation.
        unused: {name in the file: why it has no place in the model}.
        classes: {class of the model: class of the file whose row it got}, where rows were copied by name.
    """

    source: str
    kind: str = ""
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def filled(self) -> set[str]:
        """Returns the names of the model's tensors that got values of the file."""
        return {*self.loaded, *self.renamed, *self.resized}

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries for `write_json`."""
        return asdict(self)

    def summary(self) -> str:
        """Returns one line with the counts."""
        counts = (("loaded", self.loaded), ("renamed", self.renamed), ("resized", self.resized), ("new", self.new))
        text = ", ".join(f"{len(names)} {what}" for what, names in counts)
        kind = f" ({self.kind})" if self.kind else ""
        return f"{self.source}{kind}: {text}, {len(self.unused)} unused"

    def parts(self) -> str:
        """Returns one line with what share of every part of the model was filled."""
        filled = self.filled()
        counts: dict[str, tuple[int, int]] = {}
        for name in [*filled, *self.new]:
            got, of = counts.get(part := name.split(".")[0], (0, 0))
            counts[part] = (got + (name in filled), of + 1)
        return ", ".join(f"{part} {got} of {of}" for part, (got, of) in sorted(counts.items()))

    def report(self) -> list[str]:
        """Returns the lines of the printed audit: every tensor, those that differ in numbers only as one line."""
        lines = [self.summary(), f"filled: {self.parts()}"]
        lines += _grouped("loaded", ((name, "") for name in self.loaded))
        lines += _grouped("renamed", ((new, f"was {old}") for new, old in self.renamed.items()))
        lines += _grouped("resized", self.resized.items())
        lines += _grouped("new", ((name, "") for name in self.new))
        lines += _grouped("unused", self.unused.items())
        if self.classes:
            pairs = (new if new == old else f"{new} <- {old}" for new, old in self.classes.items())
            lines.append(f"rows of {len(self.classes)} classes copied: {', '.join(pairs)}")
        return lines


def _grouped(what: str, entries: Iterable[tuple[str, str]]) -> list[str]:
    """Returns a line for every pattern of names, in which # stands for any number."""
    groups: dict[tuple[str, str], int] = {}
    for name, remark in entries:
        is_name = remark.startswith("was ")
        key = (_hash_numbers(name), _hash_numbers(remark) if is_name else remark)
        groups[key] = groups.get(key, 0) + 1
    return [
        f"  {what:<8}{count:>5}  {pattern}{f'  ({remark})' if remark else ''}"
        for (pattern, remark), count in groups.items()
    ]


def _hash_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)
