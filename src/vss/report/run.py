"""Writes the report of a run: tables, figures and one page."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from html import escape

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vss.configs.schema import read_section
from vss.core.csv_file import write_csv
from vss.core.errors import UserError
from vss.core.files import JsonObject, StrPath, atomic_path, read_json, write_text
from vss.core.index import Card, read_dataset
from vss.core.labels import IGNORE_INDEX
from vss.core.log import log, one_line
from vss.core.page import notice
from vss.report import figures, html
from vss.report.classes import classes_table
from vss.report.members import members_table
from vss.report.overlays import FrameRow, Predictions, class_colours, frame_rows
from vss.report.ranks import ranks_table
from vss.report.sheet import overlay_sheet
from vss.report.table import OTHER, PAPER, SCORES, ReportRow, html_table, known, markdown_table, score_table
from vss.report.viewer import viewer_page

CAPTIONS = {
    "table": (
        "Every prediction beside the row of the paper it stands for. VC is the official video consistency; the best of"
        " our figures in each column is bold. In brackets: the 95% interval over videos drawn again, two figures whose"
        " intervals overlap may still differ (vss compare pairs them). Click a heading to sort."
    ),
    "predictions": (
        "mIoU by the challenge's rule, percent, on a scale that spans the figures. Where a prediction refines another"
        " one, the open dot is the one it began with."
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
}
_PROTOCOL_WORDS = {
    "paper": "paper: what the paper says",
    "as_published": "as_published: what the authors' published code does, where it differs from the paper",
}


SEARCHED_SPLIT = "val"  # where weights are searched

# The whole of VSPW_480p: a smaller set is said to be one.
VSPW_FRAMES = {"train": 198_244, "val": 24_502, "test": 28_887}


_VIEWER_LINK = '<p><a href="viewer.html">Play the videos, class by class and side by side</a></p>\n'
MOST_NAMED = 5  # frames or videos that a notice names


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Settings of the report; the schema has their defaults and meaning (`report` and `report_job`)."""

    title: str | None = None
    frames: int
    overlay_alpha: float
    overlays: tuple[str, ...]
    videos: int | tuple[str, ...]
    video_megabytes: float
    colours: Mapping[str, str]
    rows: tuple[ReportRow, ...]
    split: str
    protocol: str
    titles: Mapping[str, str]
    shown: tuple[str, ...]
    trainings: tuple[str, ...]


@dataclass(frozen=True)
class ReportInputs:
    """Files that the report is made of.

    Attributes:
        scores, per_class: by prediction.
        logs: by training ("stage/model").
        labels: by prediction shown, its shards.
        chosen: results of weight searches, by ensemble.
        draws: figures of drawn videos, by prediction.
    """

    scores: Mapping[str, StrPath]
    per_class: Mapping[str, StrPath]
    logs: Mapping[str, StrPath]
    labels: Mapping[str, Sequence[StrPath]]
    chosen: Mapping[str, StrPath] = field(default_factory=dict)
    draws: Mapping[str, StrPath] = field(default_factory=dict)


def report(
    *,
    settings: JsonObject,
    inputs: JsonObject,
    index: str | os.PathLike,
    card: str | os.PathLike,
    out: Mapping[str, str | os.PathLike],
) -> None:
    """Writes tables, figures and the page.

    Args:
        settings: see `ReportSettings`.
        inputs: see `ReportInputs`.
        index, card: the prepared dataset.
        out: files to write: `html`, `viewer` (plays videos), `table_csv`, `table_md`, `table_html`, `predictions`,
            `per_class`, `curves`, `overlays` (the last four PNG).

    Raises:
        UserError: a file is missing or broken, or a setting names what does not exist.
    """
    given = read_section(ReportSettings, "report_job", settings, where="report")
    options, found = _with_plain_titles(given), ReportInputs(**inputs)

    # Read what the run left.
    frames, dataset = read_dataset(index, card)
    table = score_table(options.rows, found.scores)
    names = [one_line(name) for name in dataset.classes]
    classes = {name: pd.read_csv(found.per_class[name]).assign(**{"class": names}) for name in table["prediction"]}
    logs = {_training_title(key, options): figures.read_log(found.logs[key]) for key in options.trainings}
    members = members_table(found.chosen, options.titles)
    ranks = ranks_table(table, found.draws)

    # Show label maps: some frames on the page, some videos in the viewer.
    title = options.title or f"Video semantic segmentation on {dataset.name}"
    of_split = frames[frames["split"] == options.split]
    colours = class_colours(dataset.classes, options.colours, dataset.colours)
    with _predictions(options, found.labels) as shown:
        rows = _frames(options, shown, of_split, dataset, colours)
        viewer = viewer_page(
            title=f"Videos: {title}",
            rows=of_split,
            card=dataset,
            predictions=shown,
            shown=_videos(options.videos, of_split, rows),
            colours=colours,
            megabytes=options.video_megabytes,
        )
    write_text(out["viewer"], viewer)
    best = _best(table)

    # Draw the figures, each for itself and for the page.
    charts = {
        "predictions": figures.predictions_figure(table),
        "per_class": figures.per_class_figure(classes, prediction=best),
        "curves": figures.curves_figure(logs),
    }
    for name, figure in charts.items():
        figures.write_png(out[name], figure)
    with atomic_path(out["overlays"]) as aside:
        _, encoded = cv2.imencode(".png", cv2.cvtColor(overlay_sheet(rows), cv2.COLOR_RGB2BGR))
        aside.write_bytes(encoded.tobytes())

    # Write the table by itself, and the page.
    write_csv(out["table_csv"], table)
    write_text(out["table_md"], markdown_table(table))
    write_text(out["table_html"], html.table_page(title=title, caption=CAPTIONS["table"], scores=html_table(table)))
    sections = _sections(options, table, charts, logs, members, rows, dataset, best, classes, ranks)
    about = read_json(found.scores[best])["counts"] if best else {}
    lead = _lead(options, table, dataset, about, best, found.chosen)
    page = html.page(title=title, lead=lead, sections=sections)
    write_text(out["html"], page)
    log(f"report: {len(table)} predictions, {len(rows)} frames in {out['html']}")


