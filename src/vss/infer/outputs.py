"""The files of a prediction, distinguished by the ends of their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vss.core.errors import UserError

LABELS_SUFFIX, SCORES_SUFFIX, CONFIG_SUFFIX = ".labels.h5", ".scores.h5", ".config.json"


def outputs_by_kind(out: Sequence[str | os.PathLike], *, optional: Sequence[str]) -> dict[str, Path]:
    """Returns the output paths by kind: always `LABELS_SUFFIX`, and those of the `optional` kinds that are requested.

    Raises:
        UserError: no label file, two files of one kind, or a file of another kind.
    """
    kinds = (LABELS_SUFFIX, *optional)
    found: dict[str, Path] = {}
    for path in map(Path, out):
        kind = next((kind for kind in kinds if path.name.endswith(kind)), None)
        if kind is None or kind in found:
            what = "is of no known kind" if kind is None else f"is a second *{kind}"
            raise UserError(f"out: {path} {what}; {_expected(optional)}")
        found[kind] = path
    if LABELS_SUFFIX not in found:
        raise UserError(f"out: found {[str(path) for path in out]}; {_expected(optional)}")
    return found


def _expected(optional: Sequence[str]) -> str:
    return f"expected one *{LABELS_SUFFIX}" + "".join(f", at most one *{kind}" for kind in optional)
