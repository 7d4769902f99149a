"""One label map as the challenge, or a dataset's own evaluation, expects it: the name and the bytes of its PNG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

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
    return _png(label_picture(labels, palette))


class MaskPngs:
    """Writes label maps as a dataset's own masks hold them, which is what its evaluation reads.

    Raw ids as grey of 8 bits, or of 16 where one is above 255; in the red channel; or as the class table's colours. Of
    several raw ids of a class the lowest is written; of no class, the first one that is ignored (else 255, or black).

    Args:
        dataset: its masks.
    """

    def __init__(self, dataset: Card) -> None:
        table, coding = dataset.raw_to_train, dataset.coding
        ignored = dataset.ignored[0] if dataset.ignored else dataset.ignore_index
        self._raw_of = np.full(dataset.ignore_index + 1, ignored, np.uint16)
        for raw in reversed(range(len(table))):
            if table[raw] != dataset.ignore_index:
                self._raw_of[table[raw]] = raw
        self._values, self._deep = coding.values, int(np.max(self._raw_of)) > 255
        self._colours = np.array([*coding.colours, (0, 0, 0)], np.uint8)

    def png(self, labels: np.ndarray) -> bytes:
        """Returns a label map [H, W] as a PNG."""
        raw = self._raw_of[labels]
        if self._values == "colours":
            return _png(Image.fromarray(self._colours[np.minimum(raw, len(self._colours) - 1)]))
        if self._values == "red":
            none = np.zeros_like(raw)
            return _png(Image.fromarray(np.dstack([raw, none, none]).astype(np.uint8)))
        return _png(Image.fromarray(raw if self._deep else raw.astype(np.uint8)))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
