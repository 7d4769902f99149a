"""The tables of the paper, arXiv 2306.02291, and which of their rows a run did not produce."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from vss.core.page.document import resource
from vss.report.table import ReportRow

_SPLITS = ("val", "test1", "test")


def rows_not_run(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Returns the paper's rows that none of a report's rows stands for, without a name; none for a run without any.

    A row stands for the paper's row of the same table that has all the figures it gives.
    """
    if all(row.table is None for row in rows):
        return []
    missing = []
    for record in pd.read_csv(io.StringIO(resource("vss.report", "paper.csv"))).to_dict("records"):
        paper = {split: float(record[split]) for split in _SPLITS if pd.notna(record[split])}
        stands = (row.table == record["table"] and row.paper and row.paper.items() <= paper.items() for row in rows)
        if not any(stands):
            missing.append(ReportRow(name="", title=record["title"], table=int(record["table"]), paper=paper))
    return missing
