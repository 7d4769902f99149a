"""The skeleton of every HTML page that is written: one file that needs no other and no network, for light and dark."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Returns a whole page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS next to that of all pages.
        script: JavaScript that runs once the body is there; no text of a user may be part of it.
    """
    run = f"<script>\n{script}</script>\n" if script else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{resource("vss.core.page", "page.css")}{style}</style>
</head>
<body>
{body}
{run}</body>
</html>
"""


@functools.cache
def resource(package: str, name: str) -> str:
    """Returns the text of a file of a package."""
    return (importlib.resources.files(package) / name).read_text(encoding="utf-8")


def json_script(name: str, content: Any) -> str:
    """Returns an element that holds data for the page's script, which finds it by its id `name`; NaN is refused."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    # A script element ends at the first "</": no name may write one.
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def notice(text: str) -> str:
    """Returns a paragraph that stands out, from plain text."""
    return f'<p class="notice">{escape(text)}</p>'


def legend(entries: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Returns a list of names, plain text, each behind a square of its RGB colour."""
    items = "".join(
        f'<li><i style="background:rgb{tuple(map(int, colour))}"></i>{escape(name)}</li>' for name, colour in entries
    )
    return f'<ul class="legend">{items}</ul>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, text: bool = False) -> str:
    """Returns a `<table>` of plain text whose first column names the rows.

    Args:
        head: the columns' headings.
        rows: one cell per column each; whole numbers get their thousands separated.
        text: whether all columns hold text, such as keys and paths, which starts at their left; else those after the
            first hold figures, which end at their right.
    """
    cell = breakable if text else _cell
    first, *rest = (escape(name) for name in head)
    headings = f'<th scope="col" class="name">{first}</th>' + "".join(f'<th scope="col">{name}</th>' for name in rest)
    lines = "".join(
        f'<tr><th scope="row" class="name">{cell(first)}</th>'
        + "".join(f"<td>{cell(value)}</td>" for value in rest)
        + "</tr>\n"
        for first, *rest in rows
    )
    kind = ' class="text"' if text else ""
    content = f"<thead><tr>{headings}</tr></thead>\n<tbody>\n{lines}</tbody>"
    return f'<div class="scroll"><table{kind}>\n{content}</table></div>'


def breakable(text: str) -> str:
    """Returns plain text as HTML, where a line may break after the dots, slashes and underscores of keys and paths."""
    return re.sub(r"(?<=[./_])(?=\w)", "<wbr>", escape(text))


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
