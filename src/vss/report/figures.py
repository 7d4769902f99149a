"""The charts: predictions by score, consistency and cost, classes by IoU, training curves.

Each is drawn once. As a file it is a PNG; inside the page it is an SVG whose few colours become the page's own, so that
it reads on light and dark ground.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vss.core.errors import UserError
from vss.core.files import DamagedError, atomic_path, unsealed
from vss.report.strips import class_strips, prediction_strips, span

# Light-ground colours; the page defines the same names for both grounds (core/page/page.css).
INK, MUTED, RULE, BAR, ACCENT = "#1f2328", "#6b7280", "#d5d9df", "#8fb0d3", "#1f5fa8"
_CSS_NAME = {INK: "ink", MUTED: "muted", RULE: "rule", BAR: "bar", ACCENT: "accent"}
# Lines of several runs; each is distinguished on light and on dark ground.
RUN_COLOURS = ("#3b82c4", "#d97706", "#2e9e5b", "#c2477a", "#8b6fd1", "#8a7a2e", "#d0503f", "#2a9aa8")
# Smoothing of training curves: the window of the running mean as a share of the training.
SMOOTHING = {"none": 0.0, "light": 0.02, "medium": 0.1, "strong": 0.3}
SMOOTHED_BY_DEFAULT = "medium"
_POINTS = 300  # of a curve at most: more would not be seen
_PANEL = (4.3, 3.2)  # inches of a chart that is one of several: its text keeps its size on a phone
_COST = "seconds per frame"
_PART = "part:"  # starts the id of what the page's script shows, hides and names
_ROWS_PER_COLUMN = 42  # classes under each other before a second column begins
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a title or class name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Sets the style of all charts; nothing outside is changed."""
    with matplotlib.rc_context(_STYLE):
        yield


def predictions_figure(table: pd.DataFrame) -> Figure:
    """Draws mIoU of every prediction as a dot with its 95% interval, best first; an open dot is what it refines.

    Dots, unlike bars, need no zero: the scale spans the figures, so that small differences show.

    Args:
        table: as `score_table` returns it.
    """
    with drawing():
        strips = prediction_strips(table)[::-1]
        figure = Figure(figsize=(8.2, 0.3 + 0.25 * max(1, len(strips))))
        axes = figure.add_axes((0.5, 0.02, 0.44, 0.96))
        places, best = range(len(strips)), max((one.value for one in strips), default=math.nan)
        axes.set_xlim(*span(strips))
        for place, one in zip(places, strips, strict=True):
            axes.hlines(place, one.low, one.high, color=BAR, linewidth=1.2, zorder=1)
            axes.plot(one.before, place, marker="o", markersize=5.5, color=MUTED, markerfacecolor="none", zorder=4)
            axes.scatter(one.value, place, s=34, color=ACCENT if one.value == best else BAR, zorder=3)
            axes.annotate(
                one.figure,
                (max(one.places), place),
                (7, 0),
                textcoords="offset points",
                va="center_baseline",
                color=INK,
            )
        _name_rows(axes, places, [one.name for one in strips])
        axes.set_ylim(-0.6, len(strips) - 0.4)
        return figure


def scatter_figure(table: pd.DataFrame, seconds: Mapping[str, float]) -> Figure:
    """Draws mIoU against video consistency and, where it is known, against what a frame costs, side by side.

    A dot has the number of its prediction, by mIoU from 1.

    Args:
        table: as `score_table` returns it.
        seconds: per frame, by prediction; NaN where unknown.
    """
    with drawing():
        sides = _scatter_sides(table, seconds)
        figure = Figure(figsize=(8.2, 3.6), layout="constrained")
        grid = figure.subplots(1, max(1, len(sides)), squeeze=False, sharey=True)[0]
        if not sides:
            grid[0].set_axis_off()
            return figure
        for axes, (name, values) in zip(grid, sides.items(), strict=True):
            _scatter(axes, name, values, table)
        grid[0].set_ylabel("mIoU")
        return figure


def scatter_figures(table: pd.DataFrame, seconds: Mapping[str, float]) -> dict[str, Figure]:
    """Returns the sides of `scatter_figure`, each as a chart of its own, by what mIoU is drawn against."""
    found = {}
    with drawing():
        for name, values in _scatter_sides(table, seconds).items():
            found[name] = Figure(figsize=_PANEL, layout="constrained")
            axes = found[name].subplots()
            _scatter(axes, name, values, table)
            axes.set_ylabel("mIoU")
    return found


