"""Members of an ensemble: what weighs how much, and where a member's class probabilities of a frame are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from vss.configs.schema import read_section
from vss.core.codec import Planes, put_label_first
from vss.core.errors import UserError
from vss.core.files import JsonObject, read_json
from vss.core.frames_file import FrameFiles
from vss.core.scores_file import ScoresReader


@dataclass(frozen=True)
class Member:
    """One member as the settings give it.

    Attributes:
        name: prediction name, for example "swin.single".
        weight: at least 0; only ratios between members matter. 0 leaves the member out.
        temperature: T > 0; the member's probabilities become p^(1/T), normalised. Above 1 it is made less certain.
        class_weights: factor on `weight` by class name, 1 where absent. A class's weights count relative to the other
            members' for the same class, so that doubling all of them changes nothing.
    """

    name: str
    weight: float = 1.0
    temperature: float = 1.0
    class_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings:
    """Settings of an ensemble and of the search of its weights.

    Attributes:
        prediction: its name, None where none is given.
        members: at least one, in the order of their scores files.
        search_weights, fit_temperature: what a search chooses.
    """

    prediction: str | None = None
    members: tuple[Member, ...]
    search_weights: bool
    fit_temperature: bool


def read_settings(given: JsonObject, *, where: str = "ensemble") -> EnsembleSettings:
    """Returns the typed settings of an ensemble, `ensemble_job` of the schema.

    Raises:
        UserError: no members, a name twice, weights that are all 0, an unknown key or a value that is not allowed.
    """
    settings = read_section(EnsembleSettings, "ensemble_job", given, where=where)
    names = [member.name for member in settings.members]
    if len(set(names)) < len(names):
        raise UserError(f"{where}.members: {next(name for name in names if names.count(name) > 1)!r} is listed twice")
    if not any(member.weight for member in settings.members):
        raise UserError(f"{where}.members: all weights are 0, at least one must be more")
    return settings


def chosen_members(members: Sequence[Member], chosen: str | os.PathLike) -> tuple[Member, ...]:
    """Returns members with the weights and temperatures that a search chose (`vss.ensemble.search.search`).

    Raises:
        UserError: the result was chosen for other members, or is none.
    """
    names = sorted(member.name for member in members)
    found = {entry["name"]: entry for entry in read_json(chosen).get("members", ())}
    if sorted(found) != names:
        raise UserError(f"{chosen}: was chosen for members {sorted(found)}, the ensemble has {names}")
    entries = [{**found[member.name], "class_weights": dict(member.class_weights)} for member in members]
    return read_settings({"members": entries}, where=str(chosen)).members


class MemberScores(FrameFiles[ScoresReader]):
    """A member's scores files: any number of shards, a frame found by its key.

    Raises:
        UserError: a file is missing or broken, says that it holds another prediction, two files disagree on the
            classes, or hold the same frame.
    """

    def __init__(self, name: str, files: Iterable[str | os.PathLike]) -> None:
        super().__init__(ScoresReader, files, where=f"member {name!r}: ")
        self.name = name
        if not self.readers:
            raise UserError(f"member {name!r}: no scores files")
        first = self.readers[0]
        self.classes, self.provenance = first.classes, first.provenance
        for reader in self.readers:
            holds = reader.provenance.get("settings", {}).get("prediction", name)
            if holds != name:
                raise UserError(f"member {name!r}: {reader.path} holds the class scores of {holds!r}")
            if reader.classes != self.classes:
                raise UserError(f"member {name!r}: {reader.path} has other classes than {first.path}")

    def classes_of(self, video: str, frame: str) -> np.ndarray:
        """Returns the ids of the classes that have a plane in a frame [A], without reading the planes."""
        return self._reader(video, frame).read_classes(video, frame)

    def read(self, video: str, frame: str, *, size: tuple[int, int], temperature: float = 1.0) -> Planes:
        """Returns a frame's probabilities at `size` = (H, W), tempered.

        Probabilities stored at another size are resized bilinearly (align_corners False).

        Raises:
            UserError: the member has no such frame; the line names member and frame.
        """
        planes = self._reader(video, frame).read_planes(video, frame)
        if planes.rest.shape != size:
            planes = resized(planes, size)
        return tempered(planes, temperature)

    def _reader(self, video: str, frame: str) -> ScoresReader:
        reader = self.get(video, frame)
        if reader is None:
            raise UserError(f"member {self.name!r}: no class scores for frame {frame!r} of video {video!r}")
        return reader


def open_members(
    stack: contextlib.ExitStack, members: Sequence[Member], scores: Sequence[Sequence[str | os.PathLike]]
) -> list[MemberScores]:
    """Opens every member's files and checks that all members score the same classes.

    Args:
        stack: closes them.
        members: of the ensemble.
        scores: lists of files, see `scores_by_member`.

    Raises:
        UserError: the files cannot be shared among the members, or a class list differs.
    """
    opened = [
        stack.enter_context(MemberScores(member.name, files))
        for member, files in zip(members, scores_by_member(members, scores), strict=True)
    ]
    first = opened[0]
    for other, member in zip(opened, members, strict=True):
        if other.classes != first.classes:
            raise UserError(f"member {other.name!r}: {_class_difference(first, other)}")
        if unknown := sorted(set(member.class_weights) - set(other.classes)):
            raise UserError(f"members.{member.name}.class_weights: {unknown[0]!r} is no class of its scores")
    return opened


def _class_difference(first: MemberScores, other: MemberScores) -> str:
    if len(first.classes) != len(other.classes):
        return f"scores {len(other.classes)} classes, member {first.name!r} scores {len(first.classes)}"
    place = next(i for i, pair in enumerate(zip(first.classes, other.classes, strict=True)) if pair[0] != pair[1])
    return f"class {place} is {other.classes[place]!r}, member {first.name!r} has {first.classes[place]!r}"


def resized(planes: Planes, size: tuple[int, int]) -> Planes:
    """Returns probabilities resized bilinearly to (H, W); the labels become the argmax of the resized."""
    height, width = size

    def at_size(plane: np.ndarray) -> np.ndarray:
        return cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)

    probabilities = np.stack([at_size(plane) for plane in planes.planes])
    labels = planes.classes[probabilities.argmax(axis=0)]
    return Planes(planes.classes, probabilities, at_size(planes.rest), labels, planes.num_classes)


def tempered(planes: Planes, temperature: float) -> Planes:
    """Returns probabilities p^(1/T) / sum p^(1/T); the argmax stays what it is."""
    if temperature == 1:
        return planes
    power = np.float32(1 / temperature)
    # Relative to the most probable class, so that a small T does not underflow every class.
    top = planes.planes.max(axis=0)
    stack = np.concatenate([planes.planes, planes.rest[None]])
    stack /= top
    np.power(stack, power, out=stack)
    put_label_first(stack, planes.classes, planes.labels)
    stack /= stack[:-1].sum(axis=0) + (planes.num_classes - len(planes.classes)) * stack[-1]
    return Planes(planes.classes, stack[:-1], stack[-1], planes.labels, planes.num_classes)


def scores_by_member(
    members: Sequence[Member], given: Sequence[Sequence[str | os.PathLike]]
) -> list[list[str | os.PathLike]]:
    """Returns the scores files of every member.

    Args:
        members: of the ensemble.
        given: lists of files: one for each member, which may then have any number of files; or a single one, whose
            files the members share equally.

    Raises:
        UserError: they cannot be shared.
    """
    if len(given) == len(members):
        return [list(files) for files in given]
    if len(given) > 1:
        raise UserError(f"scores: given {len(given)} times for {len(members)} members; give them once for each member")
    files = [file for files in given for file in files]
    if not files or len(files) % len(members):
        raise UserError(
            f"scores: {len(files)} files cannot be shared among {len(members)} members; give them once for each member"
        )
    each = len(files) // len(members)
    return [files[start : start + each] for start in range(0, len(files), each)]
