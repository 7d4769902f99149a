"""The schema of the config and of every stage's settings: the one truth of keys, types, ranges and defaults.

Free of torch and of MMEngine: a dry run asks it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import yaml

from vss.core.errors import UserError, did_you_mean
from vss.core.files import JsonObject

FILE = Path(__file__).with_name("config.schema.yaml")
PROTOCOLS = ("paper", "as_published")
PRECISIONS = ("float32", "bfloat16", "float16")

Section = TypeVar("Section")

_TYPE_NAMES = {dict: "a map", list: "a list", str: "text", bool: "true/false", int: "a whole number", float: "a number"}
_SCHEMA_TYPES = {
    "object": "a map",
    "array": "a list",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}
_LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "minItems": "a list of at least",
    "maxItems": "a list of at most",
    "maxLength": "text of characters, at most",
    "multipleOf": "a multiple of",
    "pattern": "text that matches",
}
# Far above any real config: an alias of YAML that is repeated in itself multiplies beyond all bounds.
_MOST_VALUES = 200_000
_MOST_LEVELS = 40
_LONGEST_SHOWN = 80  # characters of a wrong value in a message
# Control characters, line and paragraph separators, halves of a surrogate pair.
_NOT_TEXT = ("Cc", "Zl", "Zp", "Cs")


@functools.cache
def load_schema() -> dict[str, Any]:
    """Returns the whole schema, to be read only."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(FILE.read_text(encoding="utf-8"), Loader=loader)


