"""Mean and spread of a prediction over the seeds of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

SEED_COLUMNS = ("seeds_of", "seeds_title")  # of the table of scores, where any of its predictions has several seeds


@dataclass(frozen=True)
class SeedMean:
    """Figures of one prediction over several trainings of its model.

    Attributes:
        prediction: of the first seed.
        title: its name in the report.
        runs: the predictions that the figures are of, in order.
        mean, deviation: in percent by figure: mean and standard deviation (of a sample: over n - 1) of those that all
            runs have.
    """

    prediction: str
    title: str
    runs: list[str]
    mean: Mapping[str, float]
    deviation: Mapping[str, float]


def seed_means(table: pd.DataFrame, figures: Sequence[str]) -> list[SeedMean]:
    """Returns the mean over the seeds of every model that was trained with several, in the order of the table.

    Args:
        table: as `vss.report.table.score_table` returns it, or as it is read from table.csv.
        figures: columns of it.
    """
    if SEED_COLUMNS[0] not in table:
        return []
    means = []
    for prediction, rows in table.groupby("seeds_of", sort=False):
        values = rows[list(figures)].dropna(axis="columns")
        means.append(
            SeedMean(
                prediction=str(prediction),
                title=str(rows["seeds_title"].iloc[0]),
                runs=rows["prediction"].tolist(),
                mean=values.mean().to_dict(),
                deviation=values.std(ddof=1).to_dict(),
            )
        )
    return means
