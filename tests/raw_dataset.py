"""A small raw VSPW folder to break, and one call that prepares it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vss.core.files import read_json
from vss.core.index import read_index
from vss.prepare.run import prepare

SIZE = (24, 32)  # height, width


def save_image(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=90)


def save_mask(path: Path, values: Any = 1, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), size).copy()).save(path)


@dataclass
class RawVspw:
    """A raw VSPW folder: two train videos, one val video, one test video, three frames each."""

    root: Path

    def add_video(self, video: str, frames: list[str], *, masks: bool = True) -> None:
        for frame in frames:
            save_image(self.root / "data" / video / "origin" / f"{frame}.jpg")
            if masks:
                save_mask(self.root / "data" / video / "mask" / f"{frame}.png")

    def write_list(self, split: str, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        (self.root / f"{split}.txt").write_bytes(data)

    def image(self, video: str, frame: str) -> Path:
        return self.root / "data" / video / "origin" / f"{frame}.jpg"

    def mask(self, video: str, frame: str) -> Path:
        return self.root / "data" / video / "mask" / f"{frame}.png"


FRAMES = ["00000001", "00000009", "00000017"]


@pytest.fixture
def vspw(tmp_path: Path) -> RawVspw:
    raw = RawVspw(tmp_path / "VSPW_480p")
    for split, videos in (("train", ("t0", "t1")), ("val", ("v0",)), ("test", ("x0",))):
        for video in videos:
            raw.add_video(video, FRAMES, masks=split != "test")
        raw.write_list(split, "".join(f"{video}\n" for video in videos))
    return raw


@dataclass
class Prepared:
    """Outputs of the prepare stage in a folder."""

    folder: Path

    @property
    def index(self) -> Path:
        return self.folder / "index.csv"

    @property
    def card(self) -> Path:
        return self.folder / "dataset.json"

    @property
    def check(self) -> Path:
        return self.folder / "check.json"

    def rows(self) -> list[tuple[str, str, str]]:
        table = read_index(self.index)
        return list(zip(table["split"], table["video"], table["frame"], strict=True))

    def report(self) -> dict[str, Any]:
        return read_json(self.check)

    def kinds(self) -> list[str]:
        return sorted(problem["kind"] for problem in self.report()["problems"])


@pytest.fixture
def outputs(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path / "results" / "prepare" / "set")


@pytest.fixture
def run_prepare(outputs: Prepared) -> Callable[..., Prepared]:
    """Runs the prepare stage on a root with settings, in this process."""

    def call(root: Path | None, dataset: str = "vspw", **settings: Any) -> Prepared:
        prepare(
            dataset=dataset,
            settings={"root": None if root is None else str(root), **settings},
            index=outputs.index,
            card=outputs.card,
            check=outputs.check,
            workers=1,
        )
        return outputs

    return call
