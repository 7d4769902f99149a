"""Configs, class tables and lists with anything in them: one line that names the file or key, or a right reading."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from vss.configs.datasets import read_dataset_row
from vss.core.class_table import read_class_table
from vss.core.dataset_content import dataset_content
from vss.core.errors import UserError
from vss.core.log import printable
from vss.prepare.folders import list_dataset
from vss.workflow.config import load_config
from vss.workflow.settings import read_plan

CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
TABLE = "id,name,shown,train_name\n0,sky,#0000ff,sky\n1,road,,way\n2,path,,way\n9,noise,,\n"

texts = st.text(max_size=12) | st.sampled_from(
    ["\n", "-rf", "/", "..", "swin.single", "swin", "null", "\x1b[31m", "a" * 300]
)
scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | texts
    | st.sampled_from([float("nan"), float("inf"), 10**400, -1, 0, 1e-320])
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def one_line_or_fine(read, *arguments: Any) -> Any:
    """Calls a reader; whatever it refuses, it refuses with one line as a terminal is shown it."""
    try:
        return read(*arguments)
    except UserError as error:
        line = printable(str(error))
    assert line and "\n" not in line, repr(line)
    return None


def paths_of(value: Any, path: tuple = ()) -> list[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, child in children for found in paths_of(child, (*path, key)))]


PATHS = paths_of(CONFIG)[1:]


@given(st.sampled_from(PATHS), values, st.sampled_from(["replace", "remove", "add"]), texts)
def test_a_config_with_anything_anywhere(path: tuple, value: Any, how: str, key: str) -> None:
    config = copy.deepcopy(CONFIG)
    parent = config
    for step in path[:-1]:
        parent = parent[step]
    if how == "remove":
        del parent[path[-1]]
    elif how == "replace" or not isinstance(parent[path[-1]], dict):
        parent[path[-1]] = value
    else:
        parent[path[-1]][key] = value
    one_line_or_fine(read_plan, config)


@given(st.binary(max_size=60), st.integers(0, 3000), st.integers(0, 40))
def test_a_config_file_with_bytes_in_it(tmp_path_factory, some: bytes, at: int, over: int) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    data = (REPOSITORY / "config.yaml").read_bytes()
    file.write_bytes(data[:at] + some + data[at + over :])
    one_line_or_fine(load_config, file)


@given(st.lists(st.tuples(st.integers(0, len(TABLE)), texts, st.integers(0, 6)), min_size=1, max_size=3))
def test_a_class_table_with_anything_in_it(tmp_path_factory, edits: list) -> None:
    text = TABLE
    for at, some, over in edits:
        text = text[:at] + some + text[at + over :]
    file = Path(tmp_path_factory.getbasetemp()) / "classes.csv"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    space = one_line_or_fine(lambda: read_class_table(file, name="fuzzed"))
    if space is not None:
        assert space.classes and len(set(space.classes)) == len(space.classes)


@given(
    st.lists(st.just(b"v") | st.binary(max_size=12) | texts.map(str.encode), max_size=4), st.sampled_from(b"\n\r \0")
)
def test_a_list_with_anything_in_it(tmp_path_factory, lines: list[bytes], between: int) -> None:
    root = tmp_path_factory.getbasetemp() / "listed"
    for path in ("origin/1.jpg", "mask/1.png"):
        file = root / "data" / "v" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (root / "val.txt").write_bytes(bytes([between]).join(lines))
    layout = read_dataset_row("vspw", {}).layout
    listing = one_line_or_fine(list_dataset, layout, root)
    assert {frame.video for frame in listing.frames} <= {"v"}
    assert all("\n" not in problem.line() for problem in listing.problems)
    assert set(dataset_content(layout, root)) == {"train", "val", "test"}
