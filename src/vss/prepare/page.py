"""The check report as a page: counts by split, size and class, warnings, and problems with pictures of their files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2

from vss.core.errors import UserError
from vss.core.files import JsonObject
from vss.core.images import data_url, read_image
from vss.core.page.document import document, notice, table

_PROBLEMS_SHOWN = 500
_SIZES_SHOWN = 50  # the most frequent ones
_PICTURES = 24  # of problems' files; more would make the page slow
_PICTURE_SIDE = 120  # pixels
_STYLE = "td img { image-rendering: pixelated; }\n"


def check_page(report: JsonObject) -> str:
    """Returns the HTML page, which needs no other file, of a check report (`prepare.run.prepare`)."""
    title = f"{report['dataset']}: check report"
    counts, pixels = report["counts"], report["pixels"]
    splits = sorted({*counts["frames"], *pixels}, key=("train", "val", "test").index)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="caption">{escape(report["root"])} &middot; checks: {escape(report["checks"])}</p>',
        *map(notice, report["warnings"]),
        "<h2>Frames</h2>",
        table(
            ("split", "videos", "frames"),
            [(split, counts["videos"].get(split, 0), counts["frames"].get(split, 0)) for split in splits],
        ),
        "<h2>Sizes, width x height</h2>",
        table(("size", "frames"), list(counts["sizes"].items())[:_SIZES_SHOWN]),
    ]
    if pixels:
        shares = {split: sum(pixels.get(split, {}).values()) for split in splits if split in pixels}
        names = dict.fromkeys(name for split in shares for name in pixels[split])
        rows = [
            (name, *(_share(pixels[split].get(name, 0), total) for split, total in shares.items())) for name in names
        ]
        parts += ["<h2>Classes, share of the labelled pixels</h2>", table(("class", *shares), rows)]
    parts += _problems(report["problems"], Path(report["root"]))
    return document(title, "\n".join(parts), style=_STYLE)


def _share(pixels: int, total: int) -> str:
    return f"{pixels / total:.2%}" if pixels else "\u2013"


def _problems(problems: Sequence[Mapping[str, str]], root: Path) -> list[str]:
    if not problems:
        return ["<h2>Problems</h2><p>None.</p>"]
    lines = []
    for number, problem in enumerate(problems[:_PROBLEMS_SHOWN]):
        picture = _picture(root / problem["file"]) if number < _PICTURES else ""
        texts = "".join(f"<td>{escape(problem[key])}</td>" for key in ("file", "kind", "found", "allowed", "action"))
        lines.append(f"<tr><td>{picture}</td>{texts}</tr>")
    more = f"<p>and {len(problems) - _PROBLEMS_SHOWN:,} more</p>" if len(problems) > _PROBLEMS_SHOWN else ""
    names = ("picture", "file", "kind", "found", "allowed", "what is done")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = f'<table class="text"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return [f'<h2>{len(problems):,} problems</h2><div class="scroll">{body}</div>{more}']


def _picture(path: Path) -> str:
    """Returns a small picture of a file in the page itself; nothing where it cannot be decoded."""
    with contextlib.suppress(UserError):
        image = read_image(path)
        factor = _PICTURE_SIDE / max(image.shape[:2])
        size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
        small = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
        return f'<img alt="" src="{data_url(small, "png")}">'
    return ""
