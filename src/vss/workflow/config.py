"""The config file against its schema: unknown keys, types, ranges, defaults; each mistake is one line.

Free of torch and of Snakemake, like all of `vss.workflow`: a dry run has to be instant, and a test has to be able to
ask the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vss.configs.schema import check_config
from vss.core.errors import UserError


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checked config with every default filled in, and its folders in one spelling.

    Raises:
        UserError: the first mistake, as one line with the key's path, what was found and what is allowed.
    """
    filled = check_config(config)
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


def _one_spelling(folder: str) -> str:
    """Returns a folder's shortest path, below the working directory a relative one.

    Snakemake knows files by their names, and would take those of another spelling for files it knows nothing of.
    """
    path = Path(os.path.normpath(os.path.expanduser(folder)))
    real = path.parent.resolve() / path.name  # it may itself be a link to a larger disk
    return str(real.relative_to(Path.cwd())) if path.is_absolute() and real.is_relative_to(Path.cwd()) else str(path)
