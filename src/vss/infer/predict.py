"""`vss predict`: a model on a user's own images, folders of images and video files."""

from __future__ import annotations

import collections
import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vss.configs.resolved import ModelConfig, ViewSettings, read_model_config
from vss.core.errors import UserError
from vss.core.files import atomic_path, write_json, write_text
from vss.core.images import read_image
from vss.core.labels import label_picture, overlay_palette
from vss.core.log import counted, log, one_line, track
from vss.core.video import VideoFrame, frame_name, open_video
from vss.infer.engine import Engine
from vss.infer.estimate import check_inference
from vss.infer.frame_size import Size
from vss.infer.load import load_engine, plan_inference
from vss.infer.model_files import find_model
from vss.infer.overlay import draw_legend, draw_overlay
from vss.infer.page import Gallery, prediction_page
from vss.infer.predictions import FrameCallbacks, predictions
from vss.infer.sources import WRITTEN, Source, find_sources, title, written_before
from vss.infer.video import video_writer

_NAMED_FAILURES = 5


def predict(
    *,
    inputs: Sequence[str | os.PathLike],
    model: str | os.PathLike,
    out_dir: str | os.PathLike,
    results: str | os.PathLike = "results",
    tta: ViewSettings | None = None,
    probabilities: bool = False,
    page: bool = False,
    device: str = "auto",
    workers: int | None = None,
) -> None:
    """Writes label maps and overlays of images, folders of images and videos.

    Results: `labels/<name>.png`, a P-mode PNG of train ids in the overlays' colours, `overlays/<name>.jpg`, and
    `legend.png` with the colours and names of the classes that were found; for a folder or a video below a folder of
    its name, and for a video `overlay.mp4` instead of single overlays. An input that cannot be read is left out and
    named at the end.

    Args:
        inputs: image files, video files, or folders whose images are taken, subfolders included; hidden files,
            earlier results and VSPW's masks are not.
        model: a folder, a trained model's name or "ROW:FILE", see `vss.infer.model_files.find_model`.
        out_dir: folder for the results; files of the same name are replaced, and what an earlier prediction of a
            folder or a video of the same name left is removed.
        results: the results folder of a config.
        tta: view settings, keys of `vss.configs.tta.Tta`; they override the model's own.
        probabilities: whether to write `probabilities/<name>.npy` as well, [C, H, W] float32 of each frame.
        page: whether to write `page.html` as well: images next to their overlays, in one file that needs no network.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: see `vss.infer.predictions.predictions`.

    Raises:
        UserError: no such model, an input that is none of these or cannot be read, two inputs of one name, or a frame
            that cannot fit into memory.
    """
    out_dir = Path(out_dir)
    sources = find_sources(inputs, out_dir)
    files = find_model(model, results=results)
    config = read_model_config(files.config, where=files.name)
    settings = {"tta": dict(tta or {}), "protocol": config.protocol, "prediction": files.name}
    plan = plan_inference(config, settings, device)
    failures: list[str] = []
    at_once: dict[str, Any] = {"workers": workers}
    if sizes := _sizes(sources, failures):
        what = f"predict with {files.name}"
        at_once = check_inference(plan, sizes, what=what, with_probabilities=probabilities, **at_once)
        engine = load_engine(plan, files.weights)
        galleries = []
        for source in sources:
            run = _Run(engine, source, out_dir, config, probabilities, page, at_once, failures)
            run.video() if source.kind == "video" else run.images()
            galleries += [run.gallery] if run.gallery else []
        if page:
            text = prediction_page(galleries, model=files.name, classes=config.classes or ())
            write_text(out_dir / "page.html", text)
        log(f"label maps and overlays are in {out_dir}")
    if failures:
        distinct = list(dict.fromkeys(failures))
        rest = f"; and {len(distinct) - _NAMED_FAILURES} more" if len(distinct) > _NAMED_FAILURES else ""
        raise UserError("; ".join(distinct[:_NAMED_FAILURES]) + rest)


def _sizes(sources: Sequence[Source], failures: list[str]) -> dict[Size, int]:
    """Returns how many frames of which (height, width) there are, as the files' headers say.

    Files without a readable header are appended to `failures`.
    """
    sizes: collections.Counter[Size] = collections.Counter()
    for source in sources:
        if source.kind == "video":
            try:
                with open_video(source.path) as (header, _):
                    sizes[header.size] += max(header.frames, 1)
            except UserError as error:
                failures.append(one_line(str(error)))
        for _, path in source.files:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    with Image.open(path) as image:
                        sizes[image.height, image.width] += 1
            except Image.DecompressionBombError:
                failures.append(one_line(f"{path}: more pixels than are allowed"))
            except Exception:  # image libraries raise many types on damaged files
                failures.append(one_line(f"{path}: not a readable image"))
    return dict(sizes)


