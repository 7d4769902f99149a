"""Charts with one row per prediction or class: what each row shows, and the chart as text that keeps its size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from vss.report.table import EDGES, interval


@dataclass(frozen=True)
class Strip:
    """One row of such a chart.

    Attributes:
        name, figure: what the row is of, and its value as it is printed; plain text.
        value: where its mark stands, percent.
        low, high: ends of the line through it, percent; NaN where it has none.
        before: where the open mark of what was refined stands, percent; NaN where nothing was.
    """

    name: str
    figure: str
    value: float
    low: float = math.nan
    high: float = math.nan
    before: float = math.nan

    @property
    def places(self) -> list[float]:
        """Returns where marks and ends of lines are."""
        return [place for place in (self.value, self.low, self.high, self.before) if not math.isnan(place)]


def prediction_strips(table: pd.DataFrame) -> list[Strip]:
    """Returns mIoU of every prediction that has one, best first, with its 95% interval.

    Args:
        table: as `score_table` returns it.
    """
    shown = table[table["mIoU"].notna()].sort_values(["mIoU", "prediction"], ascending=[False, True], kind="stable")
    score_of = dict(zip(table["prediction"], table["mIoU"], strict=True))
    strips = []
    for row in shown.to_dict("records"):
        before = score_of.get(row["prediction"].rpartition(".")[0], math.nan)
        figure = " ".join(filter(None, (f"{row['mIoU']:.2f}", interval(row, "mIoU"))))
        figure += "" if math.isnan(before) else f", from {before:.2f}"
        low, high = (row.get(f"mIoU_{edge}", math.nan) for edge in EDGES)
        strips.append(Strip(row["title"], figure, row["mIoU"], low, high, before))
    return strips


def class_strips(per_class: Mapping[str, pd.DataFrame], prediction: str) -> list[Strip]:
    """Returns IoU of every class that the truth has, best first, with the range over all predictions.

    Args:
        per_class: `per_class.csv` by prediction.
        prediction: the one whose IoU is the value.
    """
    chosen = per_class[prediction]
    chosen = chosen[chosen["pixels_truth"] > 0].sort_values(["iou", "class"], ascending=[False, True], kind="stable")
    every = pd.DataFrame({name: frame.set_index("class_id")["iou"] for name, frame in per_class.items()})
    low, high = 100 * every.min(axis=1), 100 * every.max(axis=1)
    return [
        Strip(
            name.replace("_", " "),
            f"{100 * iou:.1f}",
            100 * iou,
            *((low[key], high[key]) if len(per_class) > 1 else ()),
        )
        for key, name, iou in zip(chosen["class_id"], chosen["class"], chosen["iou"], strict=True)
    ]


def span(strips: Sequence[Strip]) -> tuple[float, float]:
    """Returns the ends of a scale that spans all marks and lines, with some room."""
    places = [place for one in strips for place in one.places]
    low, high = min(places, default=0.0), max(places, default=0.0)
    room = 0.06 * (high - low) + 0.01 * high + 1e-6
    return low - room, high + room


def strip_chart(strips: Sequence[Strip], *, scale: tuple[float, float], bars: bool = False) -> str:
    """Returns the chart as an HTML list; names and figures are its text, the marks are for eyes only.

    Args:
        strips: its rows in order.
        scale: values at the left and the right end.
        bars: marks are bars from the left end, in as many columns as there is room for; else dots.
    """
    best = max((one.value for one in strips), default=math.nan)
    rows = "".join(
        f"<li><span>{escape(one.name)}</span><span>{escape(one.figure)}</span>"
        f'<span class="track" aria-hidden="true">{_marks(one, scale, bars, one.value == best)}</span></li>\n'
        for one in strips
    )
    return f'<ol class="strips{" bars" if bars else ""}">\n{rows}</ol>'


def _marks(strip: Strip, scale: tuple[float, float], bars: bool, is_best: bool) -> str:
    def place(value: float) -> float:
        return 100 * (value - scale[0]) / (scale[1] - scale[0])

    marks = [f'<i class="bar" style="width:{place(strip.value):.1f}%"></i>'] if bars else []
    if not math.isnan(strip.low + strip.high):
        left, right = place(strip.low), place(strip.high)
        marks.append(f'<i class="line" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>')
    if not math.isnan(strip.before):
        marks.append(f'<i class="dot before" style="left:{place(strip.before):.1f}%"></i>')
    if not bars:
        kind = "dot best" if is_best else "dot"
        marks.append(f'<i class="{kind}" style="left:{place(strip.value):.1f}%"></i>')
    return "".join(marks)
