"""The config file against its schema: unknown keys, types, ranges, defaults; each mistake is one line.

Free of torch and of Snakemake, like all of `vss.workflow`: a dry run has to be instant, and a test has to be able to
ask the same.
"""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from vss import configs
from vss.core.errors import UserError, did_you_mean

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


def check_schema(config: dict[str, Any], schema_file: str | Path) -> dict[str, Any]:
    """Checks the config against the JSON schema and returns it with every default filled in.

    Raises:
        UserError: the first mistake, as one line with the key's path, what was found and what is allowed.
    """
    schema = yaml.safe_load(Path(schema_file).read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: [str(part) for part in error.absolute_path])
    if errors:
        raise UserError("config: " + _one_line(errors[0]))
    filled = _filled(config, schema, schema["$defs"])
    return {**filled, **{key: _one_spelling(filled[key]) for key in ("results", "work")}}


def check_keys(files: Iterable[str | Path]) -> None:
    """Checks that no map of a YAML file has a key twice, of which YAML would take the last without a word.

    Raises:
        UserError: the key, the file and the line.
    """
    for file in files:
        if Path(file).suffix in (".yaml", ".yml"):
            _refuse_doubles(yaml.compose(Path(file).read_text(encoding="utf-8")), file)


def _refuse_doubles(node: yaml.Node | None, file: str | Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, file)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise UserError(f"config: {file}, line {line}: key {key.value!r} is there twice")
                seen.add(key.value)
            _refuse_doubles(value, file)


@functools.cache
def _settings_of_rows() -> frozenset[str]:
    """Returns the names that every row of src/vss/configs/rows has, and `cfg_options` may change."""
    source = (configs.FOLDER / "_base_" / "training.py").read_text(encoding="utf-8")
    return frozenset(node.targets[0].id for node in ast.parse(source).body if isinstance(node, ast.Assign))


def _one_spelling(folder: str) -> str:
    """Returns a folder's shortest path, below the working directory a relative one.

    Snakemake knows files by their names, and would take those of another spelling for files it knows nothing of.
    """
    path = Path(os.path.normpath(os.path.expanduser(folder)))
    real = path.parent.resolve() / path.name  # it may itself be a link to a larger disk
    return str(real.relative_to(Path.cwd())) if path.is_absolute() and real.is_relative_to(Path.cwd()) else str(path)


def _one_line(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path) or "top level"
    found, allowed = error.instance, error.validator_value
    if error.validator == "additionalProperties" and allowed is False:
        known = sorted(error.schema.get("properties", {}))
        extra = next(key for key in found if key not in known)
        if "cfg_options" in known and extra in _settings_of_rows():
            return f"{path}: {extra!r} is a setting of the row; write it as cfg_options: {{{extra}: {found[extra]!r}}}"
        return f"{path}: unknown key {extra!r}{did_you_mean(str(extra), known)}; allowed: {', '.join(known)}"
    if error.validator == "required":
        return f"{path}: key {next(key for key in allowed if key not in found)!r} is missing"
    if error.validator == "type" and "propertyNames" in error.schema_path:
        return f"{path}: name {found!r} ({_TYPE_NAMES.get(type(found), 'null')}) must be text; put it in quotes"
    if error.validator == "type":
        names = [_SCHEMA_TYPES[name] for name in ([allowed] if isinstance(allowed, str) else allowed)]
        return f"{path}: is {found!r} ({_TYPE_NAMES.get(type(found), 'null')}), must be {' or '.join(names)}"
    if error.validator == "enum":
        return f"{path}: is {found!r}, must be one of {', '.join(map(repr, allowed))}"
    if error.validator == "pattern" and allowed.startswith("^[A-Za-z0-9][A-Za-z0-9_-]*"):
        # propertyNames report the parent's path; the instance is the name itself.
        return f"{path}: name {found!r} may hold letters, digits, '_' and '-' only (a dot separates names in paths)"
    if error.validator == "minLength":
        return f"{path}: is {found!r}, must not be empty"
    if error.validator == "uniqueItems":
        return f"{path}: holds {next(item for item in found if found.count(item) > 1)!r} more than once"
    if error.validator == "minProperties":
        return f"{path}: is empty, needs at least one entry"
    limits = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "minItems": "a list of at least",
        "maxItems": "a list of at most",
        "multipleOf": "a multiple of",
        "pattern": "text that matches",
    }
    return f"{path}: is {found!r}, must be {limits.get(error.validator, error.validator)} {allowed}"


def _filled(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Returns a copy of `value` with the schema's defaults wherever a key is absent."""
    if "$ref" in schema:
        referred = definitions[schema["$ref"].rsplit("/", 1)[1]]
        properties = {**referred.get("properties", {}), **schema.get("properties", {})}
        schema = {**referred, **schema, "properties": properties}
    if isinstance(value, list):
        return [_filled(item, schema.get("items", {}), definitions) for item in value]
    if not isinstance(value, dict):
        return value
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    filled = {}
    for key, item in value.items():
        subschema = properties.get(key, others if isinstance(others, dict) else {})
        filled[key] = _filled(item, subschema, definitions)
    for key, subschema in properties.items():
        if key not in filled and "default" in subschema:
            filled[key] = _filled(subschema["default"], subschema, definitions)
        elif key not in filled and "default" in definitions.get(subschema.get("$ref", "").rsplit("/", 1)[-1], {}):
            filled[key] = _filled({}, subschema, definitions)
    return filled
