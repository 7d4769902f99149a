"""Scenes of the drawn data: a street, a lake, a park and a room, each different for every generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from vss.prepare.drawn import sprites, textures
from vss.prepare.drawn.filming import OVERSAMPLE, Camera, Developer, Thing, expose
from vss.prepare.drawn.textures import Colour, Rng


@dataclass(frozen=True)
class Mood:
    """Light of a scene: colours of the sky, and gains of R, G, B."""

    zenith: Colour
    horizon: Colour
    gain: Colour


MOODS = (
    Mood((82, 142, 212), (198, 222, 238), (1.0, 1.0, 1.0)),
    Mood((58, 118, 196), (176, 210, 236), (1.06, 1.02, 0.95)),
    Mood((148, 168, 190), (206, 212, 218), (0.92, 0.96, 1.0)),
    Mood((92, 112, 172), (246, 190, 140), (1.1, 0.96, 0.84)),
)


@dataclass
class Stage:
    """What a scene is built from and on: size of canvas and of the world around it, light, colours."""

    rng: Rng
    height: int
    width: int
    margin: int
    mood: Mood
    things: list[Thing] = field(default_factory=list)
    green: tuple[Colour, Colour] = ((120, 166, 66), (38, 82, 34))
    soil: tuple[Colour, Colour] = ((186, 152, 110), (112, 84, 58))
    stone: Colour = (128, 126, 128)

    @classmethod
    def new(cls, rng: Rng, height: int, width: int, margin: int) -> Stage:
        """Returns a stage with colours drawn at random: no two scenes are lit or painted alike."""

        def vary(colour: Colour, amount: float = 16) -> Colour:
            return tuple(float(c) for c in np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 0, 255))

        stage = cls(rng, height, width, margin, MOODS[int(rng.integers(len(MOODS)))])
        stage.green = (vary(stage.green[0]), vary(stage.green[1], 10))
        stage.soil = (vary(stage.soil[0]), vary(stage.soil[1], 12))
        stage.stone = vary(stage.stone, 12)
        return stage

    def span(self, near: float) -> int:
        """Returns the width of a layer that the camera never sees the end of."""
        return self.width + 2 * int(self.margin * near) + 4

    def layer(self, key: str, paint: Callable[[int, int], np.ndarray], top: float, bottom: float, near: float,
              outline: np.ndarray | None = None) -> None:  # fmt: skip
        """Adds a layer across the whole world between two heights (0..1); `outline` [width] cuts its upper edge."""
        y, height = int(top * self.height), int((bottom - top) * self.height) + 2
        colour = np.clip(paint(height, self.span(near)), 0, 255).astype(np.uint8)
        alpha = np.full(colour.shape[:2], 255, np.uint8)
        if outline is not None:
            alpha[np.arange(height)[:, None] < outline[None] * height] = 0
        self.things.append(
            Thing([np.dstack([colour, alpha])], key, left=-int(self.margin * near) - 2, top=y, near=near)
        )

    def place(self, key: str, pictures: list[np.ndarray], x: float, foot: float, near: float, *, speed: float = 0.0,
              cycle: float = 0.0, shadow: bool = True) -> None:  # fmt: skip
        """Adds a thing whose middle is at x and whose foot is at `foot` (0..1); speed < 0 faces left."""
        if speed < 0 or (speed == 0 and self.rng.random() < 0.5):
            pictures = [picture[:, ::-1] for picture in pictures]
        height, width = pictures[0].shape[:2]
        left, top = x * self.width - width / 2, foot * self.height - height
        self.things.append(Thing(pictures, key, left, top, speed * self.height, near, cycle, shadow))

    def ridge(self, near: float, *, low: float, high: float, cell: float) -> np.ndarray:
        """Returns an irregular outline [width] between two heights (0..1)."""
        noise = textures.fractal(self.rng, 2, self.span(near), cell=(2, self.height * cell), octaves=4)[0]
        noise = (noise - noise.min()) / max(float(np.ptp(noise)), 1e-6)
        return low + (high - low) * noise

    def pixels(self, share: float) -> int:
        """Returns a share of the canvas's height in pixels."""
        return max(8, round(share * self.height))

    # ---- what scenes have in common

    def add_sky(self, bottom: float) -> None:
        mood = self.mood
        self.layer("sky", lambda h, w: textures.sky(self.rng, h, w, zenith=mood.zenith, horizon=mood.horizon),
                   -0.06, bottom, 0.1)  # fmt: skip

    def add_mountains(self, top: float, bottom: float) -> None:
        snow = self.rng.uniform(-0.1, 0.45)
        self.layer("mountain", lambda h, w: textures.rock(self.rng, h, w, colour=self.stone, snow=snow),
                   top, bottom, 0.25, outline=self.ridge(0.25, low=0.0, high=0.85, cell=0.6))  # fmt: skip

    def add_tree_line(self, top: float, bottom: float, near: float) -> None:
        light, dark = (sprites.darker(c, 0.85) for c in self.green)
        self.layer("tree", lambda h, w: textures.foliage(self.rng, h, w, light=light, dark=dark),
                   top, bottom, near, outline=self.ridge(near, low=0.02, high=0.6, cell=0.16))  # fmt: skip

    def add_grass(self, top: float, bottom: float, near: float) -> None:
        self.layer("grass", lambda h, w: textures.grass(self.rng, h, w, light=self.green[0], dark=self.green[1]),
                   top, bottom, near, outline=self.ridge(near, low=0.0, high=0.06, cell=0.5))  # fmt: skip

    def add_ground(self, top: float, bottom: float, near: float, *, high: float = 0.05) -> None:
        self.layer("ground", lambda h, w: textures.ground(self.rng, h, w, light=self.soil[0], dark=self.soil[1]),
                   top, bottom, near, outline=self.ridge(near, low=0.0, high=high, cell=0.5))  # fmt: skip

    def add_trees(self, count: int, foot: tuple[float, float], size: tuple[float, float], near: float) -> None:
        for x in _spread(self.rng, count):
            height = self.pixels(self.rng.uniform(*size))
            picture = sprites.tree(self.rng, height, light=self.green[0], dark=self.green[1])
            self.place("tree", picture, x, self.rng.uniform(*foot), near)

    def add_people(self, count: int, foot: tuple[float, float], size: float, near: float = 1.0) -> None:
        for x in _spread(self.rng, count):
            y = self.rng.uniform(*foot)
            height = self.pixels(size * self.rng.uniform(0.85, 1.15) * (0.55 + 0.45 * y))
            self.place("person", sprites.person(self.rng, height), x, y, near,
                       speed=_either_way(self.rng, 0.006, 0.016), cycle=0.9)  # fmt: skip

    def add_dogs(self, count: int, foot: tuple[float, float], size: float, near: float = 1.0) -> None:
        for x in _spread(self.rng, count):
            height = self.pixels(size * self.rng.uniform(0.85, 1.2))
            self.place("dog", sprites.dog(self.rng, height), x, self.rng.uniform(*foot), near,
                       speed=_either_way(self.rng, 0.008, 0.022), cycle=1.3)  # fmt: skip

    def add_balloon(self) -> None:
        rng = self.rng
        picture = sprites.balloon(rng, self.pixels(rng.uniform(0.13, 0.22)))
        self.place("others", picture, rng.uniform(0.15, 0.85), rng.uniform(0.22, 0.34), 0.2,
                   speed=_either_way(rng, 0.002, 0.006), shadow=False)  # fmt: skip

    def walkers_by_depth(self, first: int) -> None:
        """Orders the things from `first` on by their feet, so that nearer ones cover farther ones."""
        self.things[first:] = sorted(self.things[first:], key=lambda t: t.top + t.pictures[0].shape[0])


