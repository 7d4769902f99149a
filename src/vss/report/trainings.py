"""Trainings in figures: iterations, last loss, time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vss.report import figures

_NONE = "\u2013"
_COLUMNS = ("lr", "seconds", "memory_mib")


def training_rows(logs: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Returns one entry per training.

    Args:
        logs: by title, as `vss.report.figures.read_log` returns them.

    Returns:
        [{title, iterations, loss (mean over the last tenth), lr (the last one), seconds (of an iteration, median),
        memory_mib (peak)}]; None where it was not logged.
    """
    found = []
    for title, log in logs.items():
        train = figures.losses(log)
        column = {name: train[name] if name in train else pd.Series(dtype=float) for name in _COLUMNS}
        last = column["lr"].dropna().tail(1)
        found.append(
            {
                "title": title,
                "iterations": int(log["iter"].max()) if len(log) else 0,
                "loss": _known(figures.last_loss(log)),
                "lr": _known(last.iloc[0] if len(last) else None),
                "seconds": _known(column["seconds"].median()),
                "memory_mib": _known(column["memory_mib"].max()),
            }
        )
    return found


def trainings_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns one row per training as text."""
    return pd.DataFrame(
        {
            "Training": row["title"],
            "iterations": f"{row['iterations']:,}",
            "loss": _text(row["loss"], ".3g"),
            "last learning rate": _text(row["lr"], ".2g"),
            "s/iteration": _text(row["seconds"], ".2f"),
            "memory, MiB": _text(row["memory_mib"], ",.0f"),
        }
        for row in rows
    )


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _text(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)
