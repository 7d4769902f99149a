"""Writes the report of a run: tables, figures, pages, and a machine-readable copy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vss.configs.schema import read_section
from vss.configs.sections import ReportOptions
from vss.core.csv_file import write_csv
from vss.core.errors import UserError
from vss.core.files import JsonObject, StrPath, atomic_path, read_json, write_json, write_text
from vss.core.index import Card, read_dataset
from vss.core.log import log, one_line
from vss.core.page.document import notice
from vss.report import figures, html
from vss.report.ablation import ablation_rows
from vss.report.classes import class_names, taken_for
from vss.report.content import Content
from vss.report.costs import JobCost, prediction_seconds, read_jobs, stage_costs
from vss.report.crate import crate
from vss.report.lead import remarks
from vss.report.made import what_was_run
from vss.report.members import members_table
from vss.report.overlays import FrameRow, Predictions, class_colours, frame_rows
from vss.report.paper import rows_not_run
from vss.report.ranks import rank_predictions, ranks_table
from vss.report.record import report_record
from vss.report.refinement import refinements
from vss.report.sections import CAPTIONS, calibrated, page_data, page_sections
from vss.report.sheet import overlay_sheet
from vss.report.table import ReportRow, html_table, markdown_table, score_table
from vss.report.trainings import training_rows
from vss.report.viewer import Video, places, read_videos, viewer_page
from vss.score.bootstrap import load_confusions

# What the metadata say of each file.
FILES = {  # of the folder of a report
    "html": "report.html",
    "viewer": "viewer.html",
    "record": "report.json",
    "crate": "ro-crate-metadata.json",
    "table_csv": "table.csv",
    "table_md": "table.md",
    "table_html": "table.html",
    "predictions": "predictions.png",
    "per_class": "per_class.png",
    "scatter": "scatter.png",
    "ranks": "ranks.html",
    "confusions": "confusions.png",
    "reliability": "reliability.png",
    "curves": "training_curves.png",
    "overlays": "overlays.png",
}
_HOLDS = {
    "html": "the report",
    "viewer": "videos with their truth and predictions",
    "record": "all that the report shows, machine-readable",
    "table_csv": "scores of all predictions, percent",
    "table_md": "scores of all predictions",
    "table_html": "scores of all predictions",
    "predictions": "predictions by mIoU",
    "per_class": "IoU of every class",
    "scatter": "mIoU against video consistency and cost",
    "ranks": "ranks of all predictions where other videos are drawn",
    "confusions": "what the prediction with the highest mIoU takes for what",
    "reliability": "how often pixels are labelled right by how sure the class scores are",
    "curves": "training loss over iterations",
    "overlays": "frames with their labels over them",
}


@dataclass(frozen=True, kw_only=True)
class ReportSettings(ReportOptions):
    """Settings of the report; the schema has their defaults and meaning (`report` and `report_job`)."""

    rows: tuple[ReportRow, ...]
    split: str
    protocol: str
    titles: Mapping[str, str]
    shown: tuple[str, ...]
    trainings: tuple[str, ...]
    members: Mapping[str, list[str]]
    jobs: Mapping[str, list[str]]


@dataclass(frozen=True)
class ReportInputs:
    """Files that the report is made of.

    Attributes:
        scores, per_class, per_video: by prediction.
        logs: by training ("stage/model").
        labels: by prediction shown, its shards.
        chosen: results of weight searches, by ensemble.
        refiners_chosen: results of searches of a refiner's settings, by the prediction that it makes.
        draws: figures of drawn videos, by prediction.
        fingerprints: of the weights in use, by "stage/model".
        config: the config of the run; it may be missing.
        results: folder with the benchmark files, logs and results of all stages, whose cost is shown; None for none.
    """

    scores: Mapping[str, StrPath]
    per_class: Mapping[str, StrPath]
    logs: Mapping[str, StrPath]
    labels: Mapping[str, Sequence[StrPath]]
    per_video: Mapping[str, StrPath] = field(default_factory=dict)
    chosen: Mapping[str, StrPath] = field(default_factory=dict)
    refiners_chosen: Mapping[str, StrPath] = field(default_factory=dict)
    draws: Mapping[str, StrPath] = field(default_factory=dict)
    fingerprints: Mapping[str, StrPath] = field(default_factory=dict)
    config: StrPath | None = None
    results: StrPath | None = None


def report(
    *,
    settings: JsonObject,
    inputs: JsonObject,
    index: str | os.PathLike,
    card: str | os.PathLike,
    folder: str | os.PathLike,
) -> None:
    """Writes tables, figures and the pages.

    Args:
        settings: see `ReportSettings`.
        inputs: see `ReportInputs`.
        index, card: the prepared dataset.
        folder: where to write `FILES`.

    Raises:
        UserError: a file is missing or broken, or a setting names what does not exist.
    """
    out = {name: Path(folder, file) for name, file in FILES.items()}
    given = read_section(ReportSettings, "report_job", settings, where="report")
    options, found = _with_plain_titles(given), ReportInputs(**inputs)
    frames, dataset = read_dataset(index, card)
    of_split = frames[frames["split"] == options.split]
    colours = class_colours(dataset.classes, options.colours, dataset.colours)

    # Read what the run left, and show label maps: some frames on the page, some videos in the viewer.
    with _predictions(options, found.labels) as shown:
        rows = _frames(options, shown, of_split, dataset, colours)
        videos = read_videos(
            rows=of_split,
            card=dataset,
            predictions=shown,
            shown=_videos(options.videos, of_split, rows),
            megabytes=options.video_megabytes,
        )
        content = _content(options, found, dataset, rows, shown, videos)
        viewer = viewer_page(
            title=f"Videos: {content.title}",
            card=dataset,
            predictions=shown,
            videos=videos,
            colours=colours,
            megabytes=options.video_megabytes,
        )
    write_text(out["viewer"], viewer)

    # Draw the figures that are files of their own.
    charts = {
        "predictions": figures.predictions_figure(content.table),
        "per_class": figures.per_class_figure(content.per_class, prediction=content.best),
        "scatter": figures.scatter_figure(content.table, content.seconds),
        "reliability": figures.reliability_figure(calibrated(content)),
        "confusions": _confusions_of(content, content.best),
        "curves": figures.curves_figure(content.logs),
    }
    for name, figure in charts.items():
        figures.write_png(out[name], figure)
    with atomic_path(out["overlays"]) as aside:
        _, encoded = cv2.imencode(".png", cv2.cvtColor(overlay_sheet(rows), cv2.COLOR_RGB2BGR))
        aside.write_bytes(encoded.tobytes())

    # Write the table by itself, the page, and the copy for programs.
    write_csv(out["table_csv"], content.table)
    write_text(out["table_md"], markdown_table(content.table))
    scores = html_table(content.table, not_run=content.not_run)
    write_text(out["table_html"], html.table_page(title=content.title, caption=CAPTIONS["table"], table=scores))
    ranks = (
        html.plain_table(ranks_table(content.ranks)) if content.ranks else notice("No two predictions can be ranked.")
    )
    ranks = f'<section id="ranks">{ranks}</section>'  # whose style is that of the page's section
    write_text(out["ranks"], html.table_page(title=content.title, caption=CAPTIONS["ranks"], table=ranks))
    page = html.page(
        title=content.title,
        remarks=content.remarks,
        sections=page_sections(content, charts["reliability"]),
        data=page_data(content),
    )
    write_text(out["html"], page)
    write_json(out["record"], report_record(content))
    _write_crate(content, out["crate"])
    _log_sizes(page)
    log(f"report: {len(content.table)} predictions, {len(rows)} frames in {out['html']}")


def _confusions_of(content: Content, prediction: str) -> Figure:
    """Returns the matrix of one prediction."""
    table, classes = content.per_class[prediction], content.card.classes
    taken = taken_for(table, classes, content.confusions.get(prediction))
    return figures.confusions_figure(class_names(classes), table["pixels_truth"].tolist(), taken)


def _content(
    options: ReportSettings,
    found: ReportInputs,
    dataset: Card,
    rows: Sequence[FrameRow],
    shown: Sequence[Predictions],
    videos: Sequence[Video],
) -> Content:
    """Returns all that the report shows, from what the run left."""
    table = score_table(options.rows, found.scores)
    best = _best(table)
    scores = {name: read_json(found.scores[name]) for name in table["prediction"]}
    counts = {name: each["counts"] for name, each in scores.items()}
    names = [one_line(name) for name in dataset.classes]
    classes = {name: pd.read_csv(found.per_class[name]).assign(**{"class": names}) for name in table["prediction"]}
    confusions = {name: load_confusions(found.draws[name]) for name in classes if name in found.draws}
    read = {key: figures.read_log(found.logs[key]) for key in options.trainings}
    logs = {_training_title(key, options): log for key, log in read.items()}
    jobs = [] if found.results is None else read_jobs(found.results, read)
    seconds = _seconds_per_frame(options, jobs, counts[best]["frames"])
    return Content(
        title=options.title or f"Video semantic segmentation on {dataset.name}",
        split=options.split,
        card=dataset,
        remarks=remarks(
            table,
            split=options.split,
            card=dataset,
            counts=counts[best],
            best=best,
            searched=(*found.chosen, *found.refiners_chosen),
        ),
        table=table,
        not_run=rows_not_run(options.rows),
        best=best,
        ranks=rank_predictions(table, found.draws),
        reliability={name: each["reliability"] for name, each in scores.items() if each.get("reliability")},
        refinements=refinements(
            table,
            found.draws,
            counts,
            per_class=classes,
            per_video=_videos_of(found, table),
            seconds=seconds,
            searches={name: read_json(path) for name, path in found.refiners_chosen.items()},
        ),
        ablation=ablation_rows(options.ablation, table, found.draws, needed=options.jobs, jobs=jobs),
        members=members_table(found.chosen, options.titles),
        searches={name: read_json(path) for name, path in found.chosen.items()},
        per_class=classes,
        confusions={name: cells for name, cells in confusions.items() if cells is not None},
        logs=logs,
        trainings=training_rows(logs),
        costs=[] if found.results is None else stage_costs(found.results, jobs),
        seconds=seconds,
        made=what_was_run(
            protocol=options.protocol,
            split=options.split,
            card=dataset,
            config=read_json(found.config) if found.config is not None and Path(found.config).exists() else {},
            fingerprints=found.fingerprints,
        ),
        frames=rows,
        shown=options.shown,
        videos=videos,
        places=places(videos, dataset.classes, len(shown)),
    )


def _videos_of(found: ReportInputs, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    tables = {name: pd.read_csv(found.per_video[name]) for name in table["prediction"] if name in found.per_video}
    return {name: rows.assign(video=[one_line(str(video)) for video in rows["video"]]) for name, rows in tables.items()}


def _seconds_per_frame(options: ReportSettings, jobs: Sequence[JobCost], frames: int) -> dict[str, float]:
    return {
        row.name: prediction_seconds(row.name, jobs, split=options.split, members=options.members) / max(1, frames)
        for row in options.rows
    }


def _write_crate(content: Content, path: Path) -> None:
    """Writes the metadata of the folder; they are no sealed JSON, as their vocabulary has no checksum."""
    files = {FILES[key]: holds for key, holds in _HOLDS.items()}
    metadata = crate(
        title=content.title,
        description=" ".join(remark.text for remark in content.remarks),
        made=content.made,
        files=files,
        folder=path.parent,
    )
    write_text(path, json.dumps(metadata, indent=2) + "\n")


def _log_sizes(page: str) -> None:
    """Logs what the page's size is made of."""
    charts = sum(len(chart) for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    pictures = sum(len(url) for url in re.findall(r"data:image/[^\"]*", page))
    log(
        f"report: the page takes {len(page) / 1e6:.1f} MB: charts {charts / 1e6:.1f} MB (SVG, drawn by matplotlib),"
        f" pictures {pictures / 1e6:.1f} MB"
    )


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
