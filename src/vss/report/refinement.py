"""What each refinement changed: its figures next to those of the prediction that it refines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vss.report.table import figure
from vss.score.bootstrap import interval, load_draws
from vss.score.compare import difference

_FIGURES = ("mIoU", "mBIoU", "VC8", "VC16", "TC_raft", "TC_dis")


def refinements(
    table: pd.DataFrame, draws: Mapping[str, str | os.PathLike], unrefined: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Returns one entry per prediction that refines another scored one, in order.

    Args:
        table: as `score_table` returns it.
        draws: files of `vss.score.bootstrap.save_draws` by prediction.
        unrefined: by prediction, how many frames could not be refined and kept their labels.

    Returns:
        [{prediction, of, title, figures: {name: {before, after}} in percent where both are known, sentence: the
        difference of mIoU with its interval, and whether it is noise, unrefined: frames}].
    """
    rows = table.set_index("prediction")
    found = []
    for name in rows.index:
        source = name.rpartition(".")[0]
        if source not in rows.index:
            continue
        before, after = rows.loc[source], rows.loc[name]
        figures = {
            key: {"before": float(before[key]), "after": float(after[key])}
            for key in _FIGURES
            if pd.notna(before[key]) and pd.notna(after[key])
        }
        between = _paired(draws, source, name)
        sentence = difference("mIoU", before["mIoU"] / 100, after["mIoU"] / 100, between)["sentence"]
        found.append(
            {
                "prediction": name,
                "of": source,
                "title": after["title"],
                "figures": figures,
                "sentence": sentence,
                "unrefined": unrefined.get(name, 0),
            }
        )
    return found


def refinements_table(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns one row per refinement as text: before and after of every figure that any of them has.

    How many frames could not be refined is a column where any could not.
    """
    keys = [key for key in _FIGURES if any(key in entry["figures"] for entry in found)]
    rows = []
    for entry in found:
        values = {key: entry["figures"].get(key) for key in keys}
        cells = {
            key: "" if value is None else f"{figure(value['before'])} \u2192 {figure(value['after'])}"
            for key, value in values.items()
        }
        kept = {"frames kept as they were": str(entry["unrefined"])} if any(e["unrefined"] for e in found) else {}
        rows.append({"Refined prediction": entry["title"], **cells, "change": entry["sentence"], **kept})
    return pd.DataFrame(rows)


def _paired(draws: Mapping[str, str | os.PathLike], before: str, after: str) -> list[float] | None:
    """Returns the 95% interval of a difference of mIoU, None where the two cannot be paired."""
    if before not in draws or after not in draws:
        return None
    (mark, first), (other, second) = (load_draws(draws[name], "mIoU") for name in (before, after))
    return interval(second - first) if mark == other and len(first) else None
