"""Proposals of SAM 2 (package `transformers`): objects that are found by a grid of points and followed through a video.

A video is worked on in windows: every `key_interval` frames a grid of points gives masks, and each of them is followed
through `key_interval + overlap` frames. An object of a window whose masks have a high IoU with those of one of the
window before, in the frames that both see, is the same object and keeps its id.

What is held at once does not depend on the length of a video, on its frames' size, nor on how many objects are in it:
the features of a window (17 MB per frame at SAM 2's 1024 pixels), the memory of `objects_per_batch` objects (1.6 MB per
object and each of the 7 frames that SAM 2 remembers), and per point of the grid at most one object: its run lengths in
the window and its mask, of 256 x 256 pixels, in the frames that are shared with the windows before and after.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import masks_to_boxes, nms
from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel, Sam2VideoVideoProcessor

from vss.core.batch_size import BatchSize
from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.core.files import read_json
from vss.refine.precision import working_dtype
from vss.refine.proposals import RunLengths, runs_of
from vss.refine.settings import Sam2Settings, sam2_config
from vss.weights.weights_file import read_weights


@dataclass(frozen=True)
class _EncodedFrame:
    """A frame in the window.

    Attributes:
        size: height and width in pixels.
        features: maps of the image encoder, finest first, each [h * w, 1, C].
    """

    size: tuple[int, int]
    features: list[Tensor]


@dataclass(frozen=True)
class _FollowedObjects:
    """The M objects that were followed through a window.

    Attributes:
        runs: per frame, per object: the run lengths of its mask.
        shared: by position in the window, of frames that another window sees too: the objects' masks [M, h * w] bool,
            at the size that SAM 2 gives them and on the CPU.
        ids: [M] int64 of the objects.
    """

    runs: list[list[np.ndarray]]
    shared: dict[int, Tensor]
    ids: np.ndarray


class Sam2Proposer:
    """Makes masks of objects that are followed through a video.

    Args:
        model: in eval mode on its device.
        settings: `sam2` of the schema.
    """

    def __init__(self, model: Sam2VideoModel, settings: Sam2Settings) -> None:
        self._model, self._settings, self.device = model, settings, str(model.device)
        self._dtype = working_dtype(settings.precision, model.device, what="propose sam2")
        self._side = int(np.max(model.config.image_size))
        self._processor = Sam2VideoVideoProcessor(size={"height": self._side, "width": self._side})
        self._positions: list[Tensor] = []  # of the features' cells, alike in all frames
        self._points_at_once = BatchSize("propose sam2", "points")
        self._objects_at_once = BatchSize("propose sam2", "objects")

    @classmethod
    def load(cls, settings: Sam2Settings, *, weights: str | None, device: str) -> Sam2Proposer:
        """Builds the model from weights and from the config next to them; nothing is downloaded.

        Args:
            settings: `sam2` of the schema.
            weights: `model.safetensors` as published for transformers, in a folder with its `config.json`.
            device: "auto", "cpu", "cuda" or "cuda:N".

        Raises:
            UserError: weights or config missing, unreadable or not SAM 2's.
        """
        if weights is None:
            raise UserError("propose sam2: no weights given; it needs SAM 2's model.safetensors and config.json")
        model = Sam2VideoModel(_read_config(weights))
        read_weights(weights).fill(model)
        return cls(model.eval().to(resolve_device(device)), settings)

    def start_of(self, position: int) -> int:
        """Returns 0, for ids are counted from the first frame on."""
        return 0

    @torch.inference_mode()
    def propose_video(self, images: Iterable[np.ndarray]) -> Iterator[RunLengths]:
        """Yields the masks of every frame [H, W, 3] uint8 RGB, which may overlap, with the ids of their objects.

        An object that is out of sight has a mask without pixels.

        Raises:
            UserError: a window's frames, or one object, do not fit into the GPU's memory.
        """
        interval, overlap = self._settings.key_interval, self._settings.overlap
        before, known = None, 0
        for frames in windows(map(self._encoded, images), interval, interval + overlap):
            try:
                runs, shared = self._followed(frames)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"propose sam2: one object does not fit into the memory of {self.device};"
                    " use weights of a smaller SAM 2"
                ) from error
            window = _FollowedObjects(runs, shared, self._ids_of(shared, len(runs[0]), before, known))
            known = max(known, 1 + int(window.ids.max(initial=-1)))
            for frame, counts in zip(frames[:interval], runs, strict=True):
                yield RunLengths.from_coco(frame.size, counts, window.ids)
            before = window

    def _encoded(self, image: np.ndarray) -> _EncodedFrame:
        pixels = self._processor([image[None]], return_tensors="pt")["pixel_values_videos"][0]
        try:
            with torch.autocast(torch.device(self.device).type, self._dtype, enabled=self._dtype is not torch.float32):
                found = self._model.get_image_features(pixels.to(self.device))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"propose sam2: {self._settings.key_interval + self._settings.overlap} frames do not fit into the"
                f" memory of {self.device}; lower key_interval, or use weights of a smaller SAM 2"
            ) from error
        self._positions = self._positions or [position.float() for position in found.fpn_position_encoding]
        return _EncodedFrame(image.shape[:2], [features.float() for features in found.fpn_hidden_states])

    def _followed(self, frames: list[_EncodedFrame]) -> tuple[list[list[np.ndarray]], dict[int, Tensor]]:
        """Finds objects in the first frame of a window and follows them through it; returns `runs` and `shared`."""
        interval, overlap = self._settings.key_interval, self._settings.overlap
        found = self._points_at_once.run(
            lambda points: self._masks_at_grid(frames[0], points), self._settings.points_per_batch
        )

        def follow(objects: int) -> tuple[list[list[np.ndarray]], dict[int, Tensor]]:
            runs: list[list[np.ndarray]] = [[] for _ in frames[:interval]]
            shared: dict[int, list[Tensor]] = {at: [] for at in range(len(frames)) if at < overlap or at >= interval}
            for part in found.split(objects):
                for at, logits in enumerate(self._tracks(part, frames)):
                    if at < interval:
                        runs[at] += [_runs(mask, frames[at].size) for mask in logits]
                    if at in shared:
                        shared[at].append((logits > 0).flatten(1).cpu())
            return runs, {at: torch.cat(masks) for at, masks in shared.items()}

        return self._objects_at_once.run(follow, self._settings.objects_per_batch)

    def _masks_at_grid(self, frame: _EncodedFrame, points_at_once: int) -> Tensor:
        """Returns the masks [M, h, w] of a grid of points as logits: of each point the best, without duplicates."""
        model, settings = self._model, self._settings
        maps = [
            features.permute(1, 2, 0).unflatten(2, tuple(size))
            for features, size in zip(frame.features, model.backbone_feature_sizes, strict=True)
        ]
        maps[-1] = maps[-1] + model.no_memory_embedding.reshape(1, -1, 1, 1)
        centres = (torch.arange(settings.points_per_side, device=maps[0].device) + 0.5) / settings.points_per_side
        y, x = torch.meshgrid(centres * self._side, centres * self._side, indexing="ij")
        grid = torch.stack([x, y], dim=-1).reshape(1, -1, 1, 2)

        masks, quality = [], []
        for points in grid.split(points_at_once, dim=1):
            sparse, dense = model.get_prompt_embeddings(points, torch.ones_like(points[..., 0], dtype=torch.int))
            logits, predicted_iou, _, _ = model.mask_decoder(
                image_embeddings=maps[-1],
                image_positional_embeddings=model.get_image_wide_positional_embeddings(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
                high_resolution_features=maps[:-1],
            )
            best, which = predicted_iou[0].max(dim=1)
            logits = logits[0, torch.arange(len(which)), which]
            stable = _stability(logits, settings.stability_score_offset) >= settings.stability_score_thresh
            kept = (best >= settings.pred_iou_thresh) & stable & (logits > 0).flatten(1).any(dim=1)
            masks.append(logits[kept])
            quality.append(best[kept])
        found = torch.cat(masks)
        if not len(found):
            return found
        return found[nms(masks_to_boxes(found > 0), torch.cat(quality), settings.box_nms_thresh)]

    def _tracks(self, found: Tensor, frames: list[_EncodedFrame]) -> Iterator[Tensor]:
        """Yields, for every frame of a window, the masks [M, h, w] as logits of objects that were found in the first.

        A session of transformers keeps for every object and frame its mask at 1024 x 1024 pixels and its memory; here
        the former is dropped at once, and the latter as soon as it is older than what is read.
        """
        yield found
        if not len(found):
            yield from [found] * (len(frames) - 1)
            return
        session = Sam2VideoInferenceSession(
            video=torch.empty(len(frames), 0),  # only its length is read: the frames' features are cached below
            inference_device=self.device,
            inference_state_device=self.device,
            dtype=torch.float32,
            max_vision_features_cache_size=len(frames),
        )
        for at, frame in enumerate(frames):
            features = {"vision_feats": frame.features, "vision_pos_embeds": self._positions}
            session.cache.cache_vision_features(at, features)
        for number, logits in enumerate(found):
            session.add_mask_inputs(session.obj_id_to_idx(number), 0, (logits > 0)[None, None])
        session.obj_with_new_inputs = list(session.obj_ids)
        for at in range(len(frames)):
            logits = self._model(session, frame_idx=at).pred_masks
            for outputs in session.output_dict_per_obj.values():
                for stored in (*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()):
                    stored.pop("high_res_masks", None)
                outdated = outputs["non_cond_frame_outputs"].get(at + 1 - self._model.num_maskmem, {})
                for key in ("pred_masks", "maskmem_features", "maskmem_pos_enc"):
                    outdated.pop(key, None)
            if at:
                yield logits[:, 0]

    def _ids_of(
        self, shared: dict[int, Tensor], objects: int, before: _FollowedObjects | None, known: int
    ) -> np.ndarray:
        """Returns the ids of a window's objects: of those of the window before that are the same, or new ones."""
        ids = np.full(objects, -1, np.int64)
        interval = self._settings.key_interval
        both = [] if before is None else [at for at in shared if at + interval in before.shared]
        if before is not None and both and objects and len(before.ids):
            # IoU of every pair over all frames that both windows see.
            common, areas = torch.zeros(len(before.ids), objects), torch.zeros(len(before.ids), objects)
            for at in both:
                theirs, ours = before.shared[at + interval].float(), shared[at].float()
                common += theirs @ ours.T
                areas += theirs.sum(dim=1)[:, None] + ours.sum(dim=1)
            iou = common / (areas - common).clamp(min=1)
            theirs, ours = iou.argmax(dim=0), torch.arange(objects)
            same = (iou.argmax(dim=1)[theirs] == ours) & (iou[theirs, ours] >= self._settings.least_iou)
            ids[same.numpy()] = before.ids[theirs[same].numpy()]
        new = ids < 0
        ids[new] = known + np.arange(new.sum())
        return ids


