"""Textures of the drawn data: surfaces as RGB arrays [height, width, 3] float32, values 0..255.

Several surfaces share their colours and differ in structure only (grass and foliage, sky and water, wall and facade,
ground and planks, road and rock), so that a model has to look at more than colour.
"""

from __future__ import annotations

import cv2
import numpy as np

Colour = tuple[float, float, float]
Rng = np.random.Generator


def fractal(rng: Rng, height: int, width: int, *, cell: tuple[float, float], octaves: int = 3) -> np.ndarray:
    """Returns smooth noise [height, width] float32 in 0..1; `cell` is the size (vertical, horizontal) of its blobs."""
    total = np.zeros((height, width), np.float32)
    amplitude, norm = 1.0, 0.0
    for octave in range(octaves):
        rows = max(2, round(height / max(cell[0] / 2**octave, 1)) + 1)
        columns = max(2, round(width / max(cell[1] / 2**octave, 1)) + 1)
        grid = rng.random((rows, columns), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        norm += amplitude
        amplitude /= 2
    return np.clip(total / norm, 0, 1)


def mix(first: np.ndarray | Colour, second: np.ndarray | Colour, share: np.ndarray) -> np.ndarray:
    """Returns colours between `first` (share 0) and `second` (share 1); share is [height, width]."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * share[..., None].astype(np.float32)


def smooth_step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns 0 below `low`, 1 above `high` and a smooth ramp between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def vertical(height: int, width: int) -> np.ndarray:
    """Returns [height, width] float32 rising from 0 at the top to 1 at the bottom."""
    return np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))


def sky(rng: Rng, height: int, width: int, *, zenith: Colour, horizon: Colour) -> np.ndarray:
    """Returns a gradient with soft clouds."""
    image = mix(zenith, horizon, vertical(height, width) ** 0.8)
    clouds = fractal(rng, height, width, cell=(height * 0.25, height * 0.8), octaves=5)
    cover = smooth_step(clouds, rng.uniform(0.46, 0.56), 0.74) * 0.9
    lit = fractal(rng, height, width, cell=(height * 0.12, height * 0.3), octaves=3)
    return mix(image, mix((205, 212, 224), (255, 253, 248), lit), cover)


def water(rng: Rng, height: int, width: int, *, near: Colour, far: Colour) -> np.ndarray:
    """Returns horizontal ripples, finer towards the horizon, with glints."""
    image = mix(far, near, vertical(height, width))
    depth = vertical(height, width) ** 1.6 * 0.92 + 0.04
    y = np.cumsum(1.0 / (depth[:, 0] * 5.0 + 0.35)).astype(np.float32)[:, None]
    bend = fractal(rng, height, width, cell=(height * 0.2, height * 0.5), octaves=4) * 9
    waves = 0.5 + 0.5 * np.sin(y * 1.1 + bend)
    image = image * (0.78 + 0.36 * waves[..., None])
    glints = smooth_step(waves * fractal(rng, height, width, cell=(2.5, 12), octaves=2), 0.58, 0.78)
    return mix(image, (250, 250, 240), glints * 0.55)


def grass(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns upright blades over broad patches."""
    blades = fractal(rng, height, width, cell=(9, 2.2), octaves=2)
    patches = fractal(rng, height, width, cell=(height * 0.3, height * 0.9), octaves=3)
    image = mix(dark, light, np.clip(blades * 1.1 - 0.15 + (patches - 0.5) * 0.9, 0, 1))
    return image * (0.8 + 0.25 * vertical(height, width)[..., None])


def foliage(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns rounded clumps of leaves lit from above."""
    clumps = fractal(rng, height, width, cell=(15, 15), octaves=3)
    lit = clumps - np.roll(clumps, -3, axis=0)  # brighter where a clump's upper side begins
    return mix(dark, light, np.clip(0.42 + lit * 3.2 + (clumps - 0.5) * 0.9, 0, 1))


def road(rng: Rng, height: int, width: int, *, colour: Colour, marking: Colour, lanes: tuple[float, ...]) -> np.ndarray:
    """Returns asphalt with dashed lines at the heights `lanes` (0..1) and solid lines at its edges."""
    speckle = fractal(rng, height, width, cell=(2, 2.5), octaves=2) - 0.5
    worn = fractal(rng, height, width, cell=(height * 0.15, width * 0.3), octaves=3) - 0.5
    image = np.asarray(colour, np.float32) * (1 + speckle * 0.35 + worn * 0.35)[..., None]
    thick = max(2, round(height * 0.035))
    dash = round(height * 0.55)
    for lane in lanes:
        y = round(lane * height)
        for x in range(-dash, width, dash * 2):
            slant = round((lane - 0.5) * dash * 0.2)
            points = np.array([[x, y], [x + dash, y], [x + dash + slant, y + thick], [x + slant, y + thick]], np.int32)
            cv2.fillPoly(image, [points], marking, lineType=cv2.LINE_AA)
    for y in (round(height * 0.05), round(height * 0.93)):
        cv2.line(image, (0, y), (width, y), marking, max(1, thick // 2), cv2.LINE_AA)
    return image


def ground(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns soil or gravel: coarse noise with pebbles."""
    image = mix(dark, light, fractal(rng, height, width, cell=(height * 0.15, height * 0.4), octaves=5))
    pebbles = smooth_step(fractal(rng, height, width, cell=(4.5, 6), octaves=1), 0.62, 0.82)
    image = mix(image, np.asarray(light, np.float32) * 1.18, pebbles * 0.75)
    return mix(image, np.asarray(dark, np.float32) * 0.6, np.roll(pebbles, 2, axis=0) * (1 - pebbles) * 0.6)


def planks(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns floor boards that run towards the viewer, with grain and joints."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] * width / height
    # Boards converge towards a point above the floor.
    across = x / (0.55 + vertical(height, width)) * rng.uniform(3.0, 4.2)
    board = np.floor(across).astype(np.int64)
    tone = rng.random(997, dtype=np.float32)[board % 997]
    joint_at = rng.random(997, dtype=np.float32)[(board * 7) % 997]
    grain = fractal(rng, height, width, cell=(14, 2), octaves=2)
    image = mix(dark, light, np.clip(0.15 + tone * 0.5 + grain * 0.35, 0, 1))
    edge = np.abs(across - board - 0.5) > 0.5 - 0.035
    row = vertical(height, width) ** 0.7 * 2
    joint = np.abs((row + joint_at) % 1 - 0.5) < 0.02
    return mix(image, np.asarray(dark, np.float32) * 0.45, (edge | joint).astype(np.float32) * 0.8)


def tiles(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns floor tiles in two tones, foreshortened towards the wall."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] * width / height
    depth = 0.55 + vertical(height, width)
    across, along = x / depth * 2.2, -2.6 / depth
    parity = (np.floor(across) + np.floor(along)) % 2
    veins = fractal(rng, height, width, cell=(9, 12), octaves=3)
    image = mix(dark, light, np.clip(parity * 0.72 + veins * 0.35, 0, 1))
    gap = (np.abs(across % 1 - 0.5) > 0.47) | (np.abs(along % 1 - 0.5) > 0.46)
    return mix(image, (92, 84, 76), gap.astype(np.float32) * 0.7)


def wallpaper(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns a painted wall with upright stripes and light falling from one side."""
    period = rng.uniform(0.07, 0.16) * height
    stripes = np.sin(np.arange(width, dtype=np.float32) * 2 * np.pi / period)[None]
    share = smooth_step(np.broadcast_to(stripes, (height, width)), -0.25, 0.25)
    image = mix(light, dark, share * rng.uniform(0.35, 0.8))
    glow = fractal(rng, height, width, cell=(height, height * 1.2), octaves=1)
    return image * (0.86 + 0.24 * glow[..., None])


def bricks(rng: Rng, height: int, width: int, *, light: Colour, dark: Colour) -> np.ndarray:
    """Returns brickwork with mortar joints."""
    tall = max(5, round(height * 0.055))
    wide = tall * 2.4
    y = np.arange(height)[:, None] / tall
    row = np.floor(y).astype(np.int64)
    x = np.arange(width)[None] / wide + (row % 2) * 0.5
    column = np.floor(x).astype(np.int64)
    tone = rng.random(4093, dtype=np.float32)[(row * 131 + column * 17) % 4093]
    rough = fractal(rng, height, width, cell=(3, 4), octaves=2)
    image = mix(dark, light, np.clip(tone * 0.75 + rough * 0.4 - 0.05, 0, 1))
    mortar = (y % 1 < 1.4 / tall) | (x % 1 < 1.4 / wide)
    return mix(image, (206, 198, 186), mortar.astype(np.float32) * 0.75)


def facade(rng: Rng, height: int, width: int, *, wall: Colour, glass: Colour, storey: int) -> np.ndarray:
    """Returns a house front with rows of windows; `storey` is the height of one storey in pixels."""
    image = np.asarray(wall, np.float32) * (0.92 + 0.16 * fractal(rng, height, width, cell=(6, 6)))[..., None]
    bay = round(storey * rng.uniform(0.7, 1.1))
    tall, wide = round(storey * 0.55), round(bay * 0.55)
    frame = np.asarray(wall, np.float32) * 1.25
    for top in range(round(storey * 0.35), height - tall // 2, storey):
        for left in range((width % bay) // 2 + (bay - wide) // 2, width - wide, bay):
            box = image[top : top + tall, left : left + wide]
            lit = rng.random()
            pane = (255, 226, 150) if lit > 0.88 else np.asarray(glass) * (0.55 + 0.6 * lit)
            box[:] = frame
            box[1:-1, 1:-1] = mix(np.asarray(pane) * 1.15, pane, vertical(*box[1:-1, 1:-1].shape[:2]))
            box[:, wide // 2 : wide // 2 + 1] = frame
        image[min(top + tall, height - 1)] *= 0.72
    return image * np.linspace(1.06, 0.9, width, dtype=np.float32)[None, :, None]


def rock(rng: Rng, height: int, width: int, *, colour: Colour, snow: float) -> np.ndarray:
    """Returns a mountain side: slopes lit from the left, snow above the height `snow` (0 top .. 1 bottom)."""
    relief = fractal(rng, height, width, cell=(height * 0.5, height * 0.4), octaves=5)
    slope = relief - np.roll(relief, 2, axis=1)
    image = np.asarray(colour, np.float32) * np.clip(0.95 + slope * 11, 0.45, 1.6)[..., None]
    line = snow + (relief - 0.5) * 0.5
    white = smooth_step(line - vertical(height, width), 0.0, 0.08)
    return mix(image, np.clip(235 + slope * 500, 150, 255)[..., None] * np.ones(3, np.float32), white)