def _with_plain_titles(settings: ReportSettings) -> ReportSettings:
    """Returns the settings with every title on one line, as tables and charts need it."""
    return replace(
        settings,
        title=None if settings.title is None else one_line(settings.title),
        rows=tuple(replace(row, title=one_line(row.title)) for row in settings.rows),
        titles={name: one_line(title) for name, title in settings.titles.items()},
    )


def _best(table: pd.DataFrame) -> str:
    """Returns the prediction with the highest mIoU, the first one where none has any."""
    ranked = table.sort_values("mIoU", ascending=False, kind="stable", na_position="last")
    return ranked["prediction"].iloc[0]


def _training_title(key: str, settings: ReportSettings) -> str:
    stage, _, model = key.rpartition("/")
    title = settings.titles.get(model, model)
    return f"{title}, {stage}" if stage else title


@contextmanager
def _predictions(settings: ReportSettings, labels: Mapping[str, Sequence[StrPath]]) -> Iterator[list[Predictions]]:
    """Opens the predictions shown as pictures, in order."""
    titles = {row.name: row.title for row in settings.rows}
    with ExitStack() as opened:
        yield [opened.enter_context(Predictions(titles.get(name, name), labels[name])) for name in settings.shown]


def _frames(
    settings: ReportSettings,
    predictions: Sequence[Predictions],
    rows: pd.DataFrame,
    card: Card,
    colours: np.ndarray,
) -> list[FrameRow]:
    if not predictions:
        return []
    return frame_rows(
        rows=rows,
        card=card,
        predictions=predictions,
        count=settings.frames,
        colours=colours,
        alpha=settings.overlay_alpha,
    )