def _scatter_sides(table: pd.DataFrame, seconds: Mapping[str, float]) -> dict[str, pd.Series]:
    """Returns what mIoU is drawn against, by name: a column of `by_miou(table)` each."""
    shown = by_miou(table)
    cost = shown["prediction"].map(lambda name: seconds.get(name, math.nan))
    sides = {"VC8": shown["VC8"]} if shown["VC8"].notna().any() else {}
    return sides | ({_COST: cost} if cost.gt(0).any() else {})


def _scatter(axes: Any, name: str, values: pd.Series, table: pd.DataFrame) -> None:
    axes.set_xlabel(name)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", which="both", colors=MUTED)
    if name == _COST:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.3g"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    for place, (x, y) in enumerate(zip(values, by_miou(table)["mIoU"], strict=True)):
        if pd.isna(x) or (name == _COST and x <= 0):
            continue
        colour = ACCENT if place == 0 else BAR
        axes.plot(x, y, marker="o", markersize=6, color=colour, gid=f"{_PART}dot-{place}")
        axes.annotate(str(place + 1), (x, y), (4, 3), textcoords="offset points", fontsize=8.5, color=INK)


def reliability_figure(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draws how often pixels are labelled right against how sure their scores are; on the diagonal both agree.

    Args:
        bins: of predictions by title, as `reliability` in scores.json has them.
    """
    with drawing():
        figure = Figure(figsize=(4.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8)
        for run, (title, found) in enumerate(bins.items()):
            sure, right = ([100 * each[key] for each in found] for key in ("confidence", "accuracy"))
            colour = RUN_COLOURS[run % len(RUN_COLOURS)]
            named = "\n".join(textwrap.wrap(title, 56))
            axes.plot(
                sure, right, color=colour, marker="o", markersize=3.5, label=named, gid=f"{_PART}reliability-{run}"
            )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("mean confidence, percent")
        axes.set_ylabel("labelled right, percent")
        axes.grid(color=RULE, linewidth=0.6)
        axes.tick_params(axis="both", which="both", colors=MUTED)
        if bins:
            figure.legend(loc="outside lower left", frameon=False, fontsize=8)
        else:
            axes.text(50, 88, "no class scores were scored", ha="center", color=MUTED)
        return figure


def confusions_figure(classes: Sequence[str], pixels: Sequence[int], taken: Sequence[tuple[int, int, int]]) -> Figure:
    """Draws what is taken for what: a row per class of the truth, the largest first, and a column per class.

    The stronger the colour, the larger the share of the row's class; by its square root, so that a few percent show.

    Args:
        classes: class names by train id.
        pixels: of the truth, by train id.
        taken: (true class, taken for or -1, pixels) of the confusions.
    """
    with drawing():
        order = sorted(range(len(pixels)), key=lambda index: -pixels[index])
        rows = [index for index in order if pixels[index]]
        used = {*rows, *(label for _, label, _ in taken)}
        columns = [index for index in [*order, -1] if index in used]
        wrong, right = np.zeros((len(rows), len(columns))), np.full((len(rows), len(columns)), np.nan)
        for true, label, count in taken:
            wrong[rows.index(true), columns.index(label)] = count / pixels[true]
        for row, index in enumerate(rows):
            right[row, columns.index(index)] = 1 - wrong[row].sum()
        side = min(0.3, max(0.1, 8 / max(1, len(columns))))  # inches
        figure = Figure(
            figsize=(1.9 + side * max(1, len(columns)), 1.9 + side * max(1, len(rows))), layout="constrained"
        )
        axes = figure.subplots()
        size = min(9.0, 68 * side)
        for shares, colour in ((wrong, ACCENT), (right, MUTED)):
            map_of = matplotlib.colors.LinearSegmentedColormap.from_list("shares", ["#f4f6f8", colour])
            axes.imshow(np.sqrt(shares.clip(0)), cmap=map_of, vmin=0, vmax=1, interpolation="nearest")
        names = [textwrap.shorten(name, 24, placeholder="\u2026") for name in [*classes, "no class"]]
        axes.set_xticks(range(len(columns)), [names[index] for index in columns], rotation=90, fontsize=size)
        axes.set_yticks(range(len(rows)), [names[index] for index in rows], fontsize=size)
        axes.xaxis.tick_top()
        axes.tick_params(axis="x", colors=INK)
        axes.spines[:].set_visible(False)
        return figure


def by_miou(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that have an mIoU, the highest first: the numbers of the dots of `scatter_figure`."""
    return table[table["mIoU"].notna()].sort_values("mIoU", ascending=False, kind="stable")


def per_class_figure(per_class: Mapping[str, pd.DataFrame], *, prediction: str) -> Figure:
    """Draws IoU of every class that the truth has, best first; a line is the range over all predictions.

    Args:
        per_class: `per_class.csv` by prediction.
        prediction: the one whose IoU is the bar.
    """
    with drawing():
        strips = class_strips(per_class, prediction)
        columns = max(1, math.ceil(len(strips) / _ROWS_PER_COLUMN))
        rows = max(1, math.ceil(len(strips) / columns))
        figure = Figure(figsize=(8.2 if columns == 1 else 5.0 * columns, 0.4 + 0.215 * rows))
        for column in range(columns):
            part = strips[column * rows : (column + 1) * rows]
            left = 0.34 if columns == 1 else 0.5
            axes = figure.add_axes(((column + left) / columns, 0.02, (0.94 - left) / columns, 0.96))
            places = range(0, -len(part), -1)
            axes.barh(places, [one.value for one in part], height=0.62, color=BAR)
            axes.hlines(places, [one.low for one in part], [one.high for one in part], color=INK, linewidth=0.9)
            at_left: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "ha": "right"}
            for place, one in zip(places, part, strict=True):
                axes.annotate(one.figure, (0, place), (-4, 0), color=INK, **at_left)
            axes.set_xlim(0, 100)
            axes.set_ylim(-rows + 0.4, 0.6)
            _name_rows(axes, places, [one.name for one in part], pad=34)
        return figure