def _spread(rng: Rng, count: int) -> list[float]:
    """Returns `count` places (0..1) over the width, apart from each other."""
    return [(k + rng.uniform(0.15, 0.85)) / count for k in rng.permutation(count)]


def _either_way(rng: Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high) * rng.choice((-1.0, 1.0)))


# ---- the four scenes


def street(stage: Stage) -> None:
    """Builds houses, trees, a road with cars and a bus, people in front."""
    rng = stage.rng
    stage.add_sky(0.62)
    if rng.random() < 0.4:
        stage.add_mountains(0.22, 0.62)
    kerb = rng.uniform(0.56, 0.6)
    _houses(stage, kerb + 0.02)
    stage.add_trees(int(rng.integers(2, 5)), (kerb + 0.01, kerb + 0.04), (0.3, 0.46), 0.62)
    verge = stage.add_grass if rng.random() < 0.6 else stage.add_ground
    verge(kerb, kerb + 0.1, 0.65)
    stage.add_people(int(rng.integers(1, 3)), (kerb + 0.05, kerb + 0.07), 0.3, 0.66)
    marking = (236, 234, 226) if rng.random() < 0.6 else (232, 196, 84)
    asphalt = sprites.darker(stage.stone, rng.uniform(0.62, 0.85))
    stage.layer("road", lambda h, w: textures.road(rng, h, w, colour=asphalt, marking=marking, lanes=(0.48,)),
                kerb + 0.08, 0.93, 0.8)  # fmt: skip
    first = len(stage.things)
    far, near = kerb + 0.17, 0.84
    lanes = [(far, 0.17, -1, 0.75), (near, 0.22, 1, 0.85)]
    big = int(rng.integers(2))
    for lane, (foot, size, way, depth) in enumerate(lanes):
        for number, x in enumerate(_spread(rng, 2 if lane == big else int(rng.integers(1, 3)))):
            is_bus = lane == big and number == 0
            height = stage.pixels(size * (1.65 if is_bus else 1.0))
            picture = sprites.bus(rng, height) if is_bus else sprites.car(rng, height)
            stage.place("bus" if is_bus else "car", picture, x, foot, depth, speed=way * rng.uniform(0.015, 0.05))
    stage.walkers_by_depth(first)
    front = stage.add_ground if rng.random() < 0.6 else stage.add_grass
    front(0.9, 1.06, 1.0)
    stage.add_people(int(rng.integers(1, 3)), (0.94, 0.99), 0.46)
    if rng.random() < 0.4:
        stage.add_dogs(1, (0.96, 0.99), 0.15)


