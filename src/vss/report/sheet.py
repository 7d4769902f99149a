"""Lays frame rows out as one picture, for files; the page lays them out itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vss.core.log import one_line
from vss.report.overlays import FrameRow, scale_image

_PANEL, _MARGIN, _GAP, _LINE = 480, 32, 14, 26  # pixels
_INK, _MUTED = (31, 35, 40), (107, 114, 128)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along: the same picture on every machine.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def overlay_sheet(rows: Sequence[FrameRow]) -> np.ndarray:
    """Returns all frame rows under each other on white, RGB [h, w, 3] uint8."""
    columns = max((len(row.panels) for row in rows), default=1)
    width = 2 * _MARGIN + columns * _PANEL + (columns - 1) * _GAP
    parts = [_draw_row(row, width) for row in rows]
    if not parts:
        parts = [_message("no frame to show", width)]
    space = np.full((_MARGIN, width, 3), 255, np.uint8)
    return np.concatenate([space, *(piece for part in parts for piece in (part, space))])


def _message(text: str, width: int) -> np.ndarray:
    canvas = Image.new("RGB", (width, 2 * _LINE), "white")
    ImageDraw.Draw(canvas).text((_MARGIN, 8), text, _MUTED, _font(17))
    return np.asarray(canvas)


def _draw_row(row: FrameRow, width: int) -> np.ndarray:
    chips = _chips(row, width)
    pictures = [scale_image(panel.image, _PANEL) for panel in row.panels]
    titles = [_lines(panel.title, _PANEL) for panel in row.panels]
    picture, title_lines = pictures[0].shape[0], max(len(lines) for lines in titles)
    top = _LINE + 12 + title_lines * _LINE
    height = top + picture + 10 + _LINE + 12 + (chips[-1][1] + _LINE if chips else 0)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((_MARGIN, 0), one_line(f"{row.video} / {row.frame}"), _INK, _font(19, bold=True))
    pen.text((width - _MARGIN, 2), row.note, _MUTED, _font(17), anchor="ra")
    for position, (panel, lines, image) in enumerate(zip(row.panels, titles, pictures, strict=True)):
        left = _MARGIN + position * (_PANEL + _GAP)
        for above, line in enumerate(reversed(lines), start=1):
            pen.text((left, top - above * _LINE), line, _INK, _font(17))
        canvas.paste(Image.fromarray(image), (left, top))
        pen.text((left, top + picture + 8), panel.note, _MUTED, _font(17))
    for left, down, name, colour in chips:
        y = top + picture + 10 + _LINE + 12 + down
        pen.rounded_rectangle((left, y + 2, left + 18, y + 20), 4, colour)
        pen.text((left + 26, y), name, _INK, _font(17))
    return np.asarray(canvas)


def _lines(text: str, width: int) -> list[str]:
    """Returns the text broken at spaces into lines of at most `width` pixels (a longer word keeps its own line)."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(17).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _chips(row: FrameRow, width: int) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Returns where each class of the legend goes (left, down, name, colour), in lines of the sheet's width."""
    font = _font(17)
    placed, left, down = [], _MARGIN, 0
    for name, colour in row.legend:
        needed = 26 + int(font.getlength(name)) + 28
        if left + needed > width - _MARGIN and left > _MARGIN:
            left, down = _MARGIN, down + _LINE
        placed.append((left, down, name, colour))
        left += needed
    return placed
