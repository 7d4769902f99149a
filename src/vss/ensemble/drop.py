"""Dropping stored class scores that nothing needs any more. Label maps are never touched."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import yaml

from vss.errors import UserError
from vss.progress import say

_SUFFIX = ".scores.h5"


def drop_scores(*, config_file: str | os.PathLike, yes: bool) -> None:
    """Drops the scores of every prediction that is in no ensemble of a config file; lists them and their sizes.

    Args:
        config_file: the workflow's config; its `results` and `ensembles` are read.
        yes: delete; otherwise only list.

    Raises:
        UserError: the config file is missing, is not YAML, or its ensembles have no members.
    """
    results, needed = _needed(Path(config_file))
    drop_unneeded(results / "predictions", needed, delete=yes)


def drop_unneeded(predictions_dir: str | os.PathLike, needed: Collection[str], *, delete: bool) -> list[Path]:
    """Lists, and if asked deletes, the scores of predictions that are not needed.

    Args:
        predictions_dir: folder that holds `<prediction>/<split>/<shard>.scores.h5`.
        needed: names of the predictions whose scores stay.
        delete: whether to delete.

    Returns:
        The files, whether or not they were deleted.
    """
    folder = Path(predictions_dir)
    found: dict[str, list[tuple[Path, int]]] = {}
    for path in sorted(folder.glob(f"*/*/*{_SUFFIX}")):
        name = path.relative_to(folder).parts[0]
        if name not in needed and not path.name.startswith("."):
            found.setdefault(name, []).append((path, path.stat().st_size))
    for name, files in found.items():
        say(f"{name}: {len(files)} files, {_readable(sum(size for _, size in files))}")
    files = [path for group in found.values() for path, _ in group]
    total = _readable(sum(size for group in found.values() for _, size in group))
    if not files:
        say(f"{folder}: no class scores that nothing needs")
    elif not delete:
        say(f"{len(files)} files, {total} would be deleted; call again with --yes")
    else:
        for path in files:
            path.unlink()
        say(f"{len(files)} files, {total} deleted")
    return files


def _needed(config_file: Path) -> tuple[Path, set[str]]:
    """Returns the results folder of a config and the names of all members of its ensembles."""
    try:
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{config_file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{config_file}: not valid YAML ({' '.join(str(error).split())})") from None
    # A config that is not understood must not be taken for one that needs nothing.
    ensembles = config.get("ensembles", {}) if isinstance(config, dict) and "models" in config else None
    if not isinstance(ensembles, dict):
        raise UserError(f"{config_file}: not a config of this workflow (needs models, and ensembles as a map)")
    needed = set()
    for name, ensemble in ensembles.items():
        members = ensemble.get("members") if isinstance(ensemble, dict) else None
        if not isinstance(members, dict) or not members:
            raise UserError(f"{config_file}: ensembles.{name}.members: must be a map of model.tta -> weight")
        needed |= set(members)
    return Path(config.get("results", "results")), needed


def _readable(size: int) -> str:
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
