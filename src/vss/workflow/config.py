"""The config file: read as YAML that cannot harm, checked against the schema; each mistake is one line.

Free of torch and of Snakemake, like all of `vss.workflow`: a dry run has to be instant, and a test has to be able to
ask the same.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vss import configs
from vss.configs.schema import check_config
from vss.core.errors import UserError
from vss.core.files import JsonObject, regular_file
from vss.core.log import printable

_MOST_LEVELS = 100  # of maps and lists in a file
_MOST_VALUES = 200_000
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
    return read_config(_read_file(file))


def read_config(config: JsonObject) -> dict[str, Any]:
    """Returns a checked config with every default filled in, and its folders in one spelling.

    Raises:
        UserError: the first mistake, as one line with the key's path, what was found and what is allowed.
    """
    filled = check_config(config)
    filled |= {key: _one_spelling(filled[key]) for key in ("results", "work")}
    _check_folders(filled)
    return filled


def check_files(files: Iterable[str | Path]) -> None:
    """Checks that config files can be read whatever reads them: JSON or YAML of a sane size, a map without double keys.

    Raises:
        UserError: the file, and where known the line.
    """
    for file in files:
        _read_file(file)


def check_command_line(words: Sequence[str]) -> None:
    """Checks --configfile and --slurm-array-jobs on Snakemake's command line; exits with one line at the first mistake.

    A profile calls it, since Snakemake reads these files before the Snakefile.
    """
    options = argparse.ArgumentParser(prog="snakemake", add_help=False)
    options.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    options.add_argument("--config", "-C", nargs="*")  # else it would be taken for short for the other
    options.add_argument("--slurm-array-jobs")
    given = options.parse_known_args(words)[0]
    if given.slurm_array_jobs is not None:
        # github.com/snakemake/snakemake-executor-plugin-slurm/issues/473
        sys.exit("--slurm-array-jobs: waits for ever where fewer jobs are ready than an array takes; leave it out")
    try:
        check_files(given.configfile)
    except UserError as mistake:
        sys.exit(printable(str(mistake)))


def _read_file(file: str | Path) -> dict[str, Any]:
    text = _text_of(file)
    try:
        value = _parse(text, file)
    except RecursionError:
        raise UserError(f"config: {file}: is nested more than {_MOST_LEVELS} levels deep") from None
    except ValueError as error:
        raise UserError(f"config: {file}: holds a value that cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"config: {file}: is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise UserError(f"config: {file}: is no map of keys; docs/config.md lists them")
    if "__use_yte__" in value:
        raise UserError(f"config: {file}: holds '__use_yte__', a template that may run code; write its values")
    return value


def _text_of(file: str | Path) -> str:
    try:
        return regular_file(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"config: {file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"config: {file}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _parse(text: str, file: str | Path) -> Any:
    """Returns the value of a text, which is tried as JSON first, as Snakemake does."""
    try:
        return json.loads(text, object_pairs_hook=functools.partial(_map_without_doubles, file))
    except json.JSONDecodeError:
        _check_levels(text, file)
        _check_nodes(yaml.compose(text, Loader=_LOADER), file, {})
        return yaml.load(text, Loader=_LOADER)


def _map_without_doubles(file: str | Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if double := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"config: {file}: key {double!r} is there twice")
    return dict(pairs)


def _check_levels(text: str, file: str | Path) -> None:
    """Refuses a text nested so deeply that reading it would exhaust the stack."""
    levels = 0
    for event in yaml.parse(text, Loader=_LOADER):
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if levels > _MOST_LEVELS:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise UserError(f"config: {file}, line {line}: is nested more than {_MOST_LEVELS} levels deep")


def _check_nodes(node: yaml.Node | None, file: str | Path, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Refuses double keys, anchors that hold themselves, and anchors that multiply to what nobody could read.

    Args:
        node: of YAML's tree, in which an alias is the node that it names.
        file: what is named.
        sizes: by node, what is returned for it; None while the node is looked at.

    Returns:
        (values, levels) of the node, with every alias counted as what it stands for.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1, 1
    line = node.start_mark.line + 1
    if id(node) not in sizes:
        sizes[id(node)] = None
        if isinstance(node, yaml.MappingNode):
            _refuse_doubles(node, file)
        children = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        found = [_check_nodes(child, file, sizes) for child in children]
        values, levels = 1 + sum(size for size, _ in found), 1 + max((level for _, level in found), default=0)
        if values > _MOST_VALUES or levels > _MOST_LEVELS:
            raise UserError(
                f"config: {file}, line {line}: its anchors multiply to {values:,} values on {levels:,} levels; at most"
                f" {_MOST_VALUES:,} on {_MOST_LEVELS}"
            )
        sizes[id(node)] = values, levels
    if (size := sizes[id(node)]) is None:
        raise UserError(f"config: {file}, line {line}: an anchor holds itself")
    return size


def _refuse_doubles(node: yaml.MappingNode, file: str | Path) -> None:
    keys: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                raise UserError(f"config: {file}, line {key.start_mark.line + 1}: key {key.value!r} is there twice")
            keys.add(key.value)


def _check_folders(config: JsonObject) -> None:
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
