"""Objects of the drawn data: small RGBA pictures [height, width, 4] uint8, all facing right.

They are drawn at twice the size requested and reduced, so that their edges carry soft alpha.
"""

from __future__ import annotations

import cv2
import numpy as np

from vss.prepare.drawn.textures import Colour, Rng, foliage, fractal

_OVERSAMPLE = 2
SKINS: tuple[Colour, ...] = ((236, 196, 168), (198, 142, 106), (141, 92, 62), (92, 58, 42))
PAINTS: tuple[Colour, ...] = (
    (196, 40, 38), (32, 84, 168), (236, 190, 44), (232, 232, 228), (46, 48, 54), (30, 120, 92), (232, 120, 36),
    (140, 148, 158), (92, 60, 128),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (208, 52, 60), (38, 78, 150), (242, 200, 72), (240, 238, 232), (36, 38, 46), (60, 130, 84), (224, 120, 152),
    (108, 84, 148), (120, 90, 66), (84, 170, 190),
)  # fmt: skip
FURS: tuple[Colour, ...] = ((138, 92, 54), (60, 46, 40), (214, 186, 146), (232, 228, 220), (104, 104, 108))


class Pen:
    """Draws shapes in units of the picture's height."""

    def __init__(self, height: int, aspect: float) -> None:
        self.unit = height * _OVERSAMPLE
        self.rgb = np.zeros((self.unit, max(2, round(self.unit * aspect)), 3), np.float32)
        self.alpha = np.zeros(self.rgb.shape[:2], np.uint8)

    def _points(self, points: object) -> np.ndarray:
        return np.round(np.asarray(points, np.float64) * self.unit).astype(np.int32)

    def polygon(self, points: object, colour: Colour) -> None:
        """Fills a polygon of (x, y) points."""
        cv2.fillPoly(self.rgb, [self._points(points)], colour)
        cv2.fillPoly(self.alpha, [self._points(points)], 255)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, radius: float = 0.0) -> None:
        """Fills a rectangle with rounded corners."""
        r = radius
        self.polygon([(left + r, top), (right - r, top), (right - r, bottom), (left + r, bottom)], colour)
        if r:
            self.polygon([(left, top + r), (right, top + r), (right, bottom - r), (left, bottom - r)], colour)
            for x in (left + r, right - r):
                for y in (top + r, bottom - r):
                    self.ellipse(x, y, r, r, colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0.0) -> None:
        """Fills an ellipse; `angle` in degrees."""
        centre = tuple(int(v) for v in self._points((x, y)))
        axes = tuple(max(1, int(v)) for v in self._points((rx, ry)))
        cv2.ellipse(self.rgb, centre, axes, angle, 0, 360, colour, -1)
        cv2.ellipse(self.alpha, centre, axes, angle, 0, 360, 255, -1)

    def stroke(self, points: object, width: float, colour: Colour) -> None:
        """Draws a line of a width through (x, y) points."""
        thick = max(1, round(width * self.unit))
        cv2.polylines(self.rgb, [self._points(points)], False, colour, thick)
        cv2.polylines(self.alpha, [self._points(points)], False, 255, thick)

    def finish(self, *, shade: float = 0.25) -> np.ndarray:
        """Returns the picture at its requested size, lit from above; `shade` is how much darker its foot is."""
        light = np.linspace(1 + shade / 2, 1 - shade / 2, self.unit, dtype=np.float32)[:, None, None]
        size = (self.rgb.shape[1] // _OVERSAMPLE, self.unit // _OVERSAMPLE)
        alpha = (self.alpha > 0).astype(np.float32)[..., None]
        small = cv2.resize(np.concatenate([self.rgb * light * alpha, alpha], 2), size, interpolation=cv2.INTER_AREA)
        cover = small[..., 3:]
        colour = np.clip(small[..., :3] / np.maximum(cover, 1e-3), 0, 255)
        return np.concatenate([colour, cover * 255], 2).round().astype(np.uint8)


def darker(colour: Colour, factor: float) -> Colour:
    """Returns a colour scaled towards black (factor < 1) or white light (factor > 1)."""
    return tuple(float(min(255.0, c * factor)) for c in colour)  # type: ignore[return-value]


def pick(rng: Rng, colours: tuple[Colour, ...]) -> Colour:
    """Returns one of the colours, slightly varied."""
    colour = np.asarray(colours[int(rng.integers(len(colours)))]) + rng.uniform(-14, 14, 3)
    return tuple(float(c) for c in np.clip(colour, 0, 255))  # type: ignore[return-value]


def person(rng: Rng, height: int, *, poses: int = 8) -> list[np.ndarray]:
    """Returns the walking cycle of a person, `poses` pictures of `height` pixels."""
    skin, hair = pick(rng, SKINS), pick(rng, ((40, 28, 22), (96, 62, 34), (210, 176, 110), (120, 116, 112)))
    top, trousers, shoes = pick(rng, CLOTHES), pick(rng, CLOTHES), (44, 36, 34)
    striped, hat, bag, skirt = rng.random(4) < (0.35, 0.25, 0.35, 0.25)
    stout = rng.uniform(0.85, 1.25)
    return [
        _person_pose(height, 2 * np.pi * k / poses, skin, hair, top, trousers, shoes, striped, hat, bag, skirt, stout)
        for k in range(poses)
    ]


def _person_pose(height, phase, skin, hair, top, trousers, shoes, striped, hat, bag, skirt, stout) -> np.ndarray:
    pen = Pen(height, 0.52)
    x, swing = 0.26, np.sin(phase) * 0.11
    for side, tone in ((-1, 0.75), (1, 1.0)):  # far leg and arm first
        foot = x + side * swing
        knee = x + side * swing * 0.6 + 0.015
        lift = max(0.0, side * np.cos(phase)) * 0.03
        pen.stroke([(x, 0.52), (knee, 0.74), (foot, 0.95 - lift)], 0.085 * stout, darker(trousers, tone))
        pen.ellipse(foot + 0.025, 0.965 - lift, 0.055, 0.026, shoes)
    if bag:
        pen.ellipse(x - 0.085 * stout, 0.34, 0.07, 0.11, darker(trousers, 0.7))
    hand = (x - swing * 0.9, 0.52)
    pen.stroke([(x, 0.25), (x - swing * 0.45 - 0.02, 0.39), hand], 0.06, darker(top, 0.72))
    half = 0.085 * stout
    pen.box(x - half, 0.185, x + half, 0.55, top, radius=0.06)
    if skirt:
        pen.polygon([(x - half, 0.45), (x + half, 0.45), (x + half * 1.7, 0.7), (x - half * 1.7, 0.7)], trousers)
    if striped:
        for y in (0.26, 0.34, 0.42):
            pen.polygon([(x - half, y), (x + half, y), (x + half, y + 0.03), (x - half, y + 0.03)], darker(top, 0.55))
    pen.stroke([(x, 0.24), (x + swing * 0.45 + 0.01, 0.38), (x + swing * 0.95 + 0.02, 0.5)], 0.06, darker(top, 0.88))
    pen.ellipse(x + swing * 0.95 + 0.02, 0.51, 0.03, 0.03, skin)
    pen.box(x - 0.025, 0.14, x + 0.03, 0.2, darker(skin, 0.85))
    pen.ellipse(x + 0.005, 0.09, 0.068, 0.082, hair)
    pen.ellipse(x + 0.022, 0.1, 0.055, 0.07, skin)
    if hat:
        pen.ellipse(x, 0.045, 0.08, 0.045, darker(top, 0.7))
        pen.box(x - 0.02, 0.045, x + 0.12, 0.065, darker(top, 0.6))
    return pen.finish()


def car(rng: Rng, height: int) -> list[np.ndarray]:
    """Returns a car in side view, one picture."""
    paint = pick(rng, PAINTS)
    pen = Pen(height, 2.5)
    boxy = rng.random() < 0.35
    saloon, van = (
        [(0.55, 0.1), (1.6, 0.1), (1.95, 0.42), (0.3, 0.42)],
        [(0.2, 0.06), (1.6, 0.06), (1.9, 0.42), (0.12, 0.42)],
    )
    pen.polygon(van if boxy else saloon, darker(paint, 0.92))
    pen.box(0.06, 0.36, 2.42, 0.8, paint, radius=0.12)
    pen.polygon([(0.06, 0.62), (2.42, 0.62), (2.38, 0.82), (0.1, 0.82)], darker(paint, 0.72))
    glass, (rear, front), middle = (74, 92, 108), (0.24, 1.74) if boxy else (0.42, 1.78), 1.08
    pen.polygon([(rear + 0.2, 0.15), (middle - 0.04, 0.15), (middle - 0.04, 0.4), (rear, 0.4)], glass)
    pen.polygon([(middle + 0.04, 0.15), (front - 0.24, 0.15), (front, 0.4), (middle + 0.04, 0.4)], glass)
    pen.stroke([(rear + 0.3, 0.2), (rear + 0.2, 0.36)], 0.03, (168, 190, 204))
    pen.stroke([(middle + 0.2, 0.18), (middle + 0.1, 0.36)], 0.03, (168, 190, 204))
    pen.stroke([(middle, 0.42), (middle, 0.76)], 0.012, darker(paint, 0.55))
    pen.stroke([(middle + 0.1, 0.5), (middle + 0.22, 0.5)], 0.02, darker(paint, 0.5))
    pen.box(2.3, 0.46, 2.41, 0.56, (255, 244, 200), radius=0.03)
    pen.box(0.06, 0.46, 0.14, 0.58, (190, 30, 30), radius=0.03)
    _wheels(pen, (0.52, 1.96), 0.78, 0.2)
    return [pen.finish(shade=0.35)]


def bus(rng: Rng, height: int) -> list[np.ndarray]:
    """Returns a bus in side view, one picture."""
    paint, band = pick(rng, PAINTS), pick(rng, PAINTS)
    pen = Pen(height, 2.7)
    pen.box(0.04, 0.04, 2.66, 0.9, paint, radius=0.07)
    pen.box(0.04, 0.6, 2.66, 0.7, band)
    for k in range(7):
        left = 0.14 + k * 0.31
        pen.box(left, 0.16, left + 0.27, 0.5, (70, 88, 104), radius=0.02)
        pen.stroke([(left + 0.14, 0.2), (left + 0.06, 0.46)], 0.02, (150, 172, 188))
    pen.box(2.34, 0.16, 2.64, 0.56, (88, 108, 124), radius=0.03)
    pen.box(1.72, 0.2, 1.98, 0.86, darker(paint, 0.6))
    pen.box(1.75, 0.23, 1.84, 0.82, (96, 116, 130))
    pen.box(1.87, 0.23, 1.95, 0.82, (96, 116, 130))
    pen.box(2.56, 0.74, 2.66, 0.82, (255, 244, 200), radius=0.02)
    _wheels(pen, (0.56, 2.2), 0.87, 0.12)
    return [pen.finish(shade=0.3)]


def _wheels(pen: Pen, at: tuple[float, ...], y: float, radius: float) -> None:
    for x in at:
        pen.ellipse(x, y, radius, radius, (26, 26, 28))
        pen.ellipse(x, y, radius * 0.55, radius * 0.55, (158, 160, 164))
        pen.ellipse(x, y, radius * 0.2, radius * 0.2, (70, 70, 74))


def dog(rng: Rng, height: int, *, poses: int = 8) -> list[np.ndarray]:
    """Returns the walking cycle of a dog."""
    fur, second = pick(rng, FURS), pick(rng, FURS)
    spotted = rng.random() < 0.5
    return [_dog_pose(height, 2 * np.pi * k / poses, fur, second, spotted) for k in range(poses)]


def _dog_pose(height: int, phase: float, fur: Colour, second: Colour, spotted: bool) -> np.ndarray:
    pen = Pen(height, 1.5)
    swing = np.sin(phase) * 0.13
    for hip, sign, tone in ((0.34, -1, 0.7), (0.94, 1, 0.7), (0.4, 1, 0.95), (1.0, -1, 0.95)):
        foot = hip + sign * swing
        pen.stroke([(hip, 0.6), (hip + sign * swing * 0.3, 0.78), (foot, 0.96)], 0.1, darker(fur, tone))
    pen.stroke([(0.28, 0.45), (0.12, 0.3), (0.07, 0.16 + swing * 0.5)], 0.07, fur)
    pen.ellipse(0.66, 0.52, 0.44, 0.2, fur)
    pen.ellipse(0.94, 0.5, 0.22, 0.2, fur)
    if spotted:
        pen.ellipse(0.56, 0.44, 0.17, 0.1, second)
        pen.ellipse(0.84, 0.56, 0.1, 0.08, second)
    pen.stroke([(1.04, 0.44), (1.18, 0.26)], 0.2, fur)
    pen.ellipse(1.2, 0.22, 0.16, 0.14, fur)
    pen.ellipse(1.34, 0.27, 0.12, 0.075, darker(fur, 1.1))
    pen.ellipse(1.44, 0.25, 0.035, 0.03, (24, 20, 20))
    pen.ellipse(1.1, 0.2, 0.06, 0.14, darker(second if spotted else fur, 0.7), angle=15)
    pen.ellipse(1.25, 0.18, 0.02, 0.02, (20, 16, 16))
    return pen.finish()


def tree(rng: Rng, height: int, *, light: Colour, dark: Colour) -> list[np.ndarray]:
    """Returns a broad-leaved tree or a fir, one picture."""
    pen = Pen(height, 0.8)
    bark = (98, 72, 50)
    fir = rng.random() < 0.3
    pen.polygon([(0.36, 1.0), (0.45, 1.0), (0.425, 0.4), (0.385, 0.4)], bark)
    crown = np.zeros_like(pen.alpha)
    if fir:
        for top, half in ((0.02, 0.16), (0.2, 0.24), (0.4, 0.31), (0.58, 0.36)):
            points = [(0.4, top), (0.4 + half, top + 0.32), (0.4 - half, top + 0.32)]
            cv2.fillPoly(crown, [pen._points(points)], 255)
    else:
        pen.stroke([(0.4, 0.62), (0.25, 0.42)], 0.035, bark)
        pen.stroke([(0.41, 0.58), (0.56, 0.4)], 0.03, bark)
        for _ in range(14):
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1)
            x, y, r = 0.4 + 0.24 * far * np.cos(angle), 0.34 + 0.2 * far * np.sin(angle), rng.uniform(0.09, 0.15)
            centre = tuple(int(v) for v in pen._points((x, y)))
            cv2.circle(crown, centre, round(r * pen.unit), 255, -1)
    _ragged(rng, crown)
    leaves = foliage(rng, *crown.shape, light=light, dark=dark)
    pen.rgb[crown > 0] = leaves[crown > 0]
    pen.alpha[crown > 0] = 255
    return [pen.finish(shade=0.5)]


