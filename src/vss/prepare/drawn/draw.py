"""The drawn data: a small VSPW and a small COCO-Stuff in the real folder layouts, file formats and label ids.

They let the whole workflow run with nothing downloaded. Everything is decided by the settings: the same settings give
the same bytes, whatever the number of processes, since each video has a generator of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vss.configs.schema import read_section
from vss.core.code import code_without_prose
from vss.core.files import NO_SPACE, canonical_json, disk_full, write_text
from vss.core.labels import IGNORE_INDEX, LABEL_SPACES, submission_palette
from vss.core.log import track
from vss.prepare.drawn import filming, scenes, sprites, textures
from vss.prepare.parallel import map_in_order


@dataclass(frozen=True)
class DrawnVspw:
    """Settings of a drawn VSPW: see `drawn_vspw` in config.schema.yaml. Frames are per video, height in pixels."""

    seed: int
    train_videos: int
    val_videos: int
    test_videos: int
    train_frames: int
    val_frames: int
    test_frames: int
    height: int


@dataclass(frozen=True)
class DrawnCocoStuff:
    """Settings of a drawn COCO-Stuff: see `drawn_coco_stuff` in config.schema.yaml. Height in pixels."""

    seed: int
    train_images: int
    val_images: int
    height: int


_SETTINGS = {"vspw": DrawnVspw, "coco_stuff": DrawnCocoStuff}

# Which class of each dataset a scene's key is; a key that is not here has no label there.
CLASSES = {
    "vspw": {key: key for key in filming.KEYS if key not in ("void", "others")},
    "coco_stuff": {
        "wall": "wall-other",
        "window": "window-other",
        "floor": "floor-other",
        "ground": "ground-other",
        "grass": "grass",
        "road": "road",
        "building": "building-other",
        "sky": "sky-other",
        "mountain": "mountain",
        "water": "water-other",
        "tree": "tree",
        "car": "car",
        "bus": "bus",
        "person": "person",
        "dog": "dog",
    },
}
# VSPW's 480p frames are 480 high and as wide as the clip was: mostly 16:9, some 4:3, a few upright.
_VSPW_ASPECTS = (16 / 9, 16 / 9, 4 / 3, 16 / 9, 16 / 9, 3 / 4)
_COCO_ASPECTS = (4 / 3, 4 / 3, 3 / 4, 3 / 2, 4 / 3, 1.0)
# The quantisation tables of the real files.
_QUALITY = {"vspw": 80, "coco_stuff": 95}
_SPLITS = ("train", "val", "test")
# A clip takes 50 to 100 ms, a process 2 s to start.
_CLIPS_WORTH_PROCESSES = 300


@dataclass(frozen=True)
class _Clip:
    """One video, or one image, to draw: names of its image and mask files without suffix, relative to the folder."""

    seed: tuple[int, ...]
    scene: int
    aspect: float
    images: tuple[str, ...]
    masks: tuple[str, ...]


def draw(dataset: str, settings: Mapping[str, Any], *, beside: str | os.PathLike) -> Path:
    """Draws a dataset into `beside`/drawn-<hash>, or finds it there, and returns that folder.

    Args:
        dataset: "vspw" or "coco_stuff".
        settings: as the user wrote them, see `DrawnVspw` and `DrawnCocoStuff`.
        beside: folder to draw into; the hash is of the settings and of the code that draws.

    Raises:
        UserError: an unknown setting, a value that is not allowed, or a full disk.
    """
    resolved = read_settings(dataset, settings)
    folder = Path(beside) / f"drawn-{_digest(dataset, resolved)}"
    if folder.is_dir():  # renamed when whole, so it is whole
        return folder
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
    try:
        aside.mkdir(parents=True)
        _draw_all(dataset, resolved, aside)
        os.replace(aside, folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if error.errno not in NO_SPACE:
            raise
        raise disk_full(folder, error) from None
    return folder


def _digest(dataset: str, settings: DrawnVspw | DrawnCocoStuff) -> str:
    """Returns 12 digits that change with the settings and with the code that draws, comments left out."""
    digest = hashlib.sha256(canonical_json([dataset, asdict(settings)]).encode())
    for path in (__file__, filming.__file__, scenes.__file__, sprites.__file__, textures.__file__):
        digest.update(code_without_prose(Path(path).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def read_settings(dataset: str, given: Mapping[str, Any]) -> DrawnVspw | DrawnCocoStuff:
    """Returns the settings of a drawn dataset, defaults of the schema filled in.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    return read_section(_SETTINGS[dataset], f"drawn_{dataset}", given, where=f"data.{dataset}.drawn")


