"""Class tables: CSV files that name a dataset's classes, and those that say which class of one is which of another."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from vss.core.errors import UserError, did_you_mean
from vss.core.files import regular_file
from vss.core.label_space import IGNORE_INDEX, MOST_CLASSES, LabelSpace, RgbColour, ignore_index, label_dtype

SHIPPED = Path(__file__).with_name("classes")
SHIPPED_MAPS = Path(__file__).with_name("class_maps")  # reviewed by hand: same things only, no nearest ones
_COLUMNS = ("name", "shown", "train_name")
_LARGEST_ID = 65_535  # of a 16-bit PNG


def shipped_tables() -> list[str]:
    """Returns the names of the class tables that come with this project, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.csv"))


def shipped_space(name: str) -> LabelSpace:
    """Returns the label space of a class table that comes with this project."""
    return read_class_table(SHIPPED / f"{name}.csv", name=name)


def read_class_table(path: str | os.PathLike, *, name: str) -> LabelSpace:
    """Reads a class table.

    One row per mask value, in the order of the train ids. Columns: `id` (0..65535, what masks hold) or `colour` (RGB of
    the mask, "#rrggbb" or "r g b"); `name`; optionally `shown`, the colour it is drawn in; optionally `train_name`, the
    class it is trained as: rows of one `train_name` are one class, an empty one is ignored. Without that column every
    row is a class of its own name. Value 255, and of more than 255 classes 65535, is ignored where no row says
    otherwise.

    Args:
        path: of the CSV file (UTF-8, commas).
        name: of the label space.

    Raises:
        UserError: the file cannot be read, or its first mistake, with the line.
    """
    lines = list(_lines(path, first=("id", "colour"), others=_COLUMNS, required=("name",)))
    by_colour = "colour" in lines[0][1]
    key = "colour" if by_colour else "id"
    keys: dict[int | RgbColour, int] = {}
    names: dict[str, int] = {}
    classes: dict[str, int] = {}  # train id by name
    colours: list[str] = []
    raw_ids, train_ids, ignored = [], [], []
    for number, row in lines:
        where = f"{path} line {number}"
        found = _colour(row[key], where) if by_colour else _id(row[key], where)
        if found in keys:
            raise UserError(f"{where}: {key} {row[key]} again, first on line {keys[found]}; each may be there once")
        if not row["name"]:
            raise UserError(f"{where}: name is empty; what is ignored has a name and an empty train_name")
        if row["name"] in names:
            raise UserError(
                f"{where}: name {row['name']!r} again, first on line {names[row['name']]};"
                " to make one class of both give them one train_name"
            )
        raw = len(keys) if by_colour else found
        keys[found] = names[row["name"]] = number
        trained = row.get("train_name", row["name"])
        if not trained:
            ignored.append(raw)
            continue
        train = classes.setdefault(trained, len(classes))
        if train == len(colours):
            colours.append("")
        if row.get("shown") and not colours[train]:
            colours[train] = "#{:02x}{:02x}{:02x}".format(*_colour(row["shown"], where))
        raw_ids.append(raw)
        train_ids.append(train)
    if not classes:
        raise UserError(f"{path}: every train_name is empty, so there is no class; at least one row needs one")
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{path}: {len(classes)} classes, at most {MOST_CLASSES} are allowed; merge some by train_name")
    if not by_colour:
        defaults = dict.fromkeys((IGNORE_INDEX, ignore_index(label_dtype(len(classes)))))
        ignored += [raw for raw in defaults if raw not in keys]
    return LabelSpace(
        name=name,
        classes=tuple(classes),
        raw_ids=tuple(raw_ids),
        train_ids=tuple(train_ids),
        ignored=tuple(ignored),
        colours=tuple(colours) if any(colours) else (),
        mask_colours=tuple(keys) if by_colour else (),
    )


def read_class_map(path: str | os.PathLike, source: LabelSpace, target: LabelSpace) -> list[int | None]:
    """Reads which class of `target` each class of `source` is.

    Columns: `from`, a class of the source; `to`, a class of the target, empty = ignored. What is not named is ignored.

    Returns:
        The target's train id of each class of the source, None = ignored.

    Raises:
        UserError: the file cannot be read, or its first mistake, with the line.
    """
    positions: list[int | None] = [None] * source.num_classes
    seen: dict[int, int] = {}
    for number, row in _lines(path, first=("from",), others=("to",), required=("to",)):
        where = f"{path} line {number}"
        at = source.position(row["from"], where=where)
        if at in seen:
            raise UserError(f"{where}: {row['from']!r} again, first on line {seen[at]}; each may be there once")
        seen[at] = number
        positions[at] = target.position(row["to"], where=where) if row["to"] else None
    return positions


def _lines(
    path: str | os.PathLike, *, first: tuple[str, ...], others: tuple[str, ...], required: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line number, row) of a CSV whose header holds one of `first` and some of `others`."""
    try:
        with open(regular_file(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None
    rows = [(number, row) for number, row in rows if any(row)]
    wanted = f"{' or '.join(first)}, then {', '.join(others)}"
    if not rows:
        raise UserError(f"{path}: is empty; its first line must name the columns: {wanted}")
    number, header = rows[0]
    header = ["colour" if name == "color" else name for name in header]
    for name in header:
        if name not in (*first, *others):
            near = did_you_mean(name.lower(), (*first, *others))
            commas = "; columns are separated by commas" if re.search("[;\t]", name) else ""
            raise UserError(f"{path} line {number}: unknown column {name!r}{near}; columns are {wanted}{commas}")
    if sum(name in header for name in first) != 1 or not set(required) <= set(header):
        raise UserError(f"{path} line {number}: columns are {', '.join(header)}; must be {wanted}")
    if len(set(header)) < len(header):
        raise UserError(f"{path} line {number}: columns are {', '.join(header)}; each may be there once")
    if len(rows) == 1:
        raise UserError(f"{path}: has no row below its header")
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{path} line {number}: {len(row)} cells, the header has {len(header)}; quote a cell that holds a comma"
            )
        yield number, dict(zip(header, row, strict=True))


def _id(cell: str, where: str) -> int:
    if not re.fullmatch("[0-9]+", cell) or int(cell) > _LARGEST_ID:
        raise UserError(f"{where}: id is {cell!r}, must be a whole number from 0 to {_LARGEST_ID}")
    return int(cell)


def _colour(cell: str, where: str) -> RgbColour:
    if re.fullmatch("#?[0-9a-fA-F]{6}", cell):
        return tuple(bytes.fromhex(cell.removeprefix("#")))
    parts = re.split(r"[\s,]+", cell)
    if len(parts) == 3 and all(re.fullmatch("[0-9]+", part) and int(part) < 256 for part in parts):
        return tuple(map(int, parts))
    raise UserError(f"{where}: colour is {cell!r}, must be #rrggbb or three numbers from 0 to 255, such as 128 64 128")
