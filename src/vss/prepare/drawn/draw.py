"""The drawn data: a small VSPW and a small COCO-Stuff in the real layouts, formats and label ids, and a user's folders.

They let the whole workflow run with nothing downloaded. Everything is decided by the settings: the same settings give
the same bytes, whatever the number of processes, since each video has a generator of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vss.configs.datasets import Dataset
from vss.configs.schema import read_section
from vss.core.code import code_without_prose
from vss.core.dataset_layout import DatasetLayout
from vss.core.errors import UserError
from vss.core.files import NO_SPACE, canonical_json, disk_full, write_text
from vss.core.labels import submission_palette
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


@dataclass(frozen=True)
class DrawnFolders:
    """Settings of drawn folders: see `drawn_folders` in config.schema.yaml. Frames are per video, height in pixels."""

    seed: int
    train_videos: int
    val_videos: int
    train_frames: int
    val_frames: int
    mask_every: int
    height: int


DrawnSettings = DrawnVspw | DrawnCocoStuff | DrawnFolders
_SETTINGS: dict[str, type[DrawnSettings]] = {
    "vspw": DrawnVspw,
    "coco_stuff": DrawnCocoStuff,
    "folders": DrawnFolders,
}

# Which class of each dataset a scene's key is; a key that is not here has no label there. In other datasets a key is
# the class of its name.
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
_QUALITY = {"vspw": 80, "coco_stuff": 95, "folders": 90}
_SPLITS = ("train", "val", "test")
# A clip takes 50 to 100 ms, a process 2 s to start.
_CLIPS_WORTH_PROCESSES = 300


@dataclass(frozen=True)
class _Clip:
    """One video, or one image, to draw: its image and mask files relative to the folder; "" where no mask is."""

    seed: tuple[int, ...]
    scene: int
    aspect: float
    images: tuple[str, ...]
    masks: tuple[str, ...]


def draw(row: Dataset, *, beside: str | os.PathLike) -> Path:
    """Draws a dataset into `beside`/drawn-<hash>, or finds it there, and returns that folder.

    Args:
        row: of format "vspw", "coco_stuff" or "folders"; its `drawn` is read as `DrawnVspw` and so on.
        beside: folder to draw into; the hash is of the settings and of the code that draws.

    Raises:
        UserError: a format that cannot be drawn, an unknown setting, a value that is not allowed, or a full disk.
    """
    resolved = read_settings(row)
    folder = Path(beside) / f"drawn-{_digest(row, resolved)}"
    if folder.is_dir():  # renamed when whole, so it is whole
        return folder
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
    try:
        aside.mkdir(parents=True)
        _draw_all(row, resolved, aside)
        os.replace(aside, folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if error.errno not in NO_SPACE:
            raise
        raise disk_full(folder, error) from None
    return folder


def _digest(row: Dataset, settings: DrawnSettings) -> str:
    """Returns 12 digits that change with the settings and with the code that draws, comments left out."""
    layout = [row.layout.images.text, row.layout.masks.text, dict(row.layout.splits), asdict(row.own_space)]
    drawn = [row.format, asdict(settings), *(layout if row.format == "folders" else ())]
    digest = hashlib.sha256(canonical_json(drawn).encode())
    for path in (__file__, filming.__file__, scenes.__file__, sprites.__file__, textures.__file__):
        digest.update(code_without_prose(Path(path).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def read_settings(row: Dataset) -> DrawnSettings:
    """Returns the settings of a drawn dataset, defaults of the schema filled in.

    Raises:
        UserError: a format that cannot be drawn, an unknown key, or a value that is not allowed.
    """
    if row.format not in _SETTINGS:
        raise UserError(f"data.{row.name}.root: is null; only formats {', '.join(_SETTINGS)} can be drawn")
    if row.format == "folders" and ("*" in row.layout.images.text.removesuffix(".*") or "*" in row.layout.masks.text):
        raise UserError(f"data.{row.name}: images and masks hold *, so that no file can be drawn; name root")
    where = f"data.{row.name}.drawn"
    return read_section(_SETTINGS[row.format], f"drawn_{row.format}", row.settings.drawn, where=where)


def _draw_all(row: Dataset, settings: DrawnSettings, folder: Path) -> None:
    if isinstance(settings, DrawnVspw):
        clips = _vspw_clips(settings, folder)
    elif isinstance(settings, DrawnCocoStuff):
        clips = _coco_clips(settings)
    else:
        clips = _folder_clips(row.layout, settings, folder)
    task = partial(_draw_clip, row=row, height=settings.height, folder=str(folder))
    noun = "image" if row.format == "coco_stuff" else "video"
    drawn = map_in_order(task, clips, worth=_CLIPS_WORTH_PROCESSES)
    for _ in track(drawn, what=f"draw {row.name}", total=len(clips), unit=noun):
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
            images = tuple(f"data/{video}/origin/{frame}.jpg" for frame in frames)
            masks = tuple(f"data/{video}/mask/{frame}.png" if split != "test" else "" for frame in frames)
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
            clips.append(_Clip(seed, k, aspect, (f"images/{stem}.jpg",), (f"stuffthingmaps/{stem}.png",)))
    return clips


def _folder_clips(layout: DatasetLayout, settings: DrawnFolders, folder: Path) -> list[_Clip]:
    clips = []
    counts = (
        ("train", settings.train_videos, settings.train_frames),
        ("val", settings.val_videos, settings.val_frames),
    )
    for number, (split, num_videos, num_frames) in enumerate(counts):
        names = []
        for k in range(num_videos):
            scene = scenes.SCENES[k % len(scenes.SCENES)].__name__
            video = f"{split}-{k:03d}-{scene}"
            frames = [f"{t:06d}" if "video" in layout.images.names else f"{video}-{t:06d}" for t in range(num_frames)]
            where = {"split": layout.folder_name(split) if split in layout.splits else split, "video": video}
            images = tuple(layout.images.path(**where, frame=frame) for frame in frames)
            masks = tuple(
                "" if t % settings.mask_every else layout.masks.path(**where, frame=frame)
                for t, frame in enumerate(frames)
            )
            aspect = _VSPW_ASPECTS[k % len(_VSPW_ASPECTS)]
            clips.append(_Clip((settings.seed, 2, number, k), k, aspect, images, masks))
            names += [video] if "video" in layout.images.names else frames
        if split in layout.splits and (file := layout.list_file(split)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / file, "".join(f"{name}\n" for name in names))
    return clips


def _draw_clip(clip: _Clip, *, row: Dataset, height: int, folder: str) -> None:
    rng = np.random.default_rng(clip.seed)
    width = int(height * clip.aspect)
    to_raw = raw_of_keys(row)
    film = scenes.film(rng, scene=clip.scene, height=height, width=width, frames=len(clip.images))
    for position, (image, keys) in enumerate(film):
        path = Path(folder, clip.images[position])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=_QUALITY[row.format])
        if clip.masks[position]:
            path = Path(folder, clip.masks[position])
            path.parent.mkdir(parents=True, exist_ok=True)
            _save_mask(path, to_raw[keys], row)


def _save_mask(path: Path, raw: np.ndarray, row: Dataset) -> None:
    if row.own_space.mask_colours:
        raw = np.array(row.own_space.mask_colours, np.uint8)[raw]
    mask = Image.fromarray(raw)
    if row.format == "vspw":
        mask.putpalette(submission_palette().tobytes())
    mask.save(path)


def raw_of_keys(row: Dataset) -> np.ndarray:
    """Returns the raw mask id of each of `filming.KEYS` in a dataset, [keys] uint8 (uint16 for ids above 255).

    Raises:
        UserError: the class table has no row that is ignored.
    """
    space = row.own_space
    if not space.ignored:
        raise UserError(f"data.{row.name}.classes: the drawn scenes have places without a class; add an ignored row")
    names = CLASSES.get(row.format) or {key: key for key in filming.KEYS if key in space.classes}
    raw = {key: space.raw_ids[space.train_ids.index(space.classes.index(name))] for key, name in names.items()}
    raw["void"] = space.ignored[-1]
    return np.array([raw.get(key, space.ignored[0]) for key in filming.KEYS], np.min_scalar_type(max(raw.values())))
