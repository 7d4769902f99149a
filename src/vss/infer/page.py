"""The web page of a prediction: pictures next to their overlays in one file that needs no network."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from vss.core.images import data_url
from vss.core.order import natural_key
from vss.core.page.document import document, legend

_WIDTH = 480  # of the pictures, in pixels
_PICTURES = 24  # per input, at most; those of a video are spread over it
_QUALITY = 85

_STYLE = """
.frames { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
.frames figure { display: grid; grid-template-columns: 1fr 1fr; gap: .2rem; }
.frames figcaption { grid-column: 1 / -1; }
"""


@dataclass
class Gallery:
    """The pictures of one input: at most `_PICTURES`, every first, second, fourth, ... of those offered.

    Attributes:
        title: of the input.
        palette: RGB colours [C or more, 3] uint8 by train id.
        counts: [rows of the palette] pixels by train id.
    """

    title: str
    palette: np.ndarray
    counts: np.ndarray = field(init=False)
    _pictures: list[tuple[int, str, str, str]] = field(default_factory=list)  # number, name, image, overlay
    _offered: int = 0
    _step: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.palette), np.int64)

    def add(self, name: str, image: np.ndarray, overlay: np.ndarray, labels: np.ndarray) -> None:
        """Counts a frame's classes, and keeps its image and overlay [H, W, 3] uint8 RGB if its number is due."""
        with self._lock:  # frames are finished in parallel threads
            number, self._offered = self._offered, self._offered + 1
            self.counts += np.bincount(labels.ravel(), minlength=len(self.counts))
            if number % self._step:
                return
            self._pictures.append((number, name, _embedded(image), _embedded(overlay)))
            if len(self._pictures) > _PICTURES:
                self._step *= 2
                self._pictures = [picture for picture in self._pictures if picture[0] % self._step == 0]

    def section(self, classes: Sequence[str]) -> str:
        """Returns the part of the page: the classes with their shares of the pixels, and the pictures by name."""
        total = max(int(self.counts.sum()), 1)
        ids = [int(label) for label in np.argsort(-self.counts, kind="stable") if self.counts[label]]
        chips = legend(
            (f"{_class_name(classes, label)} {self.counts[label] / total:.1%}", self.palette[label]) for label in ids
        )
        figures = "\n".join(
            f'<figure><img src="{image}" alt="" loading="lazy"><img src="{overlay}" alt="prediction" loading="lazy">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
            for _, name, image, overlay in sorted(self._pictures, key=lambda picture: natural_key(picture[1]))
        )
        shown = f"{len(self._pictures)} of {self._offered} frames" if self._offered > len(self._pictures) else ""
        return (
            f'<h2>{html.escape(self.title)}</h2>\n<p class="note">{shown}</p>\n{chips}\n'
            f'<div class="frames">\n{figures}\n</div>'
        )


def prediction_page(galleries: Sequence[Gallery], *, model: str, classes: Sequence[str]) -> str:
    """Returns the page of a prediction; names are put in as text.

    Args:
        galleries: of the inputs, in order.
        model: its name.
        classes: class names by train id.
    """
    title = f"Predictions of {model}"
    lead = "Each image next to its prediction; shares are of all pixels of the input."
    sections = "\n".join(gallery.section(classes) for gallery in galleries)
    body = f'<h1>{html.escape(title)}</h1>\n<p class="caption">{lead}</p>\n{sections}'
    return document(title, body, style=_STYLE)


def _class_name(classes: Sequence[str], label: int) -> str:
    return classes[label].replace("_", " ") if label < len(classes) else "no class"


def _embedded(image: np.ndarray) -> str:
    """Returns a data URL of the image, made smaller where it is wider than `_WIDTH`."""
    height, width = image.shape[:2]
    if width > _WIDTH:
        image = cv2.resize(image, (_WIDTH, max(1, round(height * _WIDTH / width))), interpolation=cv2.INTER_AREA)
    return data_url(image, "jpeg", quality=_QUALITY)
