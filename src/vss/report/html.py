"""One page that holds everything: no other file, no network, no date, the same bytes for the same results."""

from __future__ import annotations

import html
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vss.core.images import data_url
from vss.report.overlays import FrameRow
from vss.report.table import Column

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Section:
    """A part of the page: anchor, heading, caption (plain text) and content (HTML)."""

    anchor: str
    heading: str
    caption: str
    content: str


def page(*, title: str, lead: str, sections: Sequence[Section]) -> str:
    """Returns the page.

    Args:
        title: plain text.
        lead: HTML between the title and the links to the sections.
        sections: in order.
    """
    links = "".join(f'<a href="#{part.anchor}">{html.escape(part.heading)}</a>' for part in sections)
    return document(
        title,
        f"<h1>{html.escape(title)}</h1>\n{lead}\n<nav>{links}</nav>\n" + "\n".join(_section(part) for part in sections),
    )


def table_page(*, title: str, caption: str, table: str) -> str:
    """Returns a page with the score table alone, for Snakemake's own report."""
    return document(title, f'<p class="caption">{html.escape(caption)}</p>\n<div class="scroll">{table}</div>')


def document(title: str, body: str, *, style: str = "") -> str:
    """Returns a whole page: `body` and `style` (CSS next to the report's own) are put in as they are."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{resource("page.css")}{style}</style>
</head>
<body>
{body}
<script>
{resource("page.js")}</script>
</body>
</html>
"""


def resource(name: str) -> str:
    """Returns the text of a file of this package."""
    return (importlib.resources.files("vss.report") / name).read_text(encoding="utf-8")


def _section(part: Section) -> str:
    caption = f'<p class="caption">{html.escape(part.caption)}</p>\n' if part.caption else ""
    return f'<section id="{part.anchor}">\n<h2>{html.escape(part.heading)}</h2>\n{caption}{part.content}\n</section>'


def facts(values: Mapping[str, str]) -> str:
    """Returns a list of what was run: name and value, plain text."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in values.items())
    return f'<dl class="facts">{items}</dl>'


def notice(text: str) -> str:
    """Returns a paragraph that stands out, from plain text."""
    return f'<p class="notice">{html.escape(text)}</p>'


def chart(svg: str) -> str:
    """Returns a figure of an `<svg>` element."""
    return f"<figure>{svg}</figure>"


def frames(rows: Sequence[FrameRow]) -> str:
    """Returns the frame rows: panels side by side where there is room, else under each other."""
    return "\n".join(_frame(row) for row in rows) or '<p class="note">No frame to show.</p>'


def _frame(row: FrameRow) -> str:
    name = f"{row.video} / {row.frame}"
    panels = "".join(
        f'<figure><span class="title">{html.escape(panel.title)}</span>'
        f'<img src="{data_url(panel.image, "jpeg", quality=_JPEG_QUALITY)}"'
        f' alt="{html.escape(f"{panel.title}, {name}")}" loading="lazy"'
        f' width="{panel.image.shape[1]}" height="{panel.image.shape[0]}">'
        f"<figcaption>{html.escape(panel.note)}</figcaption></figure>"
        for panel in row.panels
    )
    chips = "".join(
        f'<li><i style="background:rgb{colour}"></i>{html.escape(label)}</li>' for label, colour in row.legend
    )
    note = f'<span class="note">{html.escape(row.note)}</span>' if row.note else ""
    return f'<h3>{html.escape(name)}{note}</h3>\n<div class="frame">{panels}</div>\n<ul class="legend">{chips}</ul>'


def meanings(columns: Sequence[Column]) -> str:
    """Returns what each column of a score table means."""
    return facts({column.heading: column.meaning for column in columns})


def plain_table(table: pd.DataFrame) -> str:
    """Returns a small `<table>` of text, first column to the left."""
    first, *rest = (html.escape(name) for name in table.columns)
    head = f'<th scope="col" class="name">{first}</th>' + "".join(f'<th scope="col">{name}</th>' for name in rest)
    rows = "".join(
        f'<tr><th scope="row" class="name">{html.escape(str(first))}</th>'
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in rest)
        + "</tr>\n"
        for first, *rest in table.itertuples(index=False)
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
