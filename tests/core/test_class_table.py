"""Class tables and class maps: what they mean, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vss.core.class_table import read_class_map, read_class_table, shipped_space, shipped_tables
from vss.core.errors import UserError


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "classes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_ids_are_merged_renamed_ignored_and_coloured(tmp_path: Path) -> None:
    text = "id,name,shown,train_name\n7,car,#00008E,vehicle\n300,sky,70 130 180,sky\n8,bus,,vehicle\n0,void,,\n"
    space = read_class_table(table(tmp_path, text), name="street")
    assert (space.name, space.classes, space.colours) == ("street", ("vehicle", "sky"), ("#00008e", "#4682b4"))
    mapping = space.raw_to_train()
    assert len(mapping) == 301 and [int(mapping[raw]) for raw in (7, 8, 300, 0, 255, 1)] == [0, 0, 1, 255, 255, 255]
    assert space.known_raw_values() == {7, 8, 300, 0, 255}  # 255 is ignored where no row names it


def test_without_train_names_each_row_is_a_class_and_255_may_be_one(tmp_path: Path) -> None:
    space = read_class_table(table(tmp_path, b"\xef\xbb\xbfid,name\r\n255,a\r\n\r\n1,b\r\n"), name="x")
    assert space.classes == ("a", "b") and space.raw_ids == (255, 1) and not space.ignored and not space.colours


def test_colours_are_numbered_in_the_order_of_the_rows(tmp_path: Path) -> None:
    text = 'color,name,train_name\n#000000,void,\n"128, 64, 128",road,road\n#464646,house,house\n'
    space = read_class_table(table(tmp_path, text), name="x")
    assert space.mask_colours == ((0, 0, 0), (128, 64, 128), (70, 70, 70))
    assert (space.raw_ids, space.train_ids, space.ignored) == ((1, 2), (0, 1), (0,))


MISTAKES = {
    "id twice": ("id,name\n3,a\n4,b\n3,c\n", "line 4: id 3 again, first on line 2"),
    "colour twice": ("colour,name\n#ff0000,a\n255 0 0,b\n", "line 3: colour 255 0 0 again, first on line 2"),
    "name twice": ("id,name\n3,a\n4,a\n", "line 3: name 'a' again, first on line 2; to make one class of both"),
    "no name": ("id,name\n3,\n", "line 2: name is empty"),
    "no number": ("id,name\nx,a\n", "line 2: id is 'x', must be a whole number from 0 to 65535"),
    "too large": ("id,name\n70000,a\n", "line 2: id is '70000'"),
    "no colour": ("colour,name\n#12345,a\n", "line 2: colour is '#12345', must be #rrggbb or three numbers"),
    "shown is no colour": ("id,name,shown\n1,a,red\n", "line 2: colour is 'red'"),
    "unknown column": ("id,nmae\n1,a\n", "line 1: unknown column 'nmae' (did you mean 'name'?)"),
    "semicolons": ("id;name\n1;a\n", "columns are separated by commas"),
    "no key": ("name,shown\na,\n", "line 1: columns are name, shown; must be id or colour"),
    "both keys": ("id,colour,name\n1,#000000,a\n", "line 1: columns are id, colour, name; must be id or colour"),
    "column twice": ("id,name,name\n1,a,b\n", "each may be there once"),
    "too many cells": ("id,name\n1,a,b\n", "line 2: 3 cells, the header has 2"),
    "empty": ("", "is empty; its first line must name the columns"),
    "header only": ("id,name\n", "has no row below its header"),
    "all ignored": ("id,name,train_name\n1,a,\n", "every train_name is empty"),
    "too many": ("id,name\n" + "".join(f"{n},c{n}\n" for n in range(65_536)), "65536 classes, at most 65534"),
    "not UTF-8": (b"id,name\n1,\xff\n", "is not UTF-8 text (byte 10)"),
    "open quote": ('id,name\n1,"a\n', "not a CSV file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_the_file(tmp_path: Path, mistake: str) -> None:
    text, words = MISTAKES[mistake]
    path = table(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_class_table(path, name="x")
    line = str(caught.value)
    assert line.startswith(str(path)) and words in line and "\n" not in line


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: cannot be read \(No such file"):
        read_class_table(tmp_path / "none.csv", name="x")


def test_a_map_names_pairs_and_ignores_the_rest(tmp_path: Path) -> None:
    source = read_class_table(table(tmp_path, "id,name\n1,lane\n2,kerb\n3,house\n"), name="street")
    path = tmp_path / "map.csv"
    path.write_text("from,to\nhouse,building\nlane,road\nkerb,\n")
    target = shipped_space("vspw")
    positions = read_class_map(path, source, target)
    assert positions == [target.classes.index("road"), None, target.classes.index("building")]
    mapped = source.mapped(positions, target)
    assert (mapped.name, mapped.classes) == ("vspw", target.classes)
    mapping = mapped.raw_to_train()
    assert [int(mapping[raw]) for raw in (1, 2, 3)] == [positions[0], 255, positions[2]]
    assert mapped.known_raw_values() == source.known_raw_values()
    for text, words in (
        ("from,to\nlaen,road\n", "line 2: street has no class 'laen' (did you mean 'lane'?)"),
        ("from,to\nlane,raod\n", "line 2: vspw has no class 'raod' (did you mean 'road'?)"),
        ("from,to\nlane,road\nlane,path\n", "line 3: 'lane' again, first on line 2"),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            read_class_map(path, source, target)
        assert words in str(caught.value)


def test_names_match_in_any_case_and_spelling_of_spaces(tmp_path: Path) -> None:
    source = read_class_table(table(tmp_path, "id,name\n1,Traffic-Light\n2,playground slide\n3,nothing\n"), name="x")
    target = shipped_space("vspw")
    assert [target.classes[at] if at is not None else None for at in source.positions_by_name(target)] == [
        "traffic_light",
        "Playground_slide",
        None,
    ]


@pytest.mark.parametrize("name", shipped_tables())
def test_every_shipped_table_can_be_read(name: str) -> None:
    space = shipped_space(name)
    assert space.name == name and len(set(space.classes)) == space.num_classes
