"""Which lever paid: one change at a time against a baseline, and all together, with what each costs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vss.configs.sections import Ablation
from vss.report.costs import JobCost, duration, jobs_cost
from vss.report.refinement import paired, percent_edges
from vss.report.table import change_text, figure

_FIGURES = ("mIoU", "mBIoU", "VC16")
BASELINE, TOGETHER = "baseline", "all together"


@dataclass(frozen=True)
class Change:
    """A figure against the baseline's, in percent.

    Attributes:
        difference: the figure less the baseline's.
        interval: 95% interval of the difference, the same videos drawn for both; None where they cannot be paired.
    """

    difference: float
    interval: list[float] | None


@dataclass(frozen=True)
class Lever:
    """A row of the ablation.

    Attributes:
        lever: as the config names it, or "baseline" or "all together".
        prediction, title: the prediction that shows it.
        figures: in percent.
        changes: of them, against the baseline; none of the baseline itself.
        seconds, gpu_seconds: of all jobs that the prediction needs, trainings included; NaN where none was measured.
        added_seconds, added_gpu_seconds: of those that the baseline does not need.
    """

    lever: str
    prediction: str
    title: str
    figures: Mapping[str, float]
    changes: Mapping[str, Change]
    seconds: float
    gpu_seconds: float
    added_seconds: float
    added_gpu_seconds: float


def ablation_rows(
    ablation: Ablation | None,
    table: pd.DataFrame,
    draws: Mapping[str, str | os.PathLike],
    *,
    needed: Mapping[str, Sequence[str]],
    jobs: Sequence[JobCost],
) -> list[Lever]:
    """Returns the baseline, every lever, and all together; nothing where the config has no ablation.

    Args:
        ablation: of the config.
        table: as `score_table` returns it.
        draws: files of `vss.score.bootstrap.save_draws` by prediction.
        needed: jobs that each of its predictions needs, as `vss.workflow.needs.needed_jobs` returns them.
        jobs: as `read_jobs` returns them.
    """
    if ablation is None:
        return []
    scored, first = table.set_index("prediction"), ablation.baseline
    together = {} if ablation.all is None else {TOGETHER: ablation.all}
    found = []
    for lever, name in ({BASELINE: first} | dict(ablation.levers) | together).items():
        known = [key for key in _FIGURES if pd.notna(scored.loc[name, key]) and pd.notna(scored.loc[first, key])]
        changes = {}
        for key in known if name != first else ():
            edges = percent_edges(paired(draws, first, name, key))
            changes[key] = Change(float(scored.loc[name, key] - scored.loc[first, key]), edges)
        whole, added = jobs_cost(needed[name], jobs), jobs_cost(set(needed[name]) - set(needed[first]), jobs)
        found.append(
            Lever(
                lever=lever,
                prediction=name,
                title=scored.loc[name, "title"],
                figures={key: float(scored.loc[name, key]) for key in known},
                changes=changes,
                seconds=whole[0],
                gpu_seconds=whole[1],
                added_seconds=added[0],
                added_gpu_seconds=added[1],
            )
        )
    return found


def ablation_table(rows: Sequence[Lever]) -> pd.DataFrame:
    """Returns one row per lever as text."""
    keys = [key for key in _FIGURES if any(key in row.changes for row in rows)]
    lines = []
    for row in rows:
        is_baseline = row.lever == BASELINE
        costs = {
            "time": duration(row.seconds),
            "GPU-hours": f"{row.gpu_seconds / 3600:.2f}",
            "added time": "" if is_baseline else duration(row.added_seconds),
            "added GPU-hours": "" if is_baseline else f"{row.added_gpu_seconds / 3600:.2f}",
        }
        # The first figure next to its cost, so that both are seen without scrolling.
        names = {"Lever": row.lever, "prediction": row.title}
        lines.append(names | _figure_cells(row, keys[:1]) | costs | _figure_cells(row, keys[1:]))
    return pd.DataFrame(lines)


def _figure_cells(row: Lever, keys: Sequence[str]) -> dict[str, str]:
    cells = {}
    for key in keys:
        lines = [figure(row.figures[key])] if key in row.figures else []
        if (change := row.changes.get(key)) is not None:
            lines.append(change_text(change.difference, change.interval))
        cells[key] = "\n".join(lines)
    return cells