def windows(frames: Iterable[_EncodedFrame], interval: int, length: int) -> Iterator[list[_EncodedFrame]]:
    """Yields `length` neighbouring frames from every `interval`-th on, fewer at the end; reads lazily."""
    window: list[_EncodedFrame] = []
    for frame in frames:
        window.append(frame)
        if len(window) == length:
            yield window
            window = window[interval:]
    while window:
        yield window
        window = window[interval:]


def _stability(logits: Tensor, offset: float) -> Tensor:
    """Returns the IoU [M] of masks [M, h, w] thresholded at the two offsets, as SAM's generator measures it."""
    inner, outer = ((logits > threshold).flatten(1).sum(dim=1) for threshold in (offset, -offset))
    return inner / outer.clamp(min=1)


def _runs(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Returns the run lengths of a mask [h, w] at a frame's size; one at a time, for frames may be large."""
    mask = functional.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0] > 0
    return runs_of(mask.T.flatten().cpu().numpy())


def _read_config(weights: str | os.PathLike) -> Sam2VideoConfig:
    """Reads the `config.json` next to weights.

    Raises:
        UserError: it is missing, or not SAM 2's.
    """
    path = sam2_config(weights)
    given: Any = read_json(path)
    if not isinstance(given, dict) or given.get("model_type") not in ("sam2_video", "sam2"):
        raise UserError(f"{path}: not a config of SAM 2; take the config.json published with model.safetensors")
    return Sam2VideoConfig.from_dict({**given, "model_type": "sam2_video"})
