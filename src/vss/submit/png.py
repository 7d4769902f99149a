"""One label map as the challenge wants it: the name and the bytes of its PNG."""

from __future__ import annotations

import io

import numpy as np

from vss.core.errors import UserError
from vss.core.index import Card
from vss.core.labels import VSPW, label_picture, submission_palette


def entry_name(video: str, frame: str) -> str:
    """Returns `video/frame.png`; an id that would leave its folder is refused.

    Raises:
        UserError: the id is empty, ".", "..", or holds a separator of folders.
    """
    for part in (video, frame):
        if not part or part in (".", "..") or any(sign in part for sign in "/\\\0"):
            raise UserError(f"id {part!r} cannot be a file name in a submission")
    return f"{video}/{frame}.png"


def palette_of(dataset: Card) -> np.ndarray:
    """Returns the palette [256 or 65536, 3] uint8 of a dataset's submissions: VSPW's official one, or its own."""
    return submission_palette() if dataset.label_space == VSPW.name else dataset.palette()


def png_of_labels(labels: np.ndarray, palette: np.ndarray) -> bytes:
    """Returns a label map [H, W] as a PNG (`label_picture`)."""
    buffer = io.BytesIO()
    label_picture(labels, palette).save(buffer, format="PNG")
    return buffer.getvalue()