def _ragged(rng: Rng, mask: np.ndarray) -> None:
    """Makes the edge of a mask irregular, like leaves against the sky."""
    noise = fractal(rng, *mask.shape, cell=(7, 7), octaves=2)
    soft = cv2.GaussianBlur(mask, (0, 0), 3).astype(np.float32) / 255
    ragged = np.where(soft + (noise - 0.5) * 1.1 > 0.5, 255, 0).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(cv2.medianBlur(ragged, 5))
    large = stats[:, cv2.CC_STAT_AREA] > 0.02 * mask.size  # no single leaves in the air
    large[0] = False  # the background
    mask[:] = np.where(large[pieces], 255, 0)


def balloon(rng: Rng, height: int) -> list[np.ndarray]:
    """Returns a hot-air balloon, one picture."""
    first, second = pick(rng, PAINTS), pick(rng, CLOTHES)
    pen = Pen(height, 0.76)
    pen.polygon([(0.08, 0.5), (0.68, 0.5), (0.45, 0.82), (0.31, 0.82)], first)
    pen.ellipse(0.38, 0.38, 0.36, 0.37, first)
    for half in (0.25, 0.09):
        colour = second if half == 0.25 else first
        pen.ellipse(0.38, 0.38, half, 0.37, colour)
        foot = half * 0.3
        pen.polygon([(0.38 - half, 0.42), (0.38 + half, 0.42), (0.38 + foot, 0.82), (0.38 - foot, 0.82)], colour)
    pen.box(0.32, 0.88, 0.44, 0.99, (120, 84, 50), radius=0.02)
    pen.stroke([(0.32, 0.82), (0.33, 0.9)], 0.012, (60, 50, 40))
    pen.stroke([(0.44, 0.82), (0.43, 0.9)], 0.012, (60, 50, 40))
    return [pen.finish(shade=0.4)]


