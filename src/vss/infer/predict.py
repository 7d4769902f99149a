"""`vss predict`: a trained model on a user's own images, folders of images and video files."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vss.core.errors import UserError
from vss.core.files import atomic_path
from vss.core.images import read_image
from vss.core.labels import overlay_palette
from vss.core.log import log, track
from vss.infer.engine import Engine
from vss.infer.estimate import check_inference
from vss.infer.frame_size import Size
from vss.infer.load import load_engine, read_plan
from vss.infer.overlay import draw_overlay
from vss.infer.predictions import FrameCallbacks, predictions

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
_DEFAULT_FPS = 25.0
_VIDEO_HEADER = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_COUNT)


@dataclass(frozen=True)
class Source:
    """One input of the user.

    Attributes:
        path: the file or folder.
        kind: "images" or "video".
        files: of images: (name without suffix, relative to the output; path).
        folder: where its results go, below the output folder.
    """

    path: Path
    kind: str
    files: tuple[tuple[str, Path], ...]
    folder: str


def predict(
    *,
    inputs: Sequence[str | os.PathLike],
    model_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    tta: Mapping[str, Any] | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> None:
    """Writes label maps and overlays of images, folders of images and videos.

    Results: `labels/<name>.png`, a P-mode PNG of train ids in the overlays' colours, and `overlays/<name>.jpg`; for
    a folder or a video below a folder of its name, and for a video `overlay.mp4` instead of single overlays.

    Args:
        inputs: image files, video files, or folders whose images are taken, subfolders included.
        model_dir: folder with `config.json` and `weights.safetensors`.
        out_dir: folder for the results; files of the same name are replaced.
        tta: view settings, keys of `vss.infer.views.Tta`; they override the model's own.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: see `vss.infer.predictions.predictions`.

    Raises:
        UserError: no such model, an input that is none of these or cannot be read, two inputs of one name, or a frame
            that cannot fit into memory.
    """
    sources = [find_source(Path(path)) for path in inputs]
    _refuse_equal_names(sources)
    model_dir, out_dir = Path(model_dir), Path(out_dir)
    for name in ("config.json", "weights.safetensors"):
        if not (model_dir / name).is_file():
            known = ", ".join(
                sorted(folder.name for folder in model_dir.parent.glob("*/") if (folder / name).is_file())
            )
            raise UserError(
                f"{model_dir / name}: no such file; train the model first, or name another (a single model; --results"
                f" names another folder). In {model_dir.parent}: {known or 'none'}"
            )
    plan = read_plan(model_dir / "config.json", {"tta": dict(tta or {}), "prediction": model_dir.name}, device)
    if "classes" not in plan.config:
        raise UserError(f"{model_dir / 'config.json'}: key 'classes' is missing")
    at_once: dict[str, Any] = {"workers": workers}
    if sizes := _sizes(sources):
        at_once = check_inference(plan, sizes, what=f"predict with {model_dir.name}", **at_once)
    engine = load_engine(plan, model_dir / "weights.safetensors")
    for source in sources:
        run = _predict_video if source.kind == "video" else _predict_images
        run(engine, source, out_dir / source.folder, plan.config["classes"], at_once)
    log(f"label maps and overlays are in {out_dir}")


def find_source(path: Path) -> Source:
    """Returns what an input is.

    Raises:
        UserError: it does not exist, holds no images, or is neither image, video nor folder.
    """
    if path.is_dir():
        given, path = (
            path,
            path / "origin" if (path / "origin").is_dir() else path,
        )  # a video of VSPW, without its masks
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not found:
            raise UserError(
                f"{path}: no images in this folder; suffixes looked for: {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        files = tuple((file.relative_to(path).with_suffix("").as_posix(), file) for file in found)
        return Source(path, "images", files, given.resolve().name)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Source(path, "video", (), path.stem)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Source(path, "images", ((path.stem, path),), "")
    allowed = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise UserError(f"{path}: neither a folder nor an image nor a video; suffixes known: {allowed}")


def _refuse_equal_names(sources: Sequence[Source]) -> None:
    seen: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    for source in sources:
        if source.folder and folders.setdefault(source.folder, source.path) is not source.path:
            raise UserError(f"{source.path}: its results would mix with those of {folders[source.folder]}; rename one")
        names = [name for name, _ in source.files] if source.kind == "images" else [""]
        paths = [path for _, path in source.files] if source.kind == "images" else [source.path]
        for name, path in zip(names, paths, strict=True):
            key = f"{source.folder}/{name}"
            if key in seen:
                raise UserError(f"{path}: its results would replace those of {seen[key]}; rename one of them")
            seen[key] = path


def _sizes(sources: Sequence[Source]) -> dict[Size, int]:
    """Returns how many frames of which (height, width) there are, as the files' headers say.

    An image whose header cannot be read is left out: its decoding tells what is wrong with it.
    """
    sizes: collections.Counter[Size] = collections.Counter()
    for source in sources:
        if source.kind == "video":
            capture = _open_video(source.path)
            height, width, frames = (int(capture.get(key)) for key in _VIDEO_HEADER)
            capture.release()
            if min(height, width) > 0:
                sizes[height, width] += max(frames, 1)
        for _, path in source.files:
            with contextlib.suppress(OSError, Image.DecompressionBombError), Image.open(path) as image:
                sizes[image.height, image.width] += 1
    return dict(sizes)


def _predict_images(
    engine: Engine, source: Source, folder: Path, classes: Sequence[str], at_once: Mapping[str, Any]
) -> None:
    decoded: dict[str, np.ndarray] = {}  # of the frames under way

    def read(item: tuple[str, Path]) -> np.ndarray:
        name, path = item
        decoded[name] = read_image(path, upright=True)
        return decoded[name]

    def finish(item: tuple[str, Path], labels: np.ndarray, _: None) -> None:
        name, _path = item
        _write_labels(folder / "labels" / f"{name}.png", labels)
        _write_jpeg(folder / "overlays" / f"{name}.jpg", draw_overlay(decoded.pop(name), labels, classes))

    callbacks = FrameCallbacks(read=read, finish=finish, name=lambda item: str(item[1]))
    found = predictions(engine, source.files, callbacks, **at_once)
    for _ in track(found, what=f"predict {source.path}", total=len(source.files)):
        pass


def _predict_video(
    engine: Engine, source: Source, folder: Path, classes: Sequence[str], at_once: Mapping[str, Any]
) -> None:
    def finish(item: tuple[int, np.ndarray], labels: np.ndarray, _: None) -> np.ndarray:
        number, image = item
        _write_labels(folder / "labels" / f"{number:08d}.png", labels)
        return draw_overlay(image, labels, classes)

    callbacks = FrameCallbacks(
        read=lambda item: item[1], finish=finish, name=lambda item: f"{source.path}, frame {item[0]}"
    )
    with contextlib.ExitStack() as stack:
        capture = _open_video(source.path)
        stack.callback(capture.release)
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        found = predictions(engine, _video_frames(capture), callbacks, **at_once)
        write, done = None, 0
        for _, overlay in track(found, what=f"predict {source.path}", total=frames if frames > 0 else None):
            if write is None:
                fps = capture.get(cv2.CAP_PROP_FPS)
                write = stack.enter_context(_video_writer(folder / "overlay.mp4", overlay.shape[:2], fps))
            write(overlay)
            done += 1
        if write is None:
            raise UserError(f"{source.path}: no frame of this video can be decoded")
        if done < frames:
            log(f"{source.path}: {done} of the {frames} frames that it announces could be decoded")


def _open_video(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"{path}: not a video that OpenCV can decode")
    return capture


def _video_frames(capture: cv2.VideoCapture) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number, [H, W, 3] uint8 RGB) as the decoder gives them."""
    number = 0
    while True:
        decoded, image = capture.read()
        if not decoded:
            return
        yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        number += 1


@contextlib.contextmanager
def _video_writer(path: Path, size: tuple[int, int], fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives a function that appends an RGB frame of one size to a video file.

    The codec halves the resolution of colours: where a side is odd, the last row or column is there twice.
    """
    below, right = size[0] % 2, size[1] % 2
    with atomic_path(path) as aside:
        codec = cv2.VideoWriter_fourcc(*"mp4v")
        even = (size[1] + right, size[0] + below)
        writer = cv2.VideoWriter(str(aside), codec, fps if fps > 0 else _DEFAULT_FPS, even)
        if not writer.isOpened():
            raise UserError(f"{path}: OpenCV cannot encode mp4 video here")
        try:
            yield lambda image: writer.write(
                cv2.copyMakeBorder(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), 0, below, 0, right, cv2.BORDER_REPLICATE)
            )
        finally:
            writer.release()


def _write_labels(path: Path, labels: np.ndarray) -> None:
    image = Image.fromarray(labels)
    image.putpalette(overlay_palette().tobytes())
    with atomic_path(path) as aside:
        image.save(aside)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    with atomic_path(path) as aside:
        Image.fromarray(image).save(aside, quality=92)
