"""One page that holds everything: no other file, no network, no date, the same bytes for the same results."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import pandas as pd

from vss.core.images import data_url
from vss.core.page.document import document, legend, notice, resource, table
from vss.report.lead import Remark
from vss.report.overlays import FrameRow
from vss.report.table import Column
from vss.report.viewer import Video

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Section:
    """A part of the page: anchor, heading, caption (plain text) and content (HTML)."""

    anchor: str
    heading: str
    caption: str
    content: str


def page(*, title: str, remarks: Sequence[Remark], sections: Sequence[Section], data: str) -> str:
    """Returns the page.

    Args:
        title: plain text.
        remarks: between the title and the links to the sections.
        sections: in order.
        data: elements that the page's script reads.
    """
    lead = "\n".join(
        notice(remark.text) if remark.is_notice else f"<p>{html.escape(remark.text)}</p>" for remark in remarks
    )
    links = "".join(f'<a href="#{part.anchor}">{html.escape(part.heading)}</a>' for part in sections)
    head = f'<h1>{html.escape(title)}</h1>\n{lead}\n<nav class="scroll" aria-label="Sections">{links}</nav>'
    return report_document(title, "\n".join([head, "<main>", *map(_section, sections), "</main>", data]))


def table_page(*, title: str, caption: str, table: str) -> str:
    """Returns a page with one table alone, for Snakemake's own report."""
    return report_document(title, f'<p class="caption">{html.escape(caption)}</p>\n{table}')


def report_document(title: str, body: str) -> str:
    """Returns a whole page with the report's own style and script."""
    return document(title, body, style=resource("vss.report", "report.css"), script=resource("vss.report", "report.js"))


def _section(part: Section) -> str:
    caption = f'<p class="caption">{html.escape(part.caption)}</p>\n' if part.caption else ""
    heading = html.escape(part.heading)
    opened = f'<section id="{part.anchor}" aria-label="{heading}">\n<h2>{heading}</h2>'
    return f"{opened}\n{caption}{part.content}\n</section>"


def facts(values: Mapping[str, str]) -> str:
    """Returns a list of what was run: name and value, plain text."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in values.items())
    return f'<dl class="facts">{items}</dl>'


def charts(svgs: Iterable[str]) -> str:
    """Returns a figure of `<svg>` elements, next to each other where there is room."""
    return f'<figure class="charts">{"".join(svgs)}</figure>'


def frames(rows: Sequence[FrameRow], videos: Sequence[Video]) -> str:
    """Returns the frame rows: panels side by side where there is room, else under each other.

    Args:
        rows: in order.
        videos: that the viewer holds, where a row's heading leads.
    """
    held = {(video.name, frame) for video in videos for frame in video.frames}
    return (
        "\n".join(_frame(row, (row.video, row.frame) in held) for row in rows)
        or '<p class="note">No frame to show.</p>'
    )


def _frame(row: FrameRow, is_held: bool) -> str:
    name = f"{row.video} / {row.frame}"
    heading = html.escape(name)
    if is_held:
        heading = f'<a href="viewer.html#{urlencode({"video": row.video, "frame": row.frame})}">{heading}</a>'
    panels = "".join(
        f'<figure><span class="title">{html.escape(panel.title)}</span>'
        f'<img src="{data_url(panel.image, "jpeg", quality=_JPEG_QUALITY)}"'
        f' alt="{html.escape(f"{panel.title}, {name}")}" loading="lazy"'
        f' width="{panel.image.shape[1]}" height="{panel.image.shape[0]}">'
        f"<figcaption>{html.escape(panel.note)}</figcaption></figure>"
        for panel in row.panels
    )
    note = f'<span class="note">{html.escape(row.note)}</span>' if row.note else ""
    return f'<h3>{heading}{note}</h3>\n<div class="frame">{panels}</div>\n{legend(row.legend)}'


def meanings(columns: Sequence[Column]) -> str:
    """Returns what each column of a score table means."""
    return facts({column.heading: column.meaning for column in columns})


def plain_table(content: pd.DataFrame, *, text: bool = False) -> str:
    """Returns a small `<table>`; see `vss.core.page.document.table`."""
    return table([str(name) for name in content.columns], content.itertuples(index=False), text=text)
