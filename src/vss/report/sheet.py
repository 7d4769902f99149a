"""Lays frame rows out as one picture, for files; the page lays them out itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vss.report.overlays import PANEL_WIDTH, FrameRow

_MARGIN, _GAP, _LINE = 40, 16, 30
_INK, _MUTED = (31, 35, 40), (107, 114, 128)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along: the same picture on every machine.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def overlay_sheet(rows: Sequence[FrameRow]) -> np.ndarray:
    """Returns all frame rows under each other on white, RGB [h, w, 3] uint8."""
    columns = max((len(row.panels) for row in rows), default=1)
    width = 2 * _MARGIN + columns * PANEL_WIDTH + (columns - 1) * _GAP
    parts = [_draw_row(row, width) for row in rows]
    if not parts:
        parts = [_message("no frame to show", width)]
    space = np.full((_MARGIN, width, 3), 255, np.uint8)
    return np.concatenate([space, *(piece for part in parts for piece in (part, space))])


def _message(text: str, width: int) -> np.ndarray:
    canvas = Image.new("RGB", (width, 2 * _LINE), "white")
    ImageDraw.Draw(canvas).text((_MARGIN, 8), text, _MUTED, _font(20))
    return np.asarray(canvas)


def _draw_row(row: FrameRow, width: int) -> np.ndarray:
    chips = _chips(row, width)
    picture = row.panels[0].image.shape[0]
    top = _LINE + 12 + _LINE
    height = top + picture + 10 + _LINE + 12 + (chips[-1][1] + _LINE if chips else 0)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    _fitted(pen, (_MARGIN, 0), f"{row.video} / {row.frame}", width // 2, _font(22, bold=True), _INK)
    pen.text((width - _MARGIN, 2), row.note, _MUTED, _font(20), anchor="ra")
    for position, panel in enumerate(row.panels):
        left = _MARGIN + position * (PANEL_WIDTH + _GAP)
        _fitted(pen, (left, _LINE + 10), panel.title, PANEL_WIDTH, _font(20), _INK)
        canvas.paste(Image.fromarray(panel.image), (left, top))
        _fitted(pen, (left, top + picture + 8), panel.note, PANEL_WIDTH, _font(20), _MUTED)
    for left, down, name, colour in chips:
        y = top + picture + 10 + _LINE + 12 + down
        pen.rounded_rectangle((left, y + 2, left + 22, y + 22), 4, colour)
        pen.text((left + 30, y), name, _INK, _font(19))
    return np.asarray(canvas)


def _fitted(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, font, colour) -> None:
    if pen.textlength(text, font) > width:
        while text and pen.textlength(text + "\u2026", font) > width:
            text = text[:-1]
        text += "\u2026"
    pen.text(at, text, colour, font)


def _chips(row: FrameRow, width: int) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Returns where each class of the legend goes (left, down, name, colour), in lines of the sheet's width."""
    font = _font(19)
    placed, left, down = [], _MARGIN, 0
    for name, colour in row.legend:
        needed = 30 + int(font.getlength(name)) + 28
        if left + needed > width - _MARGIN and left > _MARGIN:
            left, down = _MARGIN, down + _LINE
        placed.append((left, down, name, colour))
        left += needed
    return placed
