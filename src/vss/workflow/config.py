"""The config file: read as YAML that cannot harm, checked against the schema; each mistake is one line.

Free of torch and of Snakemake, like all of `vss.workflow`: a dry run has to be instant, and a test has to be able to
ask the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vss import configs
from vss.configs.schema import check_config
from vss.core.errors import UserError

_MOST_LEVELS = 100  # of maps and lists in a file
_CHECKOUT = configs.FOLDER.parents[3]
# Folders of the checkout that no run may write into.
_SOURCES = (
    *("src", "workflow", "cuda_ops", "envs", "docs", "tests", "benchmarks", "notebooks", "tools"),
    *(".git", ".github", ".snakemake", ".venv"),
)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_config(file: str | Path) -> dict[str, Any]:
    """Returns the checked config of a file, with every default filled in.

    Raises:
        UserError: the file cannot be read, is not YAML, or its first mistake.
    """
    check_keys([file])
    config = yaml.load(_text_of(file), Loader=_LOADER)
    if not isinstance(config, dict):
        raise UserError(f"config: {file}: is no map of keys; docs/config.md lists them")
    return read_config(config)


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checked config with every default filled in, and its folders in one spelling.

    Raises:
        UserError: the first mistake, as one line with the key's path, what was found and what is allowed.
    """
    filled = check_config(config)
    filled |= {key: _one_spelling(filled[key]) for key in ("results", "work")}
    _check_folders(filled)
    return filled


def check_keys(files: Iterable[str | Path]) -> None:
    """Checks that YAML files can be read, and that no map has a key twice, of which YAML would take the last.

    Raises:
        UserError: the file, and where known the line.
    """
    for file in files:
        if Path(file).suffix in (".yaml", ".yml"):
            try:
                _check_levels(file)
                _refuse_doubles(yaml.compose(_text_of(file), Loader=_LOADER), file, set())
            except yaml.YAMLError as error:
                raise UserError(f"config: {file}: is not valid YAML ({' '.join(str(error).split())})") from None


def _text_of(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"config: {file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"config: {file}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _check_levels(file: str | Path) -> None:
    """Refuses a file nested so deeply that reading it would exhaust the stack."""
    levels = 0
    for event in yaml.parse(_text_of(file), Loader=_LOADER):
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > _MOST_LEVELS:
            line = event.start_mark.line + 1
            raise UserError(f"config: {file}, line {line}: is nested more than {_MOST_LEVELS} levels deep")


def _refuse_doubles(node: yaml.Node | None, file: str | Path, seen: set[int]) -> None:
    if node is None or id(node) in seen:  # an alias is the node that it names
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_doubles(item, file, seen)
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise UserError(f"config: {file}, line {line}: key {key.value!r} is there twice")
                keys.add(key.value)
            _refuse_doubles(value, file, seen)


def _check_folders(config: Mapping[str, Any]) -> None:
    """Refuses folders of results and of training state that would overwrite something else."""
    paths = {key: Path(config[key]).resolve() for key in ("results", "work")}
    for key, path in paths.items():
        found = f"config: {key}: is {config[key]!r}"
        if config[key].startswith("-"):
            raise UserError(f"{found}, which commands would take for an option; write ./{config[key]}")
        for folder in (Path.cwd(), _CHECKOUT):
            if path == folder or path in folder.parents:
                raise UserError(f"{found}, which holds the checkout or is it; must be a folder of its own")
            for name in _SOURCES:
                if path.is_relative_to(folder / name):
                    raise UserError(f"{found}, which is the project's own folder {name}; must be a folder of its own")
        if path.exists() and not path.is_dir():
            raise UserError(f"{found}, which is a file; must be a folder, or not exist yet")
        for dataset, settings in config["data"].items():
            if settings["root"] is not None and path == Path(settings["root"]).resolve():
                raise UserError(f"{found}, which is data.{dataset}.root; must be a folder of its own")
    if paths["work"].is_relative_to(paths["results"]) or paths["results"].is_relative_to(paths["work"]):
        raise UserError(
            f"config: work: is {config['work']!r}, and results {config['results']!r}; neither may be or hold the other"
        )


def _one_spelling(folder: str) -> str:
    """Returns a folder's shortest path, below the working directory a relative one.

    Snakemake knows files by their names, and would take those of another spelling for files it knows nothing of.
    """
    path = Path(os.path.normpath(os.path.expanduser(folder)))
    real = path.parent.resolve() / path.name  # it may itself be a link to a larger disk
    return str(real.relative_to(Path.cwd())) if path.is_absolute() and real.is_relative_to(Path.cwd()) else str(path)
