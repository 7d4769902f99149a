"""The parts of the report's page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

import pandas as pd
from matplotlib.figure import Figure

from vss.core.page.document import json_script
from vss.report import figures, html
from vss.report.ablation import ablation_table
from vss.report.classes import classes_table, comparison
from vss.report.content import Content
from vss.report.costs import costs_table
from vss.report.figures import RUN_COLOURS, SMOOTHED_BY_DEFAULT, SMOOTHING, by_miou, scatter_figures
from vss.report.html import Section, plain_table
from vss.report.made import facts, weights_table
from vss.report.ranks import ranks_table
from vss.report.refinement import refinements_table
from vss.report.strips import class_strips, prediction_strips, span, strip_chart
from vss.report.table import OTHER, PAPER, SCORES, html_table, known
from vss.report.trainings import trainings_table

CAPTIONS = {
    "table": (
        "Every prediction beside the row of the paper it stands for. VC is the official video consistency; the best of"
        " our figures in each column is bold. In brackets: the 95% interval over videos drawn again, two figures whose"
        " intervals overlap may still differ (vss compare pairs them). Click a heading to sort. Rows of the paper that"
        " this run has no prediction for stand last."
    ),
    "predictions": (
        "mIoU by the challenge's rule, percent, with its 95% interval, on a scale that spans the figures. Where a"
        " prediction refines another one, the open dot is the one it began with."
    ),
    "per_class": (
        "IoU in percent of the classes that the truth has: the bar and the figure are the prediction with the highest"
        " mIoU ({best}), the line is the range over all predictions."
    ),
    "ranks": (
        "How far the order depends on which videos were filmed: videos are drawn again 2,000 times, the same ones for"
        " every prediction, and the predictions are ranked by their mIoU each time."
    ),
    "members": (
        "Ensembles whose weights were searched on val: mIoU there in percent, before the search and after; of each"
        " member alone, and of the others without it. Chosen and scored on the same frames, such an ensemble's row"
        " above flatters it."
    ),
    "curves": (
        "Training loss over iterations, each training on its own scale from zero. Thin: as logged. Thick: its running"
        " mean. The figure at the end is the mean over the last tenth."
    ),
    "overlays": (
        "Frames spread evenly from the worst to the best by mIoU of the last prediction shown. Grey: no class in the"
        " truth. Classes that cover less than 0.2% of a frame are left out of its legend."
    ),
    "protocol": "What was run, and what the columns mean.",
    "scatter": (
        "mIoU against video consistency and, where it was measured, against what a frame costs: all jobs that the"
        " prediction is made of, on the machine they ran on. The numbers are those of the list."
    ),
    "reliability": (
        "How often pixels are labelled right, by how sure the class scores are: below the line a prediction is surer"
        " than it is right. The expected calibration error (ECE) is the mean distance from the line, by pixels. Shown"
        " are the predictions whose class scores were scored (targets.calibration), at most eight, the highest mIoU"
        " first."
    ),
    "refinement": (
        "What each refinement changed, in percent: every figure before and after and, over the same videos drawn again,"
        " the 95% interval of the difference (noise: it holds zero); which share of the labelled pixels became right"
        " and wrong; what a frame costs (optical flow and mask proposals, which refiners share, are under Cost); the"
        " classes' IoU and the videos' mIoU that gain and lose most. Settings searched on val were chosen and scored on"
        " the same frames, which flatters them."
    ),
    "ablation": (
        "One change at a time against the baseline, and all together, in percent. In brackets: the 95% interval of the"
        " change over the same videos drawn again; noise where it holds 0. Time and GPU-hours are of all jobs that a"
        " prediction needs, trainings included; added are those of jobs that the baseline does not need."
    ),
    "compare": "Any prediction against any other: IoU of each class in percent, and what missed pixels are taken for.",
    "confusions": (
        "What is taken for what. The matrix has a row per true class, the largest first, and a column per class that it"
        " is taken for; the stronger the colour, the more of the class (the diagonal: what is right). The list has the"
        " largest confusions by pixels. A click shows one in the videos, where a frame that is held has it. Confusions"
        " below 0.1% of their class are left out."
    ),
    "runs": (
        "All trainings over each other: the loss, on a logarithmic scale, and the learning rate. A smoothed line is a"
        " running mean over 2, 10 or 30 percent of the training."
    ),
    "costs": (
        "What the run took, by Snakemake's benchmark files: the last time each job ran, and of a training all its"
        " iterations. A rerun of a stage repeats all that is made of its results."
    ),
}

_VIEWER_LINK = '<p><a href="viewer.html">Play the videos, class by class and side by side</a></p>\n'


def page_sections(content: Content, reliability: Figure) -> list[Section]:
    """Returns the sections in order; those without anything to show are left out.

    Args:
        content: of the report.
        reliability: drawn as a file of its own too.
    """
    sections = [
        Section("table", "Scores", CAPTIONS["table"], _scores(content)),
        Section("predictions", "Predictions", CAPTIONS["predictions"], _predictions(content)),
        _scatter(content),
        _tabular("ranks", "Ranks", ranks_table(content.ranks)),
        _tabular("refinement", "Refinement", refinements_table(content.refinements)),
        _tabular("ablation", "Which lever paid", ablation_table(content.ablation)),
        _reliability(content, reliability),
        _tabular("members", "Members", content.members),
        Section("frames", "Frames", CAPTIONS["overlays"], _VIEWER_LINK + html.frames(content.frames, content.videos)),
        _classes(content),
        Section("compare", "Class by class", CAPTIONS["compare"], _COMPARE),
        Section("confusions", "Confusions", CAPTIONS["confusions"], _CONFUSIONS),
        _training(content),
        _tabular("costs", "Cost", costs_table(content.costs)),
        Section("protocol", "What was run", CAPTIONS["protocol"], _made(content)),
    ]
    return [part for part in sections if part.content]


def page_data(content: Content) -> str:
    """Returns the element with the data that the page's script compares classes by."""
    titles = dict(zip(content.table["prediction"], content.table["title"], strict=True))
    compared = comparison(
        content.per_class,
        titles=titles,
        classes=content.card.classes,
        shown=content.shown,
        where=content.places,
        confusions=content.confusions,
    )
    return json_script("compared", compared)


