"""Rows of the config's `data`: what a dataset's format and keys resolve to."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from vss.configs.schema import from_json, read_section
from vss.core.class_table import SHIPPED_MAPS, read_class_map, read_class_table, shipped_space, shipped_tables
from vss.core.dataset_layout import DatasetLayout, FramePattern
from vss.core.errors import UserError, did_you_mean
from vss.core.files import JsonObject
from vss.core.label_space import LabelSpace, ignore_index, label_dtype
from vss.core.masks import MaskCoding

_FORMATS = Path(__file__).with_name("dataset_formats.yaml")
OWN = "folders"  # the format whose keys are all the row's


@dataclass(frozen=True)
class Instances:
    """How masks of instances hold the class: see `instances` of `dataset` in config.schema.yaml."""

    at_least: int
    divisor: int


@dataclass(frozen=True)
class ClassMap:
    """In which classes a dataset is used: see `map` of `dataset` in config.schema.yaml."""

    to: str
    table: str | None = None
    classes: str | None = None


@dataclass(frozen=True)
class DatasetSettings:
    """A row of `data`: see `dataset` in config.schema.yaml. What is None is the format's."""

    root: str | None
    on_problem: str
    checks: str
    drawn: JsonObject = field(default_factory=dict)
    shards: Mapping[str, int] = field(default_factory=dict)
    format: str | None = None
    images: str | None = None
    masks: str | None = None
    classes: str | None = None
    splits: Mapping[str, str | float] | None = None
    map: ClassMap | None = None
    mask_values: str | None = None
    instances: Instances | None = None
    annotation: str | None = None
    ignore: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Format:
    """A published layout, or one that a row's keys override: see dataset_formats.yaml."""

    images: str | None = None
    masks: str | None = None
    classes: str | None = None
    splits: Mapping[str, str | float] | None = None  # in the order in which shares are dealt
    mask_values: str | None = None
    mask_bits: int = 16
    instances: Instances | None = None
    annotation: str | None = None
    ignore: tuple[str, ...] = ()

    def overridden_by(self, row: DatasetSettings) -> Format:
        """Returns the format with every key that a row gives in place of its own."""
        given = {key.name: getattr(row, key.name, None) for key in fields(self)}
        return replace(self, **{key: value for key, value in given.items() if value is not None})


@dataclass(frozen=True)
class Dataset:
    """A dataset as its row resolves.

    Attributes:
        name: key in the config's `data`.
        format: name of the published layout, or "folders".
        settings: the row as it was read.
        root: folder of a real dataset, None where it is drawn.
        layout: where its files are.
        own_space: the label space of its class table.
        space: the label space that it is used in: its own, or the one that `map` leads to.
        coding: how its masks hold raw ids.
        tables: its class table, class map and the class table that it is mapped to, where they are files of the user's.
    """

    name: str
    format: str
    settings: DatasetSettings
    root: Path | None
    layout: DatasetLayout
    own_space: LabelSpace
    space: LabelSpace
    coding: MaskCoding
    tables: tuple[Path, ...]


@functools.cache
def formats() -> dict[str, Format]:
    """Returns the published layouts by name, to be read only."""
    rows = yaml.safe_load(_FORMATS.read_text(encoding="utf-8"))
    return {name: from_json(Format, row) for name, row in rows.items()}


def read_dataset_row(name: str, given: JsonObject, others: Mapping[str, JsonObject] | None = None) -> Dataset:
    """Returns what a row of the config's `data` resolves to; class tables are read, the dataset itself is not.

    Args:
        name: key of the row.
        given: the row as the user wrote it.
        others: all rows of the config, for `map.to`; without them it names a class table.

    Raises:
        UserError: a key or a value that is not allowed, or a mistake in a class table.
    """
    where = f"data.{name}"
    settings = read_section(DatasetSettings, where, given, where=where)
    format_name = settings.format or (name if name in formats() else OWN)
    filled = formats()[format_name].overridden_by(settings)
    for key in ("images", "masks", "classes"):
        if getattr(filled, key) is None:
            hint = "" if name in formats() else f"{did_you_mean(name, formats())}; or name the layout by format"
            raise UserError(f"{where}.{key}: is missing, which format {format_name!r} needs{hint}")
    assert filled.classes is not None
    root = None if settings.root is None else Path(settings.root).expanduser()
    own, table = _class_table(filled.classes, name=name, root=root, where=f"{where}.classes")
    space, tables = own, [table]
    if settings.map is not None:
        target, target_table = _target_space(settings.map, others or {}, where=f"{where}.map")
        space, table = _mapped(own, target, settings.map.table, root, where=where)
        tables += [table, target_table]
    return Dataset(
        name=name,
        format=format_name,
        settings=settings,
        root=root,
        layout=_layout(filled, where=where),
        own_space=own,
        space=space,
        coding=_coding(filled, own, where=where),
        tables=tuple(path for path in tables if path is not None),
    )


