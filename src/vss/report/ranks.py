"""How far the order of the predictions is more than chance: their ranks where other videos are drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import pandas as pd

from vss.score.bootstrap import LEVEL, interval, load_draws
from vss.score.compare import difference

_FIGURE = "mIoU"


def ranks_table(table: pd.DataFrame, draws: Mapping[str, str | os.PathLike]) -> pd.DataFrame:
    """Returns one row per prediction, the highest mIoU first, as text; empty where there is nothing to rank.

    Args:
        table: of `vss.report.table.score_table`.
        draws: files of `vss.score.bootstrap.save_draws` by prediction. Predictions whose videos are not those of most
            are left out: they cannot be paired.

    Raises:
        UserError: a file is missing or broken.
    """
    ranked = table[table[_FIGURE].notna()].sort_values(_FIGURE, ascending=False, kind="stable")
    loaded = {name: load_draws(draws[name], _FIGURE) for name in ranked["prediction"] if name in draws}
    marks = [mark for mark, drawn in loaded.values() if len(drawn)]
    mark = max(marks, key=marks.count, default=None)
    paired = {name: drawn for name, (found, drawn) in loaded.items() if found == mark and len(drawn)}
    if len(paired) < 2:
        return pd.DataFrame()
    values = np.nan_to_num(np.stack(list(paired.values())), nan=-1)  # [predictions, draws]
    ranks = 1 + (values[:, None] < values[None]).sum(axis=1)
    shown = ranked.set_index("prediction")
    names = list(paired)
    rows = []
    for place, name in enumerate(names):
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(ranks[place], (tail, 1 - tail), method="nearest")
        rows.append(
            {
                "Prediction": shown["title"][name],
                "mIoU": f"{shown[_FIGURE][name]:.2f}",
                "rank": str(place + 1),
                "95% of draws": str(low) if low == high else f"{low} to {high}",
                "first in": f"{100 * (ranks[place] == 1).mean():.0f}%",
                "ahead of the next": _lead(shown[_FIGURE], paired, names[place : place + 2]),
            }
        )
    return pd.DataFrame(rows)


def _lead(percent: pd.Series, paired: Mapping[str, np.ndarray], names: list[str]) -> str:
    """Returns by how much the first of two predictions is ahead, and whether that is noise; of one alone nothing."""
    if len(names) < 2:
        return ""
    ahead, behind = names
    between = interval(paired[ahead] - paired[behind])
    return difference(_FIGURE, percent[behind] / 100, percent[ahead] / 100, between)["sentence"]