def _draw_all(dataset: str, settings: DrawnVspw | DrawnCocoStuff, folder: Path) -> None:
    clips = _vspw_clips(settings, folder) if isinstance(settings, DrawnVspw) else _coco_clips(settings)
    task = partial(_draw_clip, dataset=dataset, height=settings.height, folder=str(folder))
    noun = "video" if dataset == "vspw" else "image"
    drawn = map_in_order(task, clips, worth=_CLIPS_WORTH_PROCESSES)
    for _ in track(drawn, what=f"draw {dataset}", total=len(clips), unit=noun):
        pass


def _vspw_clips(settings: DrawnVspw, folder: Path) -> list[_Clip]:
    clips = []
    counts = (
        ("train", settings.train_videos, settings.train_frames),
        ("val", settings.val_videos, settings.val_frames),
        ("test", settings.test_videos, settings.test_frames),
    )
    for number, (split, num_videos, num_frames) in enumerate(counts):
        videos = []
        for k in range(num_videos):
            video = f"{1000 * (number + 1) + k}_drawn-{scenes.SCENES[k % len(scenes.SCENES)].__name__}"
            frames = [f"{8 * t + 1:08d}" for t in range(num_frames)]
            images = tuple(f"data/{video}/origin/{frame}" for frame in frames)
            masks = tuple(f"data/{video}/mask/{frame}" for frame in frames) if split != "test" else ()
            aspect = _VSPW_ASPECTS[k % len(_VSPW_ASPECTS)]
            clips.append(_Clip((settings.seed, 0, number, k), k, aspect, images, masks))
            videos.append(video)
        write_text(folder / f"{split}.txt", "".join(f"{video}\n" for video in videos))
    return clips


def _coco_clips(settings: DrawnCocoStuff) -> list[_Clip]:
    clips = []
    for number, (split, num_images) in enumerate((("train", settings.train_images), ("val", settings.val_images))):
        for k in range(num_images):
            stem = f"{split}2017/{100000 * (number + 1) + 7 * k:012d}"
            aspect = _COCO_ASPECTS[k % len(_COCO_ASPECTS)]
            seed = (settings.seed, 1, number, k)
            clips.append(_Clip(seed, k, aspect, (f"images/{stem}",), (f"stuffthingmaps/{stem}",)))
    return clips


def _draw_clip(clip: _Clip, *, dataset: str, height: int, folder: str) -> None:
    rng = np.random.default_rng(clip.seed)
    width = int(height * clip.aspect)
    to_raw = raw_of_keys(dataset)
    film = scenes.film(rng, scene=clip.scene, height=height, width=width, frames=len(clip.images))
    for position, (image, keys) in enumerate(film):
        path = Path(folder, clip.images[position] + ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=_QUALITY[dataset])
        if clip.masks:
            path = Path(folder, clip.masks[position] + ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            _save_mask(path, to_raw[keys], palette=dataset == "vspw")


def _save_mask(path: Path, raw: np.ndarray, *, palette: bool) -> None:
    mask = Image.fromarray(raw)
    if palette:
        mask.putpalette(submission_palette().tobytes())
    mask.save(path)


def raw_of_keys(dataset: str) -> np.ndarray:
    """Returns the raw mask value of each of `filming.KEYS` in a dataset, [keys] uint8."""
    space = LABEL_SPACES[dataset]
    raw = {key: space.raw_ids[space.classes.index(name)] for key, name in CLASSES[dataset].items()}
    raw["others"] = 0 if dataset == "vspw" else IGNORE_INDEX
    raw["void"] = IGNORE_INDEX
    return np.array([raw[key] for key in filming.KEYS], np.uint8)