def settings_for_jobs(name: str, others: Mapping[str, JsonObject]) -> dict[str, Any]:
    """Returns a row for a job that knows no other rows: a dataset that `map.to` names comes with its class table."""
    row = dict(others[name])
    if row.get("map") and (to := row["map"]["to"]) in others:
        space, table = _target_space(ClassMap(to), others, where=f"data.{name}.map")
        if table is not None or space.name != to:
            row["map"] = {**row["map"], "classes": space.name if table is None else str(table)}
    return row


def _target_space(chosen: ClassMap, others: Mapping[str, JsonObject], *, where: str) -> tuple[LabelSpace, Path | None]:
    """Returns the label space that a `map` leads to, and its class table where that is a file of the user's."""
    if chosen.classes is None and chosen.to in others:
        row = read_dataset_row(chosen.to, {key: value for key, value in others[chosen.to].items() if key != "map"})
        return row.own_space, next(iter(row.tables), None)
    named, key = (chosen.to, "to") if chosen.classes is None else (chosen.classes, "classes")
    name = Path(chosen.to).stem
    return _class_table(named, name=name, root=None, where=f"{where}.{key}", others=tuple(others))


def _class_table(
    named: str, *, name: str, root: Path | None, where: str, others: tuple[str, ...] = ()
) -> tuple[LabelSpace, Path | None]:
    """Returns the label space of a class table that is shipped, or a file, and that file."""
    if named in shipped_tables():
        return shipped_space(named), None
    path = _file(named, root)
    if path is None:
        there = [] if root is None or not root.is_dir() else [path.name for path in root.glob("*.csv")]
        near = did_you_mean(named, [*there, *shipped_tables(), *others])
        looked = "" if root is None else f" in {root} nor in the working directory"
        raise UserError(
            f"{where}: no file {named!r}{looked}{near}; included class tables: {', '.join(shipped_tables())}"
        )
    return read_class_table(path, name=name), path


def _file(named: str, root: Path | None) -> Path | None:
    """Returns a file of the dataset's folder, else of the working directory, None where there is none."""
    candidates = [Path(named).expanduser()] if root is None else [root / Path(named).expanduser(), Path(named)]
    return next((path for path in candidates if path.is_file()), None)


def _mapped(
    own: LabelSpace, target: LabelSpace, table: str | None, root: Path | None, *, where: str
) -> tuple[LabelSpace, Path | None]:
    path = _map_file(table, root, where=f"{where}.map.table")
    return own.mapped(class_positions(own, target, path, where=f"{where}.map"), target), path


def class_positions(own: LabelSpace, target: LabelSpace, table: Path | None, *, where: str) -> list[int | None]:
    """Returns which class of `target` each class is, None = ignored: by a class map, or without one by name.

    Raises:
        UserError: a mistake in the map, or none of the classes is one of the target's.
    """
    positions = own.positions_by_name(target) if table is None else read_class_map(table, own, target)
    if all(position is None for position in positions):
        raise UserError(
            f"{where}: none of its {own.num_classes} classes ({', '.join(own.classes[:3])}, ...) is one of"
            f" {target.name}; name the pairs in a CSV with columns from and to"
        )
    return positions