class _Run:
    """The prediction of one input: its frames through the engine, its files, and what an earlier one left."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        out_dir: Path,
        config: ModelConfig,
        with_probabilities: bool,
        with_page: bool,
        at_once: Mapping[str, Any],
        failures: list[str],
    ) -> None:
        self._engine, self._source, self._classes = engine, source, config.classes or ()
        self._palette = overlay_palette(config.colours, num_classes=len(self._classes))
        self._folder = out_dir / source.folder
        self._with_probabilities, self._at_once, self._failures = with_probabilities, at_once, failures
        self._written: list[str] = []  # relative to the folder
        self._found = np.zeros(len(self._palette), bool)  # train ids
        self.gallery = Gallery(title(source), self._palette) if with_page else None
        self._before = written_before(self._folder)

    def images(self) -> None:
        """Predicts single images, each with an overlay of its own."""
        decoded: dict[str, np.ndarray] = {}  # of the frames under way

        def read(item: tuple[str, Path]) -> np.ndarray | None:
            name, path = item
            try:
                decoded[name] = read_image(path, upright=True)
            except UserError as error:
                self._fail(path, str(error))
                return None
            return decoded[name]

        def finish(item: tuple[str, Path], labels: np.ndarray, probabilities: np.ndarray | None) -> None:
            name, _ = item
            self._write_frame(name, labels, probabilities)
            with self._whole(f"overlays/{name}.jpg") as aside:
                Image.fromarray(self._overlay(name, decoded.pop(name), labels)).save(aside, quality=92)

        callbacks = FrameCallbacks(read, finish, lambda item: str(item[1]), self._with_probabilities)
        found = predictions(self._engine, self._source.files, callbacks, **self._at_once)
        for _ in track(found, what=f"predict {title(self._source)}", total=len(self._source.files)):
            pass
        self._end()

    def video(self) -> None:
        """Predicts the frames of a video, with one overlay video that shows each as long as the video does."""

        def finish(frame: VideoFrame, labels: np.ndarray, probabilities: np.ndarray | None) -> np.ndarray:
            self._write_frame(frame_name(frame.number), labels, probabilities)
            return self._overlay(frame_name(frame.number), frame.image, labels)

        name = title(self._source)
        callbacks = FrameCallbacks(
            read=lambda frame: frame.image,
            finish=finish,
            name=lambda frame: f"{name}, frame {frame.number}",
            with_probabilities=self._with_probabilities,
        )
        with contextlib.ExitStack() as stack:
            try:
                header, frames = stack.enter_context(open_video(self._source.path))
            except UserError as error:
                self._fail(self._source.path, str(error))
                return
            found = predictions(self._engine, frames, callbacks, **self._at_once)
            write = None
            for frame, overlay in track(found, what=f"predict {name}", total=header.frames or None):
                if write is None:
                    target = self._folder / "overlay.mp4"
                    write = stack.enter_context(video_writer(target, overlay.shape[:2], header.fps))
                    self._written.append("overlay.mp4")
                write(overlay, frame.seconds)
        if write is None:
            self._fail(self._source.path, f"{self._source.path}: no frame of this video can be decoded")
            return
        self._end()

    def _write_frame(self, name: str, labels: np.ndarray, probabilities: np.ndarray | None) -> None:
        self._found[np.unique(labels)] = True
        with self._whole(f"labels/{name}.png") as aside:
            label_picture(labels, self._palette).save(aside)
        if probabilities is not None:
            with self._whole(f"probabilities/{name}.npy") as aside:
                np.save(aside, probabilities)

    def _overlay(self, name: str, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        overlay = draw_overlay(image, labels, self._classes, self._palette)
        if self.gallery is not None:
            self.gallery.add(name, image, overlay, labels)
        return overlay

    @contextlib.contextmanager
    def _whole(self, name: str) -> Any:
        with atomic_path(self._folder / name) as aside:
            yield aside
        self._written.append(name)

    def _fail(self, path: Path, message: str) -> None:
        known = f"{one_line(str(path))}: "
        if not any(failure.startswith(known) for failure in self._failures):  # already reported by its header
            self._failures.append(one_line(message))

    def _end(self) -> None:
        """Writes the legend and the list of files, and removes files of an earlier prediction that are not of this."""
        present = [number for number in range(len(self._classes)) if self._found[number]]
        if present:
            with self._whole("legend.png") as aside:
                Image.fromarray(draw_legend(self._classes, present, self._palette)).save(aside)
        earlier = set(self._before) - set(self._written)
        if self._source.folder:
            stale = [self._folder / name for name in sorted(earlier) if (self._folder / name).is_file()]
            for path in stale:
                path.unlink()
            if stale:
                log(f"{self._folder}: removed {counted(len(stale), 'file')} of an earlier prediction of this name")
            earlier = set()
        write_json(self._folder / WRITTEN, {"files": sorted({*self._written, *earlier})})
