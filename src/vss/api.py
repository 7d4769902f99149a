"""The library's front door: load a model and predict, score a folder of predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vss.configs.resolved import ViewSettings, read_model_config
from vss.core.errors import UserError
from vss.core.files import JsonObject
from vss.core.images import read_image
from vss.core.video import VideoFrame, open_video
from vss.infer.engine import Engine
from vss.infer.estimate import check_inference
from vss.infer.load import InferencePlan, build_engine, load_segmentor, plan_inference
from vss.infer.model_files import ModelFiles, find_model
from vss.infer.predictions import FrameCallbacks, predictions

# Pixels above which the memory for a frame is estimated before it is predicted: on a CPU, a frame that does not fit
# would get the process killed.
_LARGE = 1920 * 1080

Frame = np.ndarray | str | os.PathLike


class Model:
    """A model that is loaded and ready to predict; `load` makes one.

    Attributes:
        name: what it is called: the folder's or the row's name.
        classes: class names, position = train id.
        config: the resolved config.
        device: "cpu", "cuda" or "cuda:N".
    """

    def __init__(self, files: ModelFiles, device: str = "auto") -> None:
        self.name, self.config = files.name, files.config
        self.classes: list[str] = list(files.config["classes"])
        plan = self._plan({}, device)
        self.device = str(plan.device)
        self._segmentor = load_segmentor(plan.config, files.weights)
        self._engine = build_engine(plan, self._segmentor)

    def predict(self, frame: Frame, tta: ViewSettings | None = None) -> np.ndarray:
        """Returns the label map [H, W] of train ids of one frame, uint8 or of more than 255 classes uint16.

        Args:
            frame: an image file, which is turned as its EXIF says, or an array [H, W, 3] uint8 RGB.
            tta: view settings, keys of the config's `tta`, such as {"flip": True}; they override the model's own.

        Raises:
            UserError: the image cannot be read, the array is none of this kind, a setting is unknown, the model
                returned inf or nan, or the frame does not fit into memory.
        """
        return self._run(frame, tta, with_probabilities=False)[0]

    def probabilities(self, frame: Frame, tta: ViewSettings | None = None) -> np.ndarray:
        """Returns the class probabilities [C, H, W] float32 of one frame; they sum to 1 over C.

        Args and errors as `predict`.
        """
        return self._run(frame, tta, with_probabilities=True)[1]

    def predict_video(
        self, path: str | os.PathLike, tta: ViewSettings | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (frame [H, W, 3] uint8 RGB, its label map [H, W]) of a video file, in order.

        Args and errors as `predict`; needs the extra `video`.
        """
        callbacks: FrameCallbacks[VideoFrame, np.ndarray] = FrameCallbacks(
            read=lambda frame: frame.image,
            finish=lambda frame, labels, _: labels,
            name=lambda frame: f"{path}, frame {frame.number}",
        )
        with open_video(path) as (_, frames):
            for frame, labels in predictions(self._engine_with(tta), frames, callbacks):
                yield frame.image, labels

    def _run(self, frame: Frame, tta: ViewSettings | None, *, with_probabilities: bool) -> Any:
        image, engine = _image(frame), self._engine_with(tta)
        if (size := image.shape[:2])[0] * size[1] > _LARGE:
            what = f"predict with {self.name}"
            plan = self._plan(tta, self.device)
            check_inference(plan, {size: 1}, what=what, with_probabilities=with_probabilities, workers=1)
        found = engine.predict([engine.resize(image)], with_probabilities=with_probabilities)
        if not found.finite[0]:
            raise UserError(f"{self.name}: the model returned inf or nan; check its weights and precision")
        probabilities = None if found.probabilities is None else found.probabilities[0].cpu().numpy()
        return found.labels[0].cpu().numpy(), probabilities

    def _engine_with(self, tta: ViewSettings | None) -> Engine:
        return build_engine(self._plan(tta, self.device), self._segmentor) if tta else self._engine

    def _plan(self, tta: ViewSettings | None, device: str) -> InferencePlan:
        settings = {"tta": dict(tta or {}), "protocol": self.config.get("protocol", "paper")}
        return plan_inference(read_model_config(self.config, where=self.name), settings, device)


def load(model: str | os.PathLike, weights: str | os.PathLike | None = None, *, device: str = "auto") -> Model:
    """Loads a model.

    Args:
        model: a folder with `config.json` and `weights.safetensors`, such as `results/finetune/swin`; a row's name
            (`vss models` lists them), with `weights`; or "ROW:FILE".
        weights: safetensors or a published checkpoint; None = those of the folder.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such model or device, or the weights do not fill the model.
    """
    return Model(find_model(model, weights), device)


def score(
    predicted: str | os.PathLike,
    dataset: str | os.PathLike,
    *,
    split: str = "val",
    layout: str | None = None,
    ids: str | None = None,
    data: JsonObject | None = None,
) -> dict[str, Any]:
    """Returns the scores of a folder of predictions, as in `scores.json`; see `vss.score.folders.score_folder`."""
    from vss.score.folders import score_folder

    return score_folder(predicted, dataset, split=split, layout=layout, ids=ids, data=data)


def _image(frame: Frame) -> np.ndarray:
    if isinstance(frame, (str, os.PathLike)):
        return read_image(frame, upright=True)
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"frame: found {found}, expected a path or an array [H, W, 3] uint8 RGB")
    if not frame.size:
        raise UserError(f"frame: found an empty array of shape {frame.shape}")
    return frame
