"""The table of all predictions next to the paper's figures, as CSV, Markdown, HTML and in the terminal."""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.log import show
from vss.report.seeds import SEED_COLUMNS, SeedMean, seed_means
from vss.score.bootstrap import score_of


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        key: in table.csv; the paper's begin with `paper_`.
        heading: short, for every rendering.
        meaning: one clause, shown where there is room.
        convention: whose rule it follows, by which the table can be filtered.
        source: where the figure is in scores.json, dotted; `key` if empty.
        lower_is_better: as of an error.
    """

    key: str
    heading: str
    meaning: str
    convention: str
    source: str = ""
    lower_is_better: bool = False


SCORES = (
    Column("mIoU", "mIoU", "challenge rule: mean IoU over the classes that the truth has", "official"),
    Column(
        "mIoU_mmseg",
        "mmseg mIoU",
        "MMSegmentation's rule, the paper's on val: a class only predicted counts as 0",
        "MMSegmentation",
    ),
    Column("video_mIoU", "video mIoU", "mean over videos of the video's own mIoU", "video mean"),
    Column(
        "VC8",
        "VC8",
        "official video consistency over 8 frames: the last window of a video is left out, void counts",
        "official",
    ),
    Column("VC16", "VC16", "the same over 16 frames", "official"),
)
PAPER = (
    Column("paper_val", "paper val", "the paper's mIoU on val", "paper"),
    Column("paper_test1", "paper test1", "the paper's mIoU on the challenge's first test set", "paper"),
    Column("paper_test", "paper test", "the paper's mIoU on the final test set", "paper"),
)
OTHER = (
    Column("fwIoU", "fwIoU", "IoU weighted by the class's share of pixels", "official"),
    Column("pixel_acc", "pixel acc.", "share of pixels labelled right", "official"),
    Column(
        "pixel_acc_class", "class acc.", "mean over classes of the share of their pixels labelled right", "official"
    ),
    Column("video_fwIoU", "video fwIoU", "mean over videos of the video's own fwIoU", "video mean"),
    Column("VC8_strict", "strict VC8", "VC8 over all windows, without void", "strict", "strict.VC8"),
    Column("VC16_strict", "strict VC16", "VC16 over all windows, without void", "strict", "strict.VC16"),
    Column(
        "VC8_correct",
        "correct VC8",
        "strict VC8 of pixels that are also labelled right",
        "strict",
        "strict.VC8_correct",
    ),
    Column(
        "VC16_correct",
        "correct VC16",
        "strict VC16 of pixels that are also labelled right",
        "strict",
        "strict.VC16_correct",
    ),
    Column(
        "mIoU_cffm",
        "CFFM mIoU",
        "mIoU as CFFM's script: videos of more than 16 frames only",
        "CFFM",
        "cffm_compat.mIoU",
    ),
    Column("VC8_cffm", "CFFM VC8", "VC8 as CFFM's script: others and void are one value", "CFFM", "cffm_compat.VC8"),
    Column("VC16_cffm", "CFFM VC16", "VC16 as CFFM's script", "CFFM", "cffm_compat.VC16"),
    Column(
        "VC16_dvis",
        "DVIS++ VC16",
        "windows of 8 and of 16 frames pooled, as DVIS++, VidEoMT and PMT publish VC16",
        "DVIS++",
    ),
    Column(
        "VEC8",
        "VEC8",
        "video effective consistency over 8 frames: IoU of what keeps its class, mean over classes",
        "effective",
    ),
    Column("VEC16", "VEC16", "the same over 16 frames", "effective"),
    Column("mBIoU", "mBIoU", "mean boundary IoU, the boundary 2% of the image's diagonal wide", "boundary"),
    Column("trimap_acc", "trimap acc.", "share labelled right within 5 pixels of a contour of the truth", "boundary"),
    Column("TC_raft", "TC", "temporal consistency along RAFT's optical flow, all videos", "temporal"),
    Column("TC_raft_first100", "TC, first 100", "TC of the first 100 videos, as the script takes them", "temporal"),
    Column("TC_raft_visible", "visible TC", "TC without what leaves the frame or is occluded", "temporal"),
    Column(
        "TC_dis",
        "TC (DIS)",
        "temporal consistency along DIS optical flow; not comparable with published TC",
        "temporal",
    ),
    Column("TC_dis_first100", "TC (DIS), first 100", "TC (DIS) of the first 100 videos", "temporal"),
    Column("TC_dis_visible", "visible TC (DIS)", "TC (DIS) without what leaves the frame or is occluded", "temporal"),
    Column(
        "ECE",
        "ECE",
        "expected calibration error: how far pixels are right less, or more, often than their scores claim",
        "calibration",
        lower_is_better=True,
    ),
)
EDGES = ("low", "high")  # of the 95% interval of each figure: table.csv has them as `mIoU_low`, `mIoU_high`
_NONE = "\u2013"


@dataclass(frozen=True)
class ReportRow:
    """A row of the table.

    Attributes:
        name: of the prediction.
        title: its name in the report.
        table: the paper's table that it stands in; None where it has none.
        paper: the paper's mIoU in percent, by val, test1 and test.
        seeds_of: of a model with several seeds, the prediction of the first; None where it is trained once.
        seeds_title: the name in the report of the mean over its seeds.
    """

    name: str
    title: str
    table: int | None
    paper: Mapping[str, float]
    seeds_of: str | None = None
    seeds_title: str | None = None


def score_table(rows: Sequence[ReportRow], scores: Mapping[str, str | os.PathLike]) -> pd.DataFrame:
    """Returns one row per prediction: prediction, title, table, our scores and the paper's, all in percent.

    Where a model has several seeds, there are the columns `SEED_COLUMNS` as well.

    Args:
        rows: the predictions, in order.
        scores: scores.json by prediction name.

    Raises:
        UserError: a prediction has no scores.
    """
    records = []
    for row in rows:
        if row.name not in scores:
            raise UserError(f"report: no scores for the prediction {row.name!r}")
        found = read_json(scores[row.name])
        record: dict[str, Any] = {"prediction": row.name, "title": row.title, "table": row.table}
        for column in (*SCORES, *OTHER):
            source = column.source or column.key
            record[column.key] = _percent(score_of(found, source))
            for at, edge in enumerate(EDGES):
                interval = (found.get("intervals") or {}).get(source)
                record[f"{column.key}_{edge}"] = round(100 * interval[at], 4) if interval else math.nan
        for column in PAPER:
            record[column.key] = row.paper.get(column.key.removeprefix("paper_"), math.nan)
        records.append(record | {key: getattr(row, key) for key in SEED_COLUMNS})
    keys = ["prediction", "title", "table", *(column.key for column in (*SCORES, *PAPER, *OTHER))]
    keys += [f"{column.key}_{edge}" for column in (*SCORES, *OTHER) for edge in EDGES]
    keys += SEED_COLUMNS if any(row.seeds_of for row in rows) else ()
    return pd.DataFrame(records, columns=keys).astype({"table": "Int64"})


def _percent(value: float | None) -> float:
    return math.nan if value is None else round(100 * value, 4)


def known(columns: Sequence[Column], table: pd.DataFrame) -> list[Column]:
    """Returns the columns that hold anything."""
    return [column for column in columns if table[column.key].notna().any()]


def best_cells(table: pd.DataFrame) -> set[tuple[int, str]]:
    """Returns (row, key) of the best of our figures in each column, to two decimals; none where there is no choice."""
    best = set()
    for column in (*SCORES, *OTHER):
        values = table[column.key].round(2)
        if len(table) > 1 and values.nunique() > 1:
            most = values.min() if column.lower_is_better else values.max()
            best |= {(row, column.key) for row in range(len(table)) if values.iloc[row] == most}
    return best


def figure(value: float) -> str:
    """Returns a percentage as it is printed everywhere."""
    return _NONE if pd.isna(value) else f"{value:.2f}"


def interval(row: Mapping[Any, Any], key: str) -> str:
    """Returns a figure's 95% interval in a row of the table as it is printed everywhere, empty where there is none."""
    low, high = (row.get(f"{key}_{edge}", math.nan) for edge in EDGES)
    return "" if pd.isna(low) or pd.isna(high) else f"[{low:.1f}, {high:.1f}]"