def resolve_reference(schema: JsonObject) -> dict[str, Any]:
    """Returns a part of the schema with what its `$ref` points to merged in; its own words win."""
    if "$ref" not in schema:
        return dict(schema)
    referred = resolve_reference(load_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")])
    merged = {**referred, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "properties" in referred:
        merged["properties"] = {**referred["properties"], **schema.get("properties", {})}
    return merged


def section_schema(name: str) -> dict[str, Any]:
    """Returns the schema of a section: an entry of `$defs`, or a dotted path of keys such as "data.vspw.shards".

    Raises:
        KeyError: the schema has no such section.
    """
    if name in load_schema()["$defs"]:
        return resolve_reference({"$ref": f"#/$defs/{name}"})
    schema = load_schema()
    for key in name.split("."):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        is_any_name = key not in properties and isinstance(others, dict)
        schema = resolve_reference(others if is_any_name and others is not None else properties[key])
    return schema


def check_config(config: JsonObject) -> dict[str, Any]:
    """Checks a whole config and returns it with defaults filled in, but for sections that a stage reads (`x-read-by`).

    Raises:
        UserError: the first mistake, as one line with the key's path, what was found and what is allowed.
    """
    check_values(config, where="config")
    _validate(config, load_schema(), where="config: ", top="top level")
    return _filled(config, load_schema(), stages_too=False)


def read_section(cls: type[Section], name: str, given: JsonObject, *, where: str) -> Section:
    """Returns the settings of a section as a frozen dataclass, defaults of the schema filled in.

    Lists become tuples, and maps become dataclasses where the field's type is one. A key without a constant default
    that is not given takes the dataclass's own default.

    Args:
        cls: the dataclass, with a field for every key of the section.
        name: an entry of the schema's `$defs`, or a dotted path of its keys.
        given: what the user wrote.
        where: starts every message: the key or the option that the settings stand in.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    schema = section_schema(name)
    check_values(given, where=where)
    _validate(given, {**schema, "$defs": load_schema()["$defs"]}, where=where, top="")
    return from_json(cls, _filled(given, schema, stages_too=True))


def check_values(given: Any, *, where: str) -> None:
    """Refuses what no setting may hold, whatever its key: NaN, infinity, line breaks, endless or very deep nesting.

    Raises:
        UserError: the key and what it holds.
    """
    todo: list[tuple[tuple[str, ...], Any]] = [((), given)]
    seen = 0
    while todo:
        path, value = todo.pop()
        seen += 1
        key = f"{where}: {'.'.join(path)}" if path else where
        if seen > _MOST_VALUES:
            raise UserError(f"{where}: holds more than {_MOST_VALUES:,} values; do its anchors multiply?")
        if len(path) > _MOST_LEVELS:
            raise UserError(f"{where}: {path[0]}: is nested more than {_MOST_LEVELS} levels deep; at most that many")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}: is {value}, must be a finite number")
        if isinstance(value, str) and any(unicodedata.category(character) in _NOT_TEXT for character in value):
            raise UserError(f"{key}: is {_short(value)}, must be text without line breaks and control characters")
        if isinstance(value, Mapping):
            todo += [(path, name) for name in value if isinstance(name, str)]
            todo += [((*path, _short(name, quoted=False)), item) for name, item in value.items()]
        elif isinstance(value, (list, tuple)):
            todo += [((*path, str(number)), item) for number, item in enumerate(value)]


def _validate(given: Any, schema: JsonObject, *, where: str, top: str) -> None:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(given)
    first = min(errors, key=lambda error: [str(part) for part in error.absolute_path], default=None)
    if first is not None:
        path = ".".join(str(part) for part in first.absolute_path)
        if where.endswith(": "):
            raise UserError(f"{where}{path or top}: {_explain(first)}")
        raise UserError(f"{where}{'.' if path else ''}{path}: {_explain(first)}")


def _explain(error: jsonschema.ValidationError) -> str:
    """Returns what was found and what is allowed, without the key."""
    found: Any = error.instance
    allowed: Any = error.validator_value
    schema: Any = error.schema
    shown = _short(found)
    if error.validator == "additionalProperties" and allowed is False:
        known = sorted(schema.get("properties", {}))
        extra = next(key for key in found if key not in known)
        if "cfg_options" in known and extra in load_schema()["$defs"]["row"]["properties"]:
            return f"{extra!r} is a setting of the row; write it as cfg_options: {{{extra}: {_short(found[extra])}}}"
        return f"unknown key {_short(extra)}{did_you_mean(str(extra), known)}; allowed: {', '.join(known)}"
    if error.validator == "required":
        return f"key {next(key for key in allowed if key not in found)!r} is missing"
    if error.validator == "type" and "propertyNames" in error.schema_path:
        return f"name {shown} ({_TYPE_NAMES.get(type(found), 'null')}) must be text; put it in quotes"
    if error.validator == "type":
        names = [_SCHEMA_TYPES[name] for name in ([allowed] if isinstance(allowed, str) else allowed)]
        return f"is {shown} ({_TYPE_NAMES.get(type(found), 'null')}), must be {' or '.join(names)}"
    if error.validator == "enum":
        return f"is {shown}, must be one of {', '.join('null' if value is None else repr(value) for value in allowed)}"
    if error.validator == "pattern" and allowed == load_schema()["$defs"]["name"]["pattern"]:
        # propertyNames report the parent's path; the instance is the name itself.
        return f"name {shown} may hold letters, digits, '_' and '-' only (a dot separates names in paths)"
    if error.validator == "minLength":
        return f"is {shown}, must not be empty"
    if error.validator == "maxLength":
        return f"is {shown}, must have at most {allowed} characters; has {len(found)}"
    if error.validator == "uniqueItems":
        return f"holds {_short(next(item for item in found if found.count(item) > 1))} more than once"
    if error.validator == "minProperties":
        return "is empty, needs at least one entry"
    return f"is {shown}, must be {_LIMITS.get(str(error.validator), error.validator)} {allowed}"


def _short(value: Any, *, quoted: bool = True) -> str:
    text = repr(value) if quoted or not isinstance(value, str) else value
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _filled(value: Any, schema: JsonObject, *, stages_too: bool) -> Any:
    """Returns a copy of `value` with the schema's defaults wherever a key is absent."""
    schema = resolve_reference(schema)
    if isinstance(value, list):
        return [_filled(item, schema.get("items", {}), stages_too=stages_too) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    filled = {}
    for key, item in value.items():
        subschema = properties.get(key, others if isinstance(others, dict) else {})
        filled[key] = _filled(item, subschema, stages_too=stages_too)
    if "x-read-by" in schema and not stages_too:
        return filled
    for key, subschema in properties.items():
        subschema = resolve_reference(subschema)
        if key not in filled and "default" in subschema and "x-default" not in subschema:
            filled[key] = _filled(subschema["default"], subschema, stages_too=stages_too)
    return filled


def from_json(cls: type[Section], values: JsonObject) -> Section:
    """Returns a dataclass from the JSON of its fields: lists become tuples, maps the dataclasses of the fields.

    A field `Mapping[str, SomeDataclass]` gets one of every value; maps of anything else stay as they are.
    """
    hints = typing.get_type_hints(cls)
    return cls(**{key: _as_type(value, hints.get(key, Any)) for key, value in values.items()})


def _as_type(value: Any, hint: Any) -> Any:
    """Returns a JSON value as the type of the field that takes it."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, Mapping):
        made: Any = next((option for option in options if dataclasses.is_dataclass(option)), None)
        if made is not None:
            return from_json(made, value)
        item_hints = [typing.get_args(option)[1] for option in options if typing.get_origin(option) is Mapping]
        named: Any = next(filter(dataclasses.is_dataclass, item_hints), None)
        return value if named is None else {key: from_json(named, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        listed = next((option for option in options if typing.get_origin(option) is tuple), None)
        item_hint = typing.get_args(listed)[0] if listed is not None else Any
        return tuple(_as_type(item, item_hint) for item in value)
    if isinstance(value, float) and value.is_integer() and int in options and float not in options:
        return int(value)  # JSON has one kind of number
    if type(value) is int and float in options and int not in options:
        return float(value)
    return value