# The script fills in predictions and rows.
_COMPARE = """<div class="controls">
<label>Prediction <select id="first"></select></label>
<label>against <select id="second"></select></label>
<label>Classes with <input type="search" id="classes-with" placeholder="any text"></label>
</div>
<div class="scroll"><table class="sortable" id="class-by-class">
<thead><tr><th scope="col" class="name">Class</th><th scope="col">pixels, truth</th><th scope="col">first</th>
<th scope="col">second</th><th scope="col">difference</th><th scope="col" class="words">first takes it for</th>
<th scope="col" class="words">second takes it for</th></tr></thead>
<tbody></tbody></table></div>
<noscript><p class="notice">A script, which this browser does not run, fills this table.</p></noscript>"""
_CONFUSIONS = """<div class="controls">
<label>Prediction <select id="confused"></select></label>
<label>Listed <select id="confusions-shown"><option>20</option><option>60</option><option>400</option></select></label>
</div>
<div class="scroll"><div class="matrix"><canvas id="matrix" tabindex="0" role="application"
aria-roledescription="confusion matrix" aria-describedby="matrix-cell"
aria-label="What is taken for what: arrow keys move from cell to cell, Enter shows one in the videos"></canvas>
<i id="matrix-mark" hidden></i></div></div>
<p class="note" id="matrix-cell" aria-live="polite">Point at a cell, or move with the arrow keys.</p>
<details id="matrix-text"><summary>The matrix as a table, in percent of the true class</summary>
<div class="scroll"><table class="matrix" aria-label="Confusion matrix">
<thead></thead><tbody></tbody></table></div></details>
<div class="scroll"><table class="sortable" id="what-for-what">
<thead><tr><th scope="col" class="name">Truth</th><th scope="col" class="words">is taken for</th>
<th scope="col">pixels</th><th scope="col">of the class</th><td></td></tr></thead>
<tbody></tbody></table></div>
<noscript><p class="notice">A script, which this browser does not run, fills this table.</p></noscript>"""


def _scores(content: Content) -> str:
    return html_table(content.table, not_run=content.not_run) + '<p><a href="#protocol">What the columns mean</a></p>'


def _predictions(content: Content) -> str:
    strips = prediction_strips(content.table)
    return strip_chart(strips, scale=span(strips))


def _panels(drawn: Mapping[str, Figure], name: str, tips: dict[str, str] | None = None) -> str:
    """Returns charts next to each other, or under each other where there is less room.

    Args:
        drawn: by what each shows.
        name: of all of them, unique on the page.
        tips: see `figures.svg_text`.
    """
    return html.charts(
        figures.svg_text(figure, name=f"{name}-{number}", title=title, tips=tips)
        for number, (title, figure) in enumerate(drawn.items())
    )