def _videos(chosen: int | Sequence[str], rows: pd.DataFrame, frames: Sequence[FrameRow]) -> list[tuple[str, str]]:
    """Returns (video, frame) of what the viewer plays: the videos named, or that many of those the frames are of."""
    if isinstance(chosen, int):
        first: dict[str, str] = {}
        for row in frames:
            first.setdefault(row.video, row.frame)
        return list(first.items())[:chosen]
    middle = {video: part["frame"].iloc[len(part) // 2] for video, part in rows.groupby("video", sort=False)}
    if unknown := [video for video in chosen if video not in middle]:
        raise UserError(
            f"report.videos: {unknown[0]!r} is no video of the split; the first of it is {next(iter(middle), None)!r}"
        )
    return [(video, middle[video]) for video in chosen]


def _lead(
    settings: ReportSettings,
    table: pd.DataFrame,
    card: Card,
    counts: Mapping[str, int],
    best: str,
    searched: Collection[str],
) -> str:
    """Returns what a reader must know before any figure: on what the scores stand."""
    # How much was scored, and how well.
    split = settings.split
    row = table.set_index("prediction").loc[best]
    said = [
        f"{_many(len(table), 'prediction')} scored on the {split} split: {_many(counts['frames'], 'frame')} of"
        f" {_many(counts['videos'], 'video')}, with {counts['classes_in_truth']} of {len(card.classes)} classes."
    ]
    if pd.notna(row["mIoU"]):
        said.append(f"The highest mIoU is {row['mIoU']:.2f} ({row['title']}).")
        others = table[[name.partition(".")[0] not in searched for name in table["prediction"]]]
        if split == SEARCHED_SPLIT and best not in set(others["prediction"]):
            said.append("Its weights were searched on these very frames, which flatters it.")
            if others["mIoU"].notna().any():
                honest = others.loc[others["mIoU"].idxmax()]
                said.append(f"The highest of the others is {honest['mIoU']:.2f} ({honest['title']}).")
    parts = [f"<p>{escape(' '.join(said))}</p>"]

    # What takes from the figures: frames left out, drawn data, a part of VSPW.
    if left_out := [item for item in card.left_out if item.split == split]:
        names = [one_line("/".join(filter(None, (item.video, item.frame))) or split) for item in left_out]
        named = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
        parts.append(
            notice(
                f"The scores are of fewer frames than the split lists: {_many(len(left_out), 'frame or video')} could"
                f" not be used and {'was' if len(left_out) == 1 else 'were'} left out ({named})."
            )
        )
    whole = VSPW_FRAMES.get(split)
    if card.drawn:
        parts.append(
            notice(
                "Drawn data. The videos were drawn by this project, so the scores show that every stage works and say"
                " nothing about real video; the paper's figures stand beside them for orientation only."
            )
        )
    elif card.name == "vspw" and whole is not None and counts["frames"] != whole:
        parts.append(
            notice(
                f"Real video, but not the whole of VSPW: {counts['frames']:,} of its {whole:,} {split} frames. The"
                " paper's figures are for the whole and stand here for orientation only."
            )
        )
    return "\n".join(parts)


def _sections(
    settings: ReportSettings,
    table: pd.DataFrame,
    charts: Mapping[str, Figure],
    logs: Mapping[str, pd.DataFrame],
    members: pd.DataFrame,
    rows: Sequence[FrameRow],
    card: Card,
    best: str,
    classes: Mapping[str, pd.DataFrame],
    ranks: pd.DataFrame,
) -> list[html.Section]:
    title = table.set_index("prediction")["title"][best]
    captions = CAPTIONS | {"per_class": CAPTIONS["per_class"].format(best=title)}
    headings = {"predictions": "Predictions", "per_class": "Classes", "curves": "Training"}
    drawn = {
        name: html.chart(figures.svg_text(figure, name=name, title=headings[name])) for name, figure in charts.items()
    }
    if logs:
        drawn["curves"] += html.plain_table(_trainings(logs))
    else:
        drawn["curves"], captions["curves"] = '<p class="note">Nothing was trained in this run.</p>', ""
    other = html_table(table, OTHER, with_titles=False)
    below = f'<details><summary>Other rules</summary><div class="scroll">{other}</div></details>'
    below += '<p><a href="#protocol">What the columns mean</a></p>'
    drawn["per_class"] += (
        "<details><summary>Every class of this prediction, and what its missed pixels are taken for</summary>"
        f"{html.plain_table(classes_table(classes[best]))}</details>"
    )
    section = html.Section
    parts = []
    if not ranks.empty:
        parts.append(section("ranks", "Ranks", captions["ranks"], html.plain_table(ranks)))
    if not members.empty:
        parts.append(section("members", "Members", captions["members"], html.plain_table(members)))
    return [
        section("table", "Scores", captions["table"], f'<div class="scroll">{html_table(table)}</div>{below}'),
        section("predictions", "Predictions", captions["predictions"], drawn["predictions"]),
        *parts,
        section("frames", "Frames", captions["overlays"], _VIEWER_LINK + html.frames(rows)),
        section("classes", "Classes", captions["per_class"], drawn["per_class"]),
        section("training", "Training", captions["curves"], drawn["curves"]),
        section("protocol", "Protocol", captions["protocol"], html.facts(_facts(settings, card)) + html.meanings(
            known((*SCORES, *PAPER, *OTHER), table))),
    ]  # fmt: skip


def _facts(settings: ReportSettings, card: Card) -> dict[str, str]:
    frames = ", ".join(f"{count:,} {split}" for split, count in sorted(card.frames.items()))
    return {
        "protocol": _PROTOCOL_WORDS[settings.protocol],
        "data": f"{card.name}, {'drawn by this project' if card.drawn else 'real'}: {frames} frames",
        "index": f"SHA-256 {card.sha256[:16]}",
        "scored": f"split {settings.split}; masks as distributed: {_mask_values(card)}, all else is ignored",
    }


def _mask_values(card: Card) -> str:
    """Returns which mask values are the classes, in words."""
    if card.coding.values == "colours":
        return f"{sum(train != IGNORE_INDEX for train in card.label_map)} colours are the {len(card.classes)} classes"
    ids = [raw for raw, train in enumerate(card.label_map) if train != IGNORE_INDEX]
    starts = [raw for raw in ids if raw - 1 not in ids]
    ends = [raw for raw in ids if raw + 1 not in ids]
    spans = [str(first) if first == last else f"{first}..{last}" for first, last in zip(starts, ends, strict=True)]
    return f"{', '.join(spans)} are the {len(card.classes)} classes"


def _trainings(logs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns one row per training, as text: iterations, loss over the last tenth, seconds per iteration, memory."""
    rows = []
    for title, history in logs.items():
        train = figures.losses(history)
        column = {name: train[name] if name in train else pd.Series(dtype=float) for name in ("seconds", "memory_mib")}
        rows.append(
            {
                "Training": title,
                "Iterations": f"{int(history['iter'].max()):,}" if len(history) else "0",
                "Loss": _or_dash(figures.last_loss(history), ".3g"),
                "s/iteration": _or_dash(column["seconds"].median(), ".2f"),
                "Memory, MiB": _or_dash(column["memory_mib"].max(), ",.0f"),
            }
        )
    return pd.DataFrame(rows)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _or_dash(value: float, form: str) -> str:
    return "\u2013" if pd.isna(value) else format(value, form)