def beach_ball(rng: Rng, height: int, *, poses: int = 8) -> list[np.ndarray]:
    """Returns a rolling ball with coloured sectors."""
    colours = [pick(rng, CLOTHES) for _ in range(3)]
    pictures = []
    for k in range(poses):
        pen = Pen(height, 1.0)
        pen.ellipse(0.5, 0.5, 0.48, 0.48, (240, 238, 232))
        for sector in range(6):
            start = 60 * sector + 360 * k / poses
            centre, axes = tuple(int(v) for v in pen._points((0.5, 0.5))), (int(0.48 * pen.unit),) * 2
            cv2.ellipse(pen.rgb, centre, axes, 0, start, start + 34, colours[sector % 3], -1)
        pen.ellipse(0.5, 0.5, 0.07, 0.07, (240, 238, 232))
        pictures.append(pen.finish(shade=0.5))
    return pictures


def window(rng: Rng, height: int, *, zenith: Colour, horizon: Colour) -> list[np.ndarray]:
    """Returns a window in a wall, with the sky behind it."""
    aspect = rng.uniform(0.7, 1.2)
    pen = Pen(height, aspect)
    frame = (238, 234, 226)
    pen.box(0, 0, aspect, 1, frame)
    share = np.linspace(0, 1, pen.unit, dtype=np.float32)[:, None, None]
    pane = np.asarray(zenith, np.float32) * (1 - share) + np.asarray(horizon, np.float32) * share
    m = round(0.06 * pen.unit)
    pen.rgb[m:-m, m:-m] = np.broadcast_to(pane, pen.rgb.shape)[m:-m, m:-m]
    pen.polygon([(0.08, 0.75), (0.3 * aspect, 0.08), (0.45 * aspect, 0.08), (0.08, 0.95)], darker(horizon, 1.08))
    pen.stroke([(aspect / 2, 0.03), (aspect / 2, 0.97)], 0.05, frame)
    pen.stroke([(0.03, 0.45), (aspect - 0.03, 0.45)], 0.05, frame)
    pen.box(-0.02, 0.93, aspect + 0.02, 1.0, darker(frame, 0.85))
    return [pen.finish(shade=0.1)]