def _tabular(anchor: str, heading: str, table: pd.DataFrame) -> Section:
    return Section(anchor, heading, CAPTIONS[anchor], "" if table.empty else plain_table(table))


def _scatter(content: Content) -> Section:
    """Returns the dots with the list of what their numbers are."""
    shown = by_miou(content.table)
    if len(shown) < 2:
        return Section("scatter", "Consistency and cost", "", "")
    titles = list(shown["title"])
    tips = {f"dot-{place}": f"{place + 1}. {title}" for place, title in enumerate(titles)}
    drawn = {f"mIoU against {name}": one for name, one in scatter_figures(content.table, content.seconds).items()}
    items = "".join(f'<li data-dot="{place}">{escape(title)}</li>' for place, title in enumerate(titles))
    return Section(
        "scatter",
        "Consistency and cost",
        CAPTIONS["scatter"],
        f'{_panels(drawn, "scatter", tips)}<ol class="dots">{items}</ol>',
    )


def calibrated(content: Content) -> dict[str, list[dict[str, float]]]:
    """Returns the reliability curves that are shown, by title: of the highest mIoU first."""
    ranked = by_miou(content.table)
    ranked = ranked[ranked["prediction"].isin(list(content.reliability))].head(len(RUN_COLOURS))
    return {
        f"{row['title']}: ECE {row['ECE']:.2f}": content.reliability[row["prediction"]]
        for row in ranked.to_dict("records")
    }


def _reliability(content: Content, curves: Figure) -> Section:
    """Returns the curves; nothing where no class scores were scored."""
    tips = {f"reliability-{run}": title for run, title in enumerate(calibrated(content))}
    title = "How often pixels are labelled right by how sure the class scores are"
    drawn = _panels({title: curves}, "reliability", tips) if tips else ""
    return Section("reliability", "Calibration", CAPTIONS["reliability"], drawn)


def _classes(content: Content) -> Section:
    title = content.table.set_index("prediction")["title"][content.best]
    table = plain_table(classes_table(content.per_class[content.best]))
    summary = "Every class of this prediction, and what its missed pixels are taken for"
    drawn = strip_chart(class_strips(content.per_class, content.best), scale=(0, 100), bars=True)
    drawn += f"<details><summary>{summary}</summary>{table}</details>"
    return Section("classes", "Classes", CAPTIONS["per_class"].format(best=title), drawn)


def _training(content: Content) -> Section:
    """Returns all curves over each other with what chooses among them, those of each training, and their figures."""
    if not content.logs:
        return Section("training", "Training", "", '<p class="note">Nothing was trained in this run.</p>')
    runs = "".join(
        f'<label><input type="checkbox" checked data-run="{run}"><i style="background:{RUN_COLOURS[run % 8]}"></i>'
        f"{escape(title)}</label>"
        for run, title in enumerate(content.logs)
    )
    options = "".join(
        f"<option{' selected' if name == SMOOTHED_BY_DEFAULT else ''}>{name}</option>" for name in SMOOTHING
    )
    controls = f'<div class="controls"><label>Smoothing <select id="smoothing">{options}</select></label></div>'
    tips = {f"run-{run} smooth-{name}": title for run, title in enumerate(content.logs) for name in SMOOTHING}
    tips |= {f"run-{run}": title for run, title in enumerate(content.logs)}
    both = {f"{name} of all trainings": one for name, one in figures.runs_figures(content.logs).items()}
    chart = _panels(both, "runs", tips)
    single = _panels(
        {f"training loss, {title}": figures.curves_figure({title: log}) for title, log in content.logs.items()},
        "curves",
    )
    single = (
        f'<details><summary>Each training on its own scale</summary><p class="caption">{escape(CAPTIONS["curves"])}</p>'
        f"{single}</details>"
    )
    table = plain_table(trainings_table(content.trainings))
    return Section(
        "training",
        "Training",
        CAPTIONS["runs"],
        f'{controls}<fieldset class="runs"><legend>Trainings</legend>{runs}</fieldset>{chart}{table}{single}',
    )


def _made(content: Content) -> str:
    columns = known((*SCORES, *PAPER, *OTHER), content.table)
    weights = plain_table(weights_table(content.made), text=True) if content.made["weights"] else ""
    config = json.dumps(content.made["config"], indent=2, ensure_ascii=False)
    parts = [html.facts(facts(content.made)), weights]
    if content.made["config"]:
        parts.append(f"<details><summary>The config</summary><pre>{escape(config)}</pre></details>")
    parts.append("<h3>Columns</h3>" + html.meanings(columns))
    return "\n".join(parts)
