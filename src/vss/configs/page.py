"""The reference page of the config, docs/config.md, written from the schema: `python -m vss.configs.page`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping

from vss.configs.schema import load_schema, resolve_reference
from vss.core.files import JsonObject

_HEAD = """# The config, key by key

Generated from `src/vss/configs/config.schema.yaml` by `python -m vss.configs.page > docs/config.md`; do not edit.
Unknown keys and values out of range are refused in one line, before anything runs. `NAME` stands for a name that you
choose: letters, digits, `_` and `-`.
"""
_TABLE = "| key | type and range | default | meaning |\n|---|---|---|---|"
_WORDS = {
    "string": "text",
    "object": "map",
    "array": "list",
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "null": "null",
}
# Sections that several keys share, or that depend on another key: tables of their own.
_SHARED = {
    "dataset": "Datasets: data.NAME",
    "drawn_vspw": "data.vspw.drawn",
    "drawn_coco_stuff": "data.coco_stuff.drawn",
    "drawn_folders": "data.NAME.drawn",
    "training": "Trainings: models.NAME.pretrain, models.NAME.finetune",
    "pseudo_labels": "Pseudo-labels: pseudo.NAME",
    "row": "Rows: the keys of cfg_options",
    "views": "Views: tta.NAME, models.NAME.test",
    "cascadepsp": "refiners.NAME.settings, method cascadepsp",
    "ssa": "refiners.NAME.settings, method ssa",
    "temporal": "refiners.NAME.settings, method temporal",
    "tubes": "refiners.NAME.settings, method tubes",
    "refiner_training": "refiners.NAME.training",
    "felzenszwalb": "refiners.NAME.proposals, without weights",
    "slic": "refiners.NAME.proposals, without weights, method slic",
    "sam": "refiners.NAME.proposals, with SAM's weights",
    "sam2": "refiners.NAME.proposals, method sam2, with SAM 2's weights",
}


def config_page() -> str:
    """Returns the page as Markdown."""
    parts = [_HEAD]
    tables: dict[str, list[str]] = {}
    for key, line in _rows(load_schema(), ""):
        top = key.split(".")[0]
        is_value = resolve_reference(load_schema()["properties"][top]).get("type") != "object"
        tables.setdefault("Top level" if is_value else top, []).append(line)
    parts += [f"## {title}\n\n{_TABLE}\n" + "\n".join(lines) + "\n" for title, lines in tables.items()]
    for name, title in _SHARED.items():
        schema = resolve_reference({"$ref": f"#/$defs/{name}"})
        lines = [line for _, line in _rows(schema, "")]
        parts.append(f"## {title}\n\n{_cell(schema['description'])}\n\n{_TABLE}\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _rows(schema: JsonObject, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields the key and the line of every key of a section, depth first, up to sections with a table of their own."""
    required = schema.get("required", ())
    for key, part in schema.get("properties", {}).items():
        yield from _rows_of(f"{prefix}{key}", part, is_required=key in required)


def _rows_of(key: str, part: JsonObject, *, is_required: bool) -> Iterator[tuple[str, str]]:
    schema = resolve_reference(part)
    cells = (f"`{key}`", _kind(schema), _default(schema, is_required), _cell(schema.get("description", "")))
    yield key, "| " + " | ".join(cells) + " |"
    if part.get("$ref", "").removeprefix("#/$defs/") in _SHARED:
        return
    yield from _rows(schema, f"{key}.")
    entries = schema.get("additionalProperties")
    if isinstance(entries, Mapping):
        resolved = resolve_reference(entries)
        is_shared = entries.get("$ref", "").removeprefix("#/$defs/") in _SHARED
        if "properties" in resolved and not is_shared:
            yield from _rows(resolved, f"{key}.NAME.")


def _kind(schema: JsonObject) -> str:
    if "enum" in schema:
        return ", ".join("null" if value is None else f"`{value}`" for value in schema["enum"])
    names = schema.get("type", "object")
    words = " or ".join(_WORDS[name] for name in ([names] if isinstance(names, str) else names))
    bounds = []
    for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("multipleOf", "multiple of")):
        if key in schema:
            bounds.append(f"{sign} {schema[key]}")
    if "items" in schema:
        words += f" of ({_kind(resolve_reference(schema['items']))})"
        least, most = schema.get("minItems"), schema.get("maxItems")
        if least is not None and least == most:
            bounds.append(f"{least} entries")
        elif least is not None or most is not None:
            bounds.append(f"{least or 0} to {most} entries" if most else f"at least {least} entries")
    return ", ".join([words, *bounds])


def _default(schema: JsonObject, is_required: bool) -> str:
    if is_required:
        return "required"
    if "x-default" in schema:
        return _cell(schema["x-default"])
    default = schema["default"]
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(config_page())
