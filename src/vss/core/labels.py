"""The label spaces that come with this project, and the palettes of label maps.

VSPW (dataset README, VSPW_baseline dataset.py): masks hold 0 = others, 1..124 = classes, 255 = void;
train id = raw - 1.
COCO-Stuff164k (stuffthingmaps): raw 0..181 with eleven unused ids, 255 = unlabelled; the 171 train ids are the used raw
ids in ascending order. There is no zero label to shift: raw 0 is `person`.
Both tables, and those of other published datasets, are in src/vss/core/classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vss.core.class_table import shipped_space
from vss.core.label_space import IGNORE_INDEX, LabelSpace, ignore_index, label_dtype

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "COCO_STUFF",
    "IGNORE_INDEX",
    "LABEL_SPACES",
    "VSPW",
    "LabelSpace",
    "label_picture",
    "overlay_palette",
    "submission_palette",
]

VSPW, COCO_STUFF = shipped_space("vspw"), shipped_space("coco_stuff")

LABEL_SPACES = {space.name: space for space in (VSPW, COCO_STUFF)}


def _bit_reversed_colours(count: int = 256) -> np.ndarray:
    """Returns PASCAL VOC's colour map [count, 3] uint8: the bits of the id dealt to R, G, B from the top."""
    ids = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def overlay_palette(colours: Sequence[str] = (), *, num_classes: int = 0) -> np.ndarray:
    """Returns RGB colours [256, 3] uint8 indexed by train id, distinct for every class; the ignore index is black.

    Args:
        colours: "#rrggbb" by train id that override these where they are not "" (`LabelSpace.colours`).
        num_classes: of more than 255 the palette has 65,536 colours.
    """
    ignored = ignore_index(label_dtype(num_classes))
    palette = np.roll(_bit_reversed_colours(ignored + 1), -1, axis=0)
    for position, colour in enumerate(colours):
        if colour:
            palette[position] = tuple(bytes.fromhex(colour.removeprefix("#")))
    palette[ignored] = 0
    return palette


def label_picture(labels: np.ndarray, palette: np.ndarray) -> Image:
    """Returns a label map [H, W] as a picture: uint8 of mode P, uint16 as 16-bit grey, which has no palette.

    Args:
        labels: train ids.
        palette: [256, 3] uint8; not used for uint16.
    """
    from PIL.Image import fromarray

    picture = fromarray(labels)
    if labels.dtype == np.uint8:
        picture.putpalette(palette.tobytes())  # turns L into P
    return picture


def submission_palette() -> np.ndarray:
    """Returns the official palette [256, 3] uint8 of VSPW's P-mode PNGs (VSPW_baseline test.py `_palette`).

    It is DAVIS's: VOC colours for the first 22 entries (with 191 where VOC has 192), then greys. Indexed by the stored
    value, that is by train id in a submission.
    """
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    head = _bit_reversed_colours(22)
    palette[:22] = np.where(head == 192, 191, head)
    return palette
