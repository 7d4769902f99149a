"""CSV tables for people: whole files, whose text cells no spreadsheet takes for a formula."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from vss.core.files import atomic_path

_FORMULA_STARTS = ("=", "+", "-", "@", "\t")


def write_csv(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Writes a table as CSV; NaN is an empty cell.

    A text cell that a spreadsheet would run as a formula gets an apostrophe before it, which spreadsheets do not show.
    """
    with atomic_path(path) as aside:
        table.map(_inert).to_csv(aside, index=False, lineterminator="\n")


def _inert(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", " ")  # pandas does not quote it, and readers end the line there
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