def _houses(stage: Stage, bottom: float) -> None:
    rng, near = stage.rng, 0.5
    x, end = -int(stage.margin * near), stage.width + int(stage.margin * near)
    while x < end:
        width = int(stage.height * rng.uniform(0.28, 0.6))
        height = int(stage.height * rng.uniform(0.26, 0.52))
        wall = sprites.pick(rng, ((196, 156, 128), (216, 200, 172), (172, 104, 84), (170, 176, 184), (222, 214, 206)))
        storey = int(stage.height * rng.uniform(0.085, 0.12))
        front = textures.facade(rng, height, width, wall=wall, glass=(96, 118, 140), storey=storey)
        front = np.clip(front, 0, 255).astype(np.uint8)
        alpha = np.full(front.shape[:2], 255, np.uint8)
        if rng.random() < 0.5:
            rise = int(width * 0.22)
            edge = np.abs(np.linspace(-1, 1, width)) * rise
            alpha[np.arange(height)[:, None] < edge[None]] = 0
            front[: rise + 2] = (np.asarray(sprites.darker(wall, 0.55)) * rng.uniform(0.9, 1.1)).clip(0, 255)
        else:
            front[:4] = (np.asarray(wall) * 0.6).astype(np.uint8)
        picture = np.dstack([front, alpha])
        top = bottom * stage.height - height
        stage.things.append(Thing([picture], "building", left=x, top=top, near=near))
        x += width + int(stage.height * rng.choice((0.0, 0.0, 0.12)))


def lake(stage: Stage) -> None:
    """Builds mountains over water, a shore with people and a dog, sometimes a balloon."""
    rng = stage.rng
    stage.add_sky(0.56)
    stage.add_mountains(0.16, 0.52)
    if rng.random() < 0.7:
        stage.add_balloon()
    shore = rng.uniform(0.47, 0.5)
    stage.add_tree_line(shore - 0.09, shore + 0.02, 0.4)
    tint = stage.mood
    near, far = sprites.darker(tint.zenith, 0.66), sprites.darker(tint.horizon, 0.86)
    stage.layer("water", lambda h, w: textures.water(rng, h, w, near=near, far=far), shore, 0.84, 0.55)
    (stage.add_ground if rng.random() < 0.5 else stage.add_grass)(0.74, 1.06, 1.0)
    first = len(stage.things)
    stage.add_trees(int(rng.integers(1, 3)), (0.8, 0.88), (0.5, 0.72), 0.95)
    stage.add_people(int(rng.integers(1, 4)), (0.84, 0.98), 0.48)
    stage.add_dogs(int(rng.integers(0, 2)), (0.9, 0.98), 0.2)
    stage.walkers_by_depth(first)


