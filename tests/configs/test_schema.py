"""The schema: complete, and read into typed sections whose mistakes are one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from vss.configs import schema
from vss.configs.layouts import LAYOUTS
from vss.configs.page import config_page
from vss.configs.schema import check_values, load_schema, read_section, section_schema
from vss.core.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = {
    *("$ref", "type", "enum", "description", "default", "x-default", "x-read-by", "properties", "required", "items"),
    *("minimum", "maximum", "exclusiveMinimum", "multipleOf", "minItems", "maxItems", "uniqueItems", "minLength"),
    *("maxLength", "pattern", "minProperties", "propertyNames", "additionalProperties", "allOf"),
}


def every_key(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yields the path, the resolved schema and whether it is required of every key of the schema."""
    for key, subschema in part.get("properties", {}).items():
        resolved = schema.resolve_reference(subschema)
        yield f"{path}{key}", resolved, key in part.get("required", ())
        yield from every_key(resolved, f"{path}{key}.")
    if isinstance(part.get("additionalProperties"), dict):
        yield from every_key(schema.resolve_reference(part["additionalProperties"]), f"{path}NAME.")
    for name, definition in part.get("$defs", {}).items():
        yield from every_key(schema.resolve_reference(definition), f"$defs.{name}.")


def test_every_key_has_a_type_a_default_and_a_description() -> None:
    keys = {path: (part, required) for path, part, required in every_key(load_schema())}
    assert len(keys) > 140
    for path, (part, required) in keys.items():
        assert "description" in part, path
        assert "type" in part or "enum" in part, path
        assert required or "default" in part or "x-default" in part or path == "$defs.dataset.drawn", path
        # a comma in an unquoted description of a {flow} map would end it and begin another key
        assert part.keys() <= WORDS, path


def test_every_default_is_itself_allowed() -> None:
    import jsonschema

    definitions = load_schema()["$defs"]
    for path, part, _ in every_key(load_schema()):
        if "default" in part and not path.startswith("data") and path not in ("targets", "report"):
            jsonschema.Draft202012Validator({**part, "$defs": definitions}).validate(part["default"])


def test_the_page_is_generated_from_the_schema() -> None:
    page = (REPOSITORY / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == config_page(), "python -m vss.configs.page > docs/config.md"


def test_the_protocols_and_precisions_are_those_of_the_schema() -> None:
    assert list(schema.PROTOCOLS) == load_schema()["properties"]["protocol"]["enum"]
    assert list(schema.PRECISIONS) == load_schema()["$defs"]["precision"]["enum"]


@dataclass(frozen=True)
class Ssa:
    min_purity: float
    keep_area: int
    votes: str | None


@dataclass(frozen=True)
class Slic:
    method: str
    segments: tuple[int, ...]
    compactness: float
    sigma: float


@dataclass(frozen=True)
class Shards:
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class Drawn:
    seed: int
    train_images: int
    val_images: int
    height: int


@dataclass(frozen=True)
class Dataset:
    root: str | None
    on_problem: str
    checks: str
    drawn: Drawn
    shards: Shards


def test_a_section_is_read_with_its_defaults_and_types() -> None:
    assert read_section(Ssa, "ssa", {"keep_area": 3.0}, where="settings") == Ssa(0.0, 3, "labels")
    read = read_section(Slic, "slic", {"segments": [9, 8], "sigma": 2}, where="settings")
    assert read == Slic(method="slic", segments=(9, 8), compactness=10.0, sigma=2.0)
    assert isinstance(read.sigma, float) and isinstance(read.segments, tuple)
    assert read_section(Shards, "data.vspw.shards", {"val": 4}, where="settings") == Shards(train=1, val=4, test=1)


def test_sections_within_sections_become_their_own_types() -> None:
    read = read_section(Dataset, "data.coco_stuff", {"drawn": {"height": 64}}, where="settings")
    drawn = Drawn(seed=0, train_images=160, val_images=24, height=64)
    assert read == Dataset(None, "stop", "full", drawn, Shards(train=1, val=1, test=1))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"min_purty": 1}, "settings: unknown key 'min_purty' (did you mean 'min_purity'?); allowed: keep_area"),
        ({"min_purity": 2}, "settings.min_purity: is 2, must be at most 1"),
        ({"keep_area": True}, "settings.keep_area: is True (true/false), must be a whole number"),
        ({"min_purity": math.nan}, "settings: min_purity: is nan, must be a finite number"),
        ([1], "settings: is [1] (a list), must be a map"),
    ],
)
def test_a_mistake_in_a_section_is_one_line(given: Any, line: str) -> None:
    with pytest.raises(UserError) as caught:
        read_section(Ssa, "ssa", given, where="settings")
    assert str(caught.value).startswith(line)


def test_an_unknown_section_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        section_schema("data.vspw.sharts")


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def bomb() -> Mapping[str, Any]:
    value: list = ["x"] * 10
    for _ in range(9):
        value = [value] * 10
    return {"a": value}


def endless() -> Mapping[str, Any]:
    value: dict = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": [1.0, math.inf]}, "where: a.1: is inf, must be a finite number"),
        ({"a": {"b": -math.inf}}, "where: a.b: is -inf"),
        ({"a": "one\ntwo"}, "where: a: is 'one\\ntwo', must be text without line breaks"),
        ({"a": "nul\0"}, "where: a: is 'nul\\x00', must be text"),
        ({"one\n": 1}, "where: is 'one\\n', must be text"),
        ({"a": nested(20_000)}, "where: a: is nested more than 40 levels deep"),
        (endless(), "where: a: is nested more than 40 levels deep"),
        (bomb(), "where: holds more than 200,000 values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_setting_may_hold(given: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_values(given, where="where")
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 300


def test_letters_of_every_script_are_text() -> None:
    check_values({"title": "Étude à 480p · 影像"}, where="where")


def test_the_defaults_of_rows_are_those_of_their_base() -> None:
    """The page says them in words; the file has them."""
    from mmengine.config import Config

    base = Config.fromfile(REPOSITORY / "src" / "vss" / "configs" / "rows" / "_base_" / "training.py")
    keys = load_schema()["$defs"]["row"]["properties"]
    said = {key: yaml.safe_load(part["x-default"]) for key, part in keys.items() if "x-default" in part}
    assert said | {"warmup_ratio": float(said["warmup_ratio"])} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in base.items() if key in said
    }


def test_the_layouts_of_predictions_are_those_of_the_schema() -> None:
    assert list(LAYOUTS) == section_schema("prediction")["properties"]["layout"]["enum"]
