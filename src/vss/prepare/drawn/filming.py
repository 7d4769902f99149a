"""Filming of the drawn data: pictures in motion before a camera that pans, sways and zooms.

Everything is laid on a canvas of twice the frame's size, then reduced. A pixel's class is that of the last thing that
covers it; classes are named by `KEYS`, and each dataset says which of its classes a key is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

OVERSAMPLE = 2
# "others" and "void" are what a dataset leaves without a class.
KEYS = (
    "void", "others", "wall", "window", "floor", "ground", "grass", "road", "building", "sky", "mountain", "water",
    "tree", "car", "bus", "person", "dog",
)  # fmt: skip


@dataclass
class Thing:
    """A picture, or a cycle of pictures, in the scene.

    Attributes:
        pictures: RGBA [h, w, 4] uint8, shown in turn; kept with their colours multiplied by alpha, so that enlarging
            them leaves no dark rim.
        key: class, one of `KEYS`.
        left, top: position on the canvas at the middle of the video, in canvas pixels.
        speed: canvas pixels per frame, to the right.
        near: share of the camera's motion it takes part in: 0 infinitely far, 1 at the front.
        cycle: pictures per frame.
        shadow: whether it darkens what is below its feet.
    """

    pictures: list[np.ndarray]
    key: str
    left: float
    top: float
    speed: float = 0.0
    near: float = 1.0
    cycle: float = 0.0
    shadow: bool = False

    def __post_init__(self) -> None:
        self.pictures = [_premultiplied(picture) for picture in self.pictures]


@dataclass(frozen=True)
class Camera:
    """Where the camera looks: `pan` in canvas pixels from the first to the last frame, sway and zoom."""

    frames: int
    pan: float
    sway: tuple[float, float]
    phase: float
    zoom: tuple[float, float]

    def at(self, time: int) -> tuple[float, float, float]:
        """Returns (dx, dy, zoom) at a frame."""
        share = time / max(self.frames - 1, 1) - 0.5
        dx = self.pan * share + self.sway[0] * np.sin(0.9 * time + self.phase)
        dy = self.sway[1] * np.sin(0.7 * time + 2 * self.phase)
        return dx, dy, self.zoom[0] + (self.zoom[1] - self.zoom[0]) * (share + 0.5)


def _premultiplied(picture: np.ndarray) -> np.ndarray:
    colour = (picture[..., :3].astype(np.uint16) * picture[..., 3:] + 127) // 255
    return np.dstack([colour.astype(np.uint8), picture[..., 3]])


def expose(
    things: Sequence[Thing], camera: Camera, height: int, width: int, time: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the canvas [height, width, 3] uint8 and its class map [height, width] uint8 at one moment."""
    image = np.zeros((height, width, 3), np.uint8)
    keys = np.zeros((height, width), np.uint8)
    dx, dy, zoom = camera.at(time)
    for thing in things:
        picture = thing.pictures[int(time * thing.cycle) % len(thing.pictures)]
        left = thing.left + thing.speed * (time - (camera.frames - 1) / 2) - dx * thing.near
        top = thing.top - dy * thing.near
        if thing.shadow:
            _cast_shadow(image, picture.shape, left, top, zoom)
        _paste(image, keys, picture, KEYS.index(thing.key), left, top, zoom)
    return image, keys


def _to_canvas(shape: tuple[int, ...], x: float, y: float, zoom: float) -> tuple[float, float]:
    """Returns a point after zooming about the middle of the canvas."""
    return (x - shape[1] / 2) * zoom + shape[1] / 2, (y - shape[0] / 2) * zoom + shape[0] / 2


def _paste(image: np.ndarray, keys: np.ndarray, picture: np.ndarray, key: int, left: float, top: float,
           zoom: float) -> None:  # fmt: skip
    """Lays a picture over the canvas at a fractional place; a pixel is of the thing where at least half covered."""
    x, y = _to_canvas(image.shape, left, top, zoom)
    x0, y0 = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    x1 = min(image.shape[1], int(np.ceil(x + picture.shape[1] * zoom)) + 1)
    y1 = min(image.shape[0], int(np.ceil(y + picture.shape[0] * zoom)) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    matrix = np.array([[zoom, 0, x - x0], [0, zoom, y - y0]], np.float64)
    warped = cv2.warpAffine(picture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    clear = 255 - warped[..., 3:].astype(np.uint16)
    region = image[y0:y1, x0:x1]
    region[:] = np.minimum((region * clear + 127) // 255 + warped[..., :3], 255)
    keys[y0:y1, x0:x1][warped[..., 3] >= 128] = key


def _cast_shadow(image: np.ndarray, shape: tuple[int, ...], left: float, top: float, zoom: float) -> None:
    x, y = _to_canvas(image.shape, left + shape[1] / 2, top + shape[0] * 0.985, zoom)
    rx, ry = max(2, int(shape[1] * 0.42 * zoom)), max(2, int(min(shape[:2]) * 0.1 * zoom))
    x0, x1 = max(0, int(x) - 2 * rx), min(image.shape[1], int(x) + 2 * rx)
    y0, y1 = max(0, int(y) - 2 * ry), min(image.shape[0], int(y) + 2 * ry)
    if x0 >= x1 or y0 >= y1:
        return
    far = ((np.arange(y0, y1)[:, None] - y) / ry) ** 2 + ((np.arange(x0, x1)[None] - x) / rx) ** 2
    region = image[y0:y1, x0:x1]
    region[:] = (region * (1 - 0.4 * np.exp(-far))[..., None]).astype(np.uint8)


@dataclass(frozen=True)
class Developer:
    """How a canvas becomes a frame: reduced, tinted, darkened at the corners, noisy, sometimes stamped."""

    rng: np.random.Generator
    height: int
    width: int
    gain: np.ndarray
    noise: float
    stamped: bool

    @classmethod
    def new(cls, rng: np.random.Generator, height: int, width: int, *, gain: tuple[float, float, float]) -> Developer:
        """Returns a developer for one video; `gain` multiplies R, G, B."""
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        vignette = (1 - rng.uniform(0.02, 0.13) * (x**2 + y**2))[..., None]
        full = (vignette * np.asarray(gain) * rng.uniform(0.9, 1.08)).astype(np.float32)
        return cls(rng, height, width, full, float(rng.uniform(1.0, 4.0)), bool(rng.random() < 0.3))

    def develop(self, image: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the frame [height, width, 3] uint8 and its class map [height, width] uint8."""
        small = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = small * self.gain + self.rng.standard_normal(small.shape, dtype=np.float32) * self.noise
        frame = np.clip(small, 0, 255).round().astype(np.uint8)
        classes = keys[::OVERSAMPLE, ::OVERSAMPLE].copy()
        if self.stamped:
            self._stamp(frame, classes)
        return frame, classes

    def _stamp(self, frame: np.ndarray, classes: np.ndarray) -> None:
        """Adds a broadcaster's mark, which is of no class."""
        w, h = round(self.height * 0.3), round(self.height * 0.07)
        corner = (slice(self.height - h - 3, self.height - 3), slice(3, 3 + w))
        frame[corner] = (18, 20, 26)
        cv2.putText(frame, "VSS 24", (5, self.height - 6), cv2.FONT_HERSHEY_PLAIN, self.height / 190,
                    (240, 240, 230), 1, cv2.LINE_AA)  # fmt: skip
        classes[corner] = KEYS.index("void")