def park(stage: Stage) -> None:
    """Builds trees around a lawn with a path, dogs and people."""
    rng = stage.rng
    stage.add_sky(0.5)
    if rng.random() < 0.4:
        _houses(stage, 0.5)
    stage.add_tree_line(rng.uniform(0.18, 0.28), 0.5, 0.45)
    stage.add_grass(0.46, 1.06, 0.85)
    top = rng.uniform(0.6, 0.74)
    stage.add_ground(top, top + rng.uniform(0.12, 0.18), 0.9, high=0.3)
    stage.add_grass(top + 0.13, 1.06, 0.95)
    first = len(stage.things)
    stage.add_trees(int(rng.integers(1, 4)), (0.56, 0.74), (0.42, 0.62), 0.85)
    stage.add_people(int(rng.integers(1, 4)), (0.68, 0.98), 0.46, 0.95)
    stage.add_dogs(int(rng.integers(1, 3)), (0.76, 0.97), 0.21, 0.95)
    stage.walkers_by_depth(first)


def room(stage: Stage) -> None:
    """Builds a room with windows, people, a dog and a ball."""
    rng = stage.rng
    light = sprites.pick(rng, ((224, 208, 180), (200, 212, 206), (216, 188, 172), (206, 200, 216)))
    edge = rng.uniform(0.6, 0.68)
    if rng.random() < 0.65:
        paint = lambda h, w: textures.wallpaper(rng, h, w, light=light, dark=sprites.darker(light, 0.8))  # noqa: E731
    else:
        paint = lambda h, w: textures.bricks(rng, h, w, light=(196, 128, 100), dark=(142, 78, 60))  # noqa: E731
    stage.layer("wall", paint, -0.06, edge, 0.6)
    for x in _spread(rng, int(rng.integers(1, 2 + round(1.2 * stage.width / stage.height)))):
        pane = sprites.window(rng, stage.pixels(rng.uniform(0.3, 0.42)), zenith=stage.mood.zenith,
                              horizon=stage.mood.horizon)  # fmt: skip
        stage.place("window", pane, x, rng.uniform(0.42, 0.5), 0.6, shadow=False)
    warm, cool = ((196, 146, 96), (124, 82, 50)), ((226, 216, 200), (150, 128, 110))
    surface, (pale, deep) = (textures.planks, warm) if rng.random() < 0.6 else (textures.tiles, cool)
    stage.layer("floor", lambda h, w: surface(rng, h, w, light=pale, dark=deep), edge, 1.06, 0.85)
    first = len(stage.things)
    stage.add_people(int(rng.integers(1, 4)), (0.82, 0.98), 0.62, 0.95)
    stage.add_dogs(int(rng.integers(0, 3)), (0.84, 0.97), 0.24, 0.95)
    if rng.random() < 0.6:
        ball = sprites.beach_ball(rng, stage.pixels(0.12))
        stage.place("others", ball, rng.uniform(0.2, 0.8), rng.uniform(0.84, 0.96), 0.95,
                    speed=_either_way(rng, 0.01, 0.03), cycle=0.7)  # fmt: skip
    stage.walkers_by_depth(first)


SCENES = (street, lake, park, room)


def film(rng: Rng, *, scene: int, height: int, width: int, frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the frames of one video of a scene.

    Args:
        rng: decides everything about the video.
        scene: which of `SCENES`, taken modulo their number.
        height, width: frame size in pixels.
        frames: number of frames.

    Yields:
        RGB image [height, width, 3] uint8 and class map [height, width] uint8, positions in `filming.KEYS`.
    """
    tall, wide = height * OVERSAMPLE, width * OVERSAMPLE
    reach = tall * rng.uniform(0.02, 0.045) * frames * float(rng.random() < 0.75)
    pan = float(min(reach, tall * 0.9) * rng.choice((-1, 1)))
    sway = (tall * rng.uniform(0.002, 0.008), tall * rng.uniform(0.001, 0.006))
    zoom = (1.03, 1.03 + rng.uniform(0, 0.12) * float(rng.random() < 0.5))
    camera = Camera(frames, pan, sway, float(rng.uniform(0, 6)), zoom[:: int(rng.choice((-1, 1)))])
    stage = Stage.new(rng, tall, wide, margin=int(abs(pan) / 2 + sway[0] + 8))
    SCENES[scene % len(SCENES)](stage)
    developer = Developer.new(rng, height, width, gain=stage.mood.gain)
    for time in range(frames):
        yield developer.develop(*expose(stage.things, camera, tall, wide, time))