def _number(value: Any) -> str:
    return _NONE if pd.isna(value) else str(int(value))


def change_text(difference: float, edges: Sequence[float] | None) -> str:
    """Returns a difference in percentage points, with its 95% interval where it is known, and whether it is noise."""
    if edges is None:
        return f"{difference:+.2f}"
    low, high = edges
    return f"{difference:+.2f} [{low:.2f}, {high:.2f}]{' noise' if low <= 0 <= high else ''}"


def markdown_table(table: pd.DataFrame) -> str:
    """Returns the table in Markdown, the best of our figures bold, the mean over seeds above its runs."""
    columns, best = known((*SCORES, *PAPER), table), best_cells(table)
    means = _means(table)
    lines = [
        "| Table | Prediction | " + " | ".join(column.heading for column in columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for position, row in enumerate(table.to_dict("records")):
        if (mean := means.get(row["prediction"])) is not None:
            cells = [_NONE, _markdown_text(_mean_title(mean)), *(mean_figure(mean, column.key) for column in columns)]
            lines.append("| " + " | ".join(cells) + " |")
        cells = [_number(row["table"]), _markdown_text(row["title"])]
        for column in columns:
            text = figure(row[column.key])
            text = f"**{text}**" if (position, column.key) in best else text
            cells.append(" ".join(filter(None, (text, interval(row, column.key)))))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _means(table: pd.DataFrame) -> dict[str, SeedMean]:
    """Returns the means over seeds by the prediction of the first one, above whose row they stand."""
    means = seed_means(table, [column.key for column in (*SCORES, *OTHER) if column.key in table])
    return {mean.runs[0]: mean for mean in means}


def _mean_title(mean: SeedMean) -> str:
    return f"{mean.title}, mean of {len(mean.runs)} seeds"


def mean_figure(mean: SeedMean, key: str) -> str:
    """Returns a figure's mean and standard deviation over seeds, in percent, as they are printed everywhere."""
    return f"{mean.mean[key]:.2f} \u00b1 {mean.deviation[key]:.2f}" if key in mean.mean else _NONE


def _markdown_text(text: str) -> str:
    """Returns plain text as Markdown shows it: no tag, link, emphasis or cell border of its own."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(text, quote=False))


def html_table(table: pd.DataFrame, *, not_run: Sequence[ReportRow] = ()) -> str:
    """Returns a `<table>` of all conventions, of which the headline figures are shown.

    The page's script sorts it by the heading clicked, and shows other conventions and the rows searched for.

    Args:
        table: as `score_table` returns it.
        not_run: rows of the paper that no prediction stands for.
    """
    columns, best = known((*SCORES, *PAPER, *OTHER), table), best_cells(table)
    means, rows = _means(table), []
    for position, row in enumerate(table.to_dict("records")):
        if (mean := means.get(row["prediction"])) is not None:
            rows.append(_html_mean(mean, columns))
        rows.append(_html_row(row, columns, {key for place, key in best if place == position}))
    rows += [_html_row(_of_paper(row), columns, set()) for row in not_run]
    body = [f"<tr>{cells}</tr>" for cells in rows]
    head = ['<th scope="col" title="table of the paper">Table</th><th scope="col" class="name">Prediction</th>']
    head += [f'<th scope="col"{_mark(column)} title="{html.escape(column.meaning)}">{html.escape(column.heading)}</th>'
             for column in columns]  # fmt: skip
    lines = ['<table class="scores sortable">', f"<thead><tr>{''.join(head)}</tr></thead>", "<tbody>", *body]
    return "\n".join([_filters(columns), '<div class="scroll">', *lines, "</tbody>", "</table>", "</div>"])


def _filters(columns: Sequence[Column]) -> str:
    """Returns the controls that choose a convention and search the rows."""
    conventions = dict.fromkeys(column.convention for column in columns)
    options = "".join(f'<option value="{html.escape(name)}">{html.escape(name)}</option>' for name in conventions)
    return (
        '<div class="controls"><label>Convention <select class="convention"><option value="">headline figures</option>'
        f'{options}<option value="*">all</option></select></label>'
        '<label>Rows with <input type="search" class="search" placeholder="any text"></label></div>'
        "<noscript><style>.scores [hidden] { display: table-cell; } .controls { display: none; }</style></noscript>"
    )


def _html_row(row: Mapping[Any, Any], columns: Sequence[Column], best: set[str]) -> str:
    """Returns the cells of a row; one without a prediction is of the paper alone."""
    name = html.escape(row["title"])
    name += (
        f"<code>{html.escape(row['prediction'])}</code>" if row["prediction"] else ' <span class="note">not run</span>'
    )
    cells = [f'<td>{_number(row["table"])}</td><th scope="row" class="name">{name}</th>']
    for column in columns:
        between = interval(row, column.key)
        between = f' <span class="interval">{between}</span>' if between else ""
        mark = _mark(column, "best" if column.key in best else "")
        cells.append(f"<td{mark}>{figure(row.get(column.key, math.nan))}{between}</td>")
    return "".join(cells)


def _html_mean(mean: SeedMean, columns: Sequence[Column]) -> str:
    """Returns the cells of the mean over seeds."""
    name = f"{html.escape(_mean_title(mean))}<code>{html.escape(mean.prediction)}</code>"
    cells = [f'<td>{_NONE}</td><th scope="row" class="name">{name}</th>']
    return "".join([*cells, *(f"<td{_mark(column)}>{mean_figure(mean, column.key)}</td>" for column in columns)])


def _of_paper(row: ReportRow) -> dict[str, Any]:
    paper = {f"paper_{split}": value for split, value in row.paper.items()}
    return {"prediction": "", "title": row.title, "table": row.table, **paper}


def _mark(column: Column, *names: str) -> str:
    """Returns the attributes of a column's cells: its convention, and whether it is shown only on demand."""
    classes = " ".join(filter(None, ("paper" if _from_paper(column) else "", *names)))
    return (
        (f' class="{classes}"' if classes else "")
        + f' data-convention="{html.escape(column.convention)}"'
        + (" hidden" if column in OTHER else "")
    )


def _from_paper(column: Column) -> bool:
    return column.key.startswith("paper_")


def print_table(table_csv: str | os.PathLike) -> None:
    """Prints a written table.csv to standard output, predictions by the names they have in the config."""
    kinds = {"prediction": str, "title": str, "table": "Int64"} | dict.fromkeys(SEED_COLUMNS, str)
    table = pd.read_csv(table_csv, dtype=kinds, keep_default_na=False, na_values=[""])  # "null" may be a name
    columns = [column for column in known((*SCORES, *PAPER), table) if column.key != "video_mIoU"]
    lines = [["Table", "Prediction", *(column.heading for column in columns)]]
    means = _means(table)
    for row in table.to_dict("records"):
        if (mean := means.get(row["prediction"])) is not None:
            name = f"{mean.prediction}, {len(mean.runs)} seeds"
            lines.append([_NONE, name, *(mean_figure(mean, column.key) for column in columns)])
        figures = [f"{figure(row[column.key])} {interval(row, column.key)}".rstrip() for column in columns]
        lines.append([_number(row["table"]), row["prediction"], *figures])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = [
            cell.ljust(width) if at == 1 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        show("  ".join(cells).rstrip())