def _map_file(named: str | None, root: Path | None, *, where: str) -> Path | None:
    """Returns a class map: a file, or one that is shipped, by its name with or without .csv."""
    if named is None:
        return None
    shipped = SHIPPED_MAPS / f"{named.removesuffix('.csv')}.csv"
    path = _file(named, root) or (shipped if "/" not in named and shipped.is_file() else None)
    if path is None:
        known = sorted(file.stem for file in SHIPPED_MAPS.glob("*.csv"))
        near = did_you_mean(named.removesuffix(".csv"), known)
        raise UserError(f"{where}: no file {named!r}{near}; included class maps: {', '.join(known)}")
    return path


@dataclass(frozen=True)
class MixEntry:
    """One of several datasets that are trained on together: see `data` of `training` in config.schema.yaml."""

    name: str
    weight: float
    map: str | None


def mix_of(data: str | Sequence[str | MixEntry] | None, default: str) -> list[MixEntry]:
    """Returns the datasets of a training: its `data` names one or several, or is None for the default."""
    entries = [data or default] if data is None or isinstance(data, str) else data
    return [MixEntry(entry, 1.0, None) if isinstance(entry, str) else entry for entry in entries]


def train_ids_in(entry: MixEntry, dataset: Dataset, target: LabelSpace, *, where: str) -> list[int] | None:
    """Returns the target's train id (or ignore index) of each class of a dataset; None where the classes are its own.

    Raises:
        UserError: see `class_positions`.
    """
    if entry.map is None and (dataset.space.name, dataset.space.classes) == (target.name, target.classes):
        return None
    table = _map_file(entry.map, dataset.root, where=f"{where}.map")
    positions = class_positions(dataset.space, target, table, where=where)
    ignored = ignore_index(label_dtype(target.num_classes))
    return [ignored if position is None else position for position in positions]


def _layout(given: Format, *, where: str) -> DatasetLayout:
    """Returns where the files of a dataset are; `given` names images and masks.

    Raises:
        UserError: patterns or splits that do not fit each other.
    """
    assert given.images is not None and given.masks is not None
    images = FramePattern(given.images, where=f"{where}.images")
    masks = FramePattern(given.masks, where=f"{where}.masks")
    if masks.is_video:
        raise UserError(f"{where}.masks: is {masks.text!r}; masks are PNGs, one for each frame that has one")
    if ("video" in images.names) != ("video" in masks.names):
        raise UserError(f"{where}.masks: images and masks must both hold {{video}}, or neither")
    splits = dict(given.splits or {})
    seed = int(splits.pop("seed", 0))
    if not splits:
        if "split" not in images.names:
            raise UserError(
                f"{where}.splits: is missing; name list files ({{train: train.txt, val: val.txt}}), shares"
                " ({train: 0.8, val: 0.2}), or put {split} into images and masks"
            )
        splits = {"train": "train", "val": "val"}
    shares = [share for share in splits.values() if not isinstance(share, str)]
    if shares and (len(shares) < len(splits) or "split" in images.names or sum(shares) > 1 + 1e-9):
        raise UserError(
            f"{where}.splits: is {splits}; shares must be given for all splits, add up to at most 1, and {{split}}"
            " may then not be in images"
        )
    named = [value for value in splits.values() if isinstance(value, str) and not value.endswith(".txt")]
    if named and "split" not in images.names:
        raise UserError(
            f"{where}.splits: {named[0]!r} is no list file (.txt) and no share, and images have no {{split}} to put it"
        )
    return DatasetLayout(
        images=images,
        masks=masks,
        splits=splits,
        seed=seed,
        all_labelled=given.annotation == "full",
        ignore=given.ignore,
    )


def _coding(given: Format, space: LabelSpace, *, where: str) -> MaskCoding:
    """Returns how masks hold the raw ids of a class table.

    Raises:
        UserError: they hold colours and the table does not, or the other way round.
    """
    values = given.mask_values or ("colours" if space.mask_colours else "ids")
    if (values == "colours") != bool(space.mask_colours):
        has = "colours" if space.mask_colours else "ids"
        raise UserError(f"{where}.mask_values: is {values!r}, but the class table is by {has}")
    coding = MaskCoding(
        values=values,
        bits=given.mask_bits if values == "ids" else 8,
        colours=space.mask_colours,
    )
    if given.instances is None:
        return coding
    return replace(coding, things_from=given.instances.at_least, divisor=given.instances.divisor)
