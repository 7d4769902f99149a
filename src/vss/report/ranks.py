"""How far the order of the predictions is more than chance: their ranks where other videos are drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vss.score.bootstrap import LEVEL, interval, load_draws
from vss.score.compare import difference

_FIGURE = "mIoU"


@dataclass(frozen=True)
class Rank:
    """The rank of a prediction.

    Attributes:
        prediction, title: of the prediction.
        miou: in percent.
        rank: 1 for the highest mIoU.
        low, high: its ranks in 95% of the draws.
        first: share of the draws in which it is first.
        ahead: by how much it is ahead of the next, and whether that is noise; empty for the last.
    """

    prediction: str
    title: str
    miou: float
    rank: int
    low: int
    high: int
    first: float
    ahead: str


def rank_predictions(table: pd.DataFrame, draws: Mapping[str, str | os.PathLike]) -> list[Rank]:
    """Returns the predictions by their mIoU, the highest first; none where there is nothing to rank.

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
        return []
    values = np.nan_to_num(np.stack(list(paired.values())), nan=-1)  # [predictions, draws]
    each = 1 + (values[:, None] < values[None]).sum(axis=1)
    shown = ranked.set_index("prediction")
    names, tail = list(paired), (1 - LEVEL) / 2
    found = []
    for place, name in enumerate(names):
        low, high = np.quantile(each[place], (tail, 1 - tail), method="nearest")
        ahead = _lead(shown[_FIGURE], paired, names[place : place + 2])
        found.append(
            Rank(
                prediction=name,
                title=shown["title"][name],
                miou=float(shown[_FIGURE][name]),
                rank=place + 1,
                low=int(low),
                high=int(high),
                first=float((each[place] == 1).mean()),
                ahead=ahead,
            )
        )
    return found


def ranks_table(ranks: Sequence[Rank]) -> pd.DataFrame:
    """Returns one row per prediction as text."""
    return pd.DataFrame(
        {
            "Prediction": rank.title,
            "mIoU": f"{rank.miou:.2f}",
            "rank": str(rank.rank),
            "95% of draws": str(rank.low) if rank.low == rank.high else f"{rank.low} to {rank.high}",
            "first in": f"{100 * rank.first:.0f}%",
            "ahead of the next": rank.ahead,
        }
        for rank in ranks
    )


def _lead(percent: pd.Series, paired: Mapping[str, np.ndarray], names: list[str]) -> str:
    """Returns by how much the first of two predictions is ahead, and whether that is noise; of one alone nothing."""
    if len(names) < 2:
        return ""
    ahead, behind = names
    between = interval(paired[ahead] - paired[behind])
    return difference(_FIGURE, percent[behind] / 100, percent[ahead] / 100, between)["sentence"]
