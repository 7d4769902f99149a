"""A comparison as one HTML page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vss.core.page.document import breakable, document, notice, table
from vss.score.compare_pictures import Pictures

_NONE = "\u2013"
_STYLE = """
.frame { display: grid; grid-template-columns: repeat(3, minmax(0, 20rem)); gap: .6rem; }
.frame figure { margin: 0; }
.frame img { display: block; width: 100%; height: auto; border-radius: 3px; }
.frame figcaption { color: var(--muted); font-size: .88rem; }
"""


def comparison_page(comparison: Mapping[str, Any], pictures: Sequence[Pictures]) -> str:
    """Returns the page of what `vss.score.compare.compare` found, figures in percent.

    Args:
        comparison: what was found.
        pictures: of some of the frames of each prediction.
    """
    title = f"{comparison['first']} and {comparison['second']}"
    predictions = comparison["predictions"]
    parts = [
        f"<h1>{breakable(title)}</h1>",
        f"<p>Split {escape(comparison['split'])}. A difference is the second minus the first, with its 95% interval"
        " over videos drawn again, the same ones for both; it is noise where the interval holds 0.</p>",
    ]
    if len(predictions) > 1:
        links = (f'<a href="#p{at}">{escape(one["name"])}</a>' for at, one in enumerate(predictions))
        parts.append(f"<nav>{''.join(links)}</nav>")
    for which in ("first", "second"):
        if only := comparison.get(f"only_{which}"):
            parts.append(notice(f"Only in {comparison[which]}: {', '.join(only)}"))
    parts += [
        _prediction(one, drawn, f"p{at}") for at, (one, drawn) in enumerate(zip(predictions, pictures, strict=True))
    ]
    return document(title, "\n".join(parts), style=_STYLE)


def _prediction(found: Mapping[str, Any], pictures: Pictures, anchor: str) -> str:
    """Returns the part of one prediction."""
    figures = [
        (name, *_values(figure), _interval(figure["interval"]), _verdict(figure))
        for name, figure in found["figures"].items()
        if figure["difference"] is not None
    ]
    changed = [(key, *map(json.dumps, values)) for key, values in found["settings"].items()]
    columns = ("first", "second", "difference")
    parts = [
        f'<section id="{anchor}">\n<h2>{breakable(found["name"])}</h2>',
        f"<p>{found['videos']:,} videos</p>",
        table(("figure", *columns, "95% interval", "verdict"), figures),
        "<h3>Settings that differ</h3>",
        table(("key", "first", "second"), changed, text=True) if changed else '<p class="note">None is known of.</p>',
        *(_alone(which, found[f"only_{which}"]) for which in ("first", "second") if found[f"only_{which}"]),
    ]
    for what, rows in found["frames"].items():
        if rows:
            parts += [
                _frame(what, row, pictures[key]) for row in rows if (key := (row["video"], row["frame"])) in pictures
            ]
            shown = [(f"{row['video']} / {row['frame']}", *_values(row)) for row in rows]
            parts.append(_folded(f"Frames that {what} most (share of pixels labelled right)", "frame", shown))
    for kind, figure in (("class", "IoU"), ("video", "mIoU")):
        shown = [(row[kind], *_values(row)) for row in found[f"per_{kind}"]]
        parts.append(_folded(f"Every {kind} ({figure}), the largest loss first", kind, shown))
    return "\n".join([*parts, "</section>"])


def _alone(which: str, settings: Mapping[str, Any]) -> str:
    """Returns the settings that only one of both has, folded to their keys."""
    heading = breakable(f"Only the {which} has: {', '.join(settings)}")
    shown = table(("key", which), [(key, json.dumps(value)) for key, value in settings.items()], text=True)
    return f"<details><summary>{heading}</summary>{shown}</details>"


def _frame(what: str, row: Mapping[str, Any], pictures: Sequence[tuple[str, str]]) -> str:
    """Returns the pictures of a frame next to each other."""
    name, (first, second, change) = f"{row['video']} / {row['frame']}", _values(row)
    notes = {"first": f"first, {first}% right", "second": f"second, {second}% right"}
    panels = "".join(
        f'<figure><img src="{url}" alt="{escape(f"{name}, {of}")}">'
        f"<figcaption>{notes.get(of, of)}</figcaption></figure>"
        for of, url in pictures
    )
    return f'<h3>{escape(name)} {what} {change}</h3>\n<div class="frame">{panels}</div>'


def _folded(heading: str, first: str, rows: Iterable[Sequence[Any]]) -> str:
    shown = table((first, "first", "second", "difference"), rows)
    return f"<details><summary>{escape(heading)}</summary>{shown}</details>"


def _values(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns both values and their difference in percent."""
    return f"{100 * row['first']:.2f}", f"{100 * row['second']:.2f}", f"{100 * row['difference']:+.2f}"


def _interval(interval: Sequence[float] | None) -> str:
    return _NONE if interval is None else f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _verdict(figure: Mapping[str, Any]) -> str:
    return {True: "noise", False: "", None: _NONE}[figure["noise"]]
