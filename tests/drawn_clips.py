"""Short videos of tiny masks and predictions, and their counts: for tests of the score stage."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from vss.core.labels import VSPW
from vss.score.counts import TABLES, Counts, cells_of
from vss.score.video import VideoCounter

LOOKUP = VSPW.raw_to_train()


def counts_of(videos: dict[str, tuple[np.ndarray, np.ndarray]], shards: int, member: int) -> Counts:
    tables = {name: [np.zeros((0, len(columns)), np.int64)] for name, columns in (TABLES | {"trimap": "12"}).items()}
    for number, (raw, labels) in enumerate(videos.values()):
        counter = counted(raw, labels, number)
        for name, table in (counter.tables() | {"cells": cells_of(counter.confusion, number)}).items():
            tables[name].append(table)
    return Counts(
        split="val", shards=shards, members=(member,), classes=VSPW.classes, flow=None, videos=tuple(videos),
        frames=np.array([len(raw) for raw, _ in videos.values()], np.int64),
        **{name: np.concatenate(parts) for name, parts in tables.items()},
    )  # fmt: skip


def counted(raw: np.ndarray, labels: np.ndarray, number: int = 0) -> VideoCounter:
    counter = VideoCounter(number, VSPW.num_classes)
    for frame, predicted in zip(raw, labels, strict=True):
        counter.add(raw=frame, truth=LOOKUP[frame], labels=predicted)
    return counter


@st.composite
def clips(draw):
    """Videos with slowly changing masks and predictions, of 1 to 20 frames."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    videos = {}
    for name in names:
        shape = (int(rng.integers(1, 21)), 2, 3)
        raw = np.array([0, 1, 2, 124, 255], np.uint8)[rng.integers(0, 5, shape)]
        labels = np.array([0, 1, 123, 7, 255], np.uint8)[rng.integers(0, 5, shape)]
        for values in (raw, labels):
            for frame in range(1, shape[0]):
                values[frame] = np.where(rng.random(shape[1:]) < 0.9, values[frame - 1], values[frame])
        videos[name] = (raw, labels)
    return videos
