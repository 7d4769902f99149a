"""Dropping stored class scores that nothing needs any more. Label maps are never touched."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from vss.configs.sections import read_run_config
from vss.core.log import log
from vss.workflow.config import load_config

_SUFFIX = ".scores.h5"


def drop_scores(*, config_file: str | os.PathLike, yes: bool) -> None:
    """Drops the scores that nothing in a config file reads, and lists them and their sizes.

    These are the scores of predictions that no ensemble, no pseudo-labels and no refiner's vote is made of, and shards
    that a split no longer has.

    Args:
        config_file: the workflow's config; names the folder, and what is made of class scores.
        yes: delete; otherwise only list.

    Raises:
        UserError: the config file is missing, or a mistake in it: what is not understood must not delete anything.
    """
    config = read_run_config(load_config(Path(config_file)))
    needed = {member for ensemble in config.ensembles.values() for member in ensemble.members}
    needed |= {member for row in config.pseudo.values() for member in row.get("of", ())}
    voting = {name for name, row in config.refiners.items() if row.settings.get("votes") == "scores"}
    refined = (name.rpartition(".") for name in (*config.predictions, *config.targets.submit))
    needed |= {source for source, _, refiner in refined if refiner in voting}
    folder = Path(config.results, "predictions")
    # Of the datasets one is predicted; the most shards of any are never fewer than its.
    rows = [row["shards"] for row in config.data.values()]
    shards = {split: max(row[split] for row in rows) for split in rows[0]}
    drop_unneeded(folder, needed, shards=shards, delete=yes)


def drop_unneeded(
    predictions_dir: str | os.PathLike, needed: Collection[str], *, shards: Mapping[str, int], delete: bool
) -> list[Path]:
    """Lists, and where requested deletes, the scores of predictions that are not needed.

    Args:
        predictions_dir: folder that holds `<prediction>/<split>/<shard>.scores.h5`.
        needed: names of the predictions whose scores stay.
        shards: into how many shards a split is cut; files of higher numbers go. A split that is not named keeps all.
        delete: whether to delete.

    Returns:
        The files, whether or not they were deleted.
    """
    folder = Path(predictions_dir)
    found: dict[str, list[tuple[Path, int]]] = {}
    for path in sorted(folder.glob(f"*/*/*{_SUFFIX}")):
        name, split, file = path.relative_to(folder).parts
        shard = file.removesuffix(_SUFFIX)
        if not shard.isdigit():  # also what is being written, whose name begins with a dot
            continue
        if name not in needed or int(shard) >= shards.get(split, math.inf):
            found.setdefault(name, []).append((path, path.stat().st_size))
    for name, sized in found.items():
        log(f"{name}: {len(sized)} files, {_readable(sum(size for _, size in sized))}")
    files = [path for group in found.values() for path, _ in group]
    total = _readable(sum(size for group in found.values() for _, size in group))
    if not files:
        log(f"{folder}: no class scores that nothing needs")
    elif not delete:
        log(f"{len(files)} files, {total} would be deleted; call again with --yes")
    else:
        for path in files:
            path.unlink()
        log(f"{len(files)} files, {total} deleted")
    return files


def _readable(size: int) -> str:
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