def _name_rows(axes: Any, places: Sequence[int], names: Sequence[str], *, pad: int = 4) -> None:
    """Labels bars on their left and leaves nothing else of the axes."""
    axes.set_yticks(places, names)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", pad=pad)


def read_log(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a training log, one JSON object per line, with at least `iter` in each; a last line cut short is left out.

    Raises:
        UserError: the file is missing, or another line is not such an object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(unsealed(json.loads(line)) | {})
            records[-1]["iter"] = int(records[-1]["iter"])
        except DamagedError as error:
            raise UserError(f"{path}: line {number} is {error}") from None
        except (ValueError, TypeError, KeyError):
            if number == len(lines):  # without its newline: the writer was stopped in the middle
                continue
            raise UserError(f"{path}: line {number} is not a JSON object with `iter`") from None
    return pd.DataFrame(records, columns=None if records else ["iter"])


def losses(log: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a log that hold a training loss."""
    return log[log["loss"].notna()] if "loss" in log else log.iloc[:0]


def last_loss(log: pd.DataFrame) -> float:
    """Returns the mean loss over the last tenth of what was logged; NaN where none was."""
    train = losses(log)
    return float(train["loss"].tail(max(1, len(train) // 10)).mean()) if len(train) else math.nan


def curves_figure(logs: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws the training loss over iterations, one small chart per training, each on its own scale from zero.

    The thin line is what was logged, the thick one its mean over a window of a tenth of the training; the mean of the
    last tenth is written at the end.
    """
    with drawing():
        columns = min(3, max(1, len(logs)))
        rows = max(1, math.ceil(len(logs) / columns))
        figure = Figure(figsize=(2.9 * columns + 0.4, 1.95 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(logs) :]:
            axes.set_visible(False)
        for axes, (title, log) in zip(grid.flat, logs.items(), strict=False):
            _curve(axes, title, log)
        return figure


def _curve(axes: Any, title: str, log: pd.DataFrame) -> None:
    axes.set_title("\n".join(textwrap.wrap(title, 38)), loc="left", color=INK)
    train = losses(log)
    if train.empty:
        axes.text(0.5, 0.5, "no loss was logged", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    iterations, loss = train["iter"].to_numpy(), train["loss"].to_numpy()
    mean = train["loss"].rolling(max(1, len(train) // 10), min_periods=1, center=True).mean().to_numpy()
    axes.plot(iterations, loss, color=BAR, linewidth=0.8)
    axes.plot(iterations, mean, color=ACCENT, linewidth=1.5)
    last = int(iterations[-1])
    end = last_loss(log)
    axes.annotate(f"{end:.3g}", (last, end), (3, 0), textcoords="offset points", va="center_baseline", color=ACCENT)
    axes.set_xlim(0, 1.16 * last)
    axes.set_ylim(0, 1.05 * float(np.nanmax(loss)) or 1)
    axes.set_xticks([0, last], ["0", f"{last:,} it"])
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
    axes.tick_params(axis="y", colors=MUTED)


def runs_figures(logs: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """Draws loss and learning rate of all trainings over iterations, one colour each, smoothed in every way.

    Run and smoothing are parts of a chart, which the page's script shows and hides: "run-0", "smooth-medium". The
    learning rate is left out where none was logged.
    """
    with drawing():
        found = {name: Figure(figsize=_PANEL, layout="constrained") for name in ("loss", "learning rate")}
        (top, below), has_rate = [figure.subplots() for figure in found.values()], False
        for run, log in enumerate(logs.values()):
            train = losses(log)
            colour = RUN_COLOURS[run % len(RUN_COLOURS)]
            style: dict[str, Any] = {"color": colour, "linewidth": 1.4}
            style["linestyle"] = ("-", "--", ":", "-.")[run // len(RUN_COLOURS) % 4]
            kept = np.unique(np.linspace(0, len(train) - 1, min(len(train), _POINTS)).round().astype(int))
            iterations = train["iter"].to_numpy()[kept]
            for name, share in SMOOTHING.items():
                window = max(1, round(share * len(train)))
                smooth = train["loss"].rolling(window, min_periods=1, center=True).mean() if len(train) else []
                positive = np.asarray(smooth, float)[kept]
                positive = np.where(positive > 0, positive, np.nan)
                top.plot(iterations, positive, gid=f"{_PART}run-{run} smooth-{name}", **style)
            if "lr" in train:
                has_rate = True
                below.plot(iterations, train["lr"].to_numpy()[kept], gid=f"{_PART}run-{run}", **style)
        if any(len(losses(log)) for log in logs.values()):
            top.set_yscale("log")  # losses of two heads may differ tenfold
            top.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.3g"))
            top.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            top.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        for name, axes in zip(found, (top, below), strict=True):
            axes.set_ylabel(name)
            axes.set_xlabel("iteration")
            axes.grid(color=RULE, linewidth=0.6)
            axes.tick_params(axis="both", which="both", colors=MUTED)
        return found if has_rate else {"loss": found["loss"]}


def write_png(path: str | os.PathLike, figure: Figure) -> None:
    """Writes a chart on white, 200 dots per inch."""
    with drawing(), atomic_path(path) as aside:
        FigureCanvasAgg(figure)
        figure.savefig(
            aside, format="png", dpi=200, facecolor="white", metadata={"Software": None}, bbox_inches="tight"
        )


def svg_text(figure: Figure, *, name: str, title: str, tips: Mapping[str, str] | None = None) -> str:
    """Returns a chart as an `<svg>` element for a page that defines the CSS variables of `_CSS_NAME`.

    Args:
        figure: the chart.
        name: of the chart, unique on the page.
        title: what it shows, for a screen reader.
        tips: plain text that a part of the chart shows when it is pointed at.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight",
                       metadata={"Date": None, "Creator": None, "Format": None, "Type": None})  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Several charts share a page, where their group names would clash; the parts that a script looks for keep theirs.
    text = re.sub(r'<g id="([^"]*)"( *>)?', lambda found: _group(found[1], found[2] or "", tips or {}), text)
    for colour, css in _CSS_NAME.items():
        text = text.replace(colour, f"var(--{css})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _group(name: str, end: str, tips: Mapping[str, str]) -> str:
    """Returns the start of a group of a chart, with its tip; hidden if it is of another smoothing than the default."""
    if not name.startswith(_PART):
        return f"<g{end}"
    part = name.removeprefix(_PART)
    smoothing = [word for word in part.split() if word.startswith("smooth-")]
    hidden = ' display="none"' if smoothing and smoothing != [f"smooth-{SMOOTHED_BY_DEFAULT}"] else ""
    tip = f"<title>{escape(tips[part])}</title>" if part in tips else ""
    return f'<g data-part="{part}"{hidden}{end}{tip}'
