"""Estimates of an inference before its weights are read: memory by kind, and time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vss.core.errors import UserError
from vss.core.log import counted, log
from vss.infer.engine import Group, band_elements, groups_of
from vss.infer.frame_size import Size
from vss.infer.load import InferencePlan, network_config
from vss.infer.predictions import frames_at_once
from vss.infer.views import views_of, windows_of
from vss.models.build import build_on_meta
from vss.models.probe import CONTEXT_BYTES, HEADROOM, memory_of, probe, readable_bytes, readable_time, seconds_for

# [C, rows, W] float32 alive while views are averaged: the sum, a view resized, its probabilities, and their copy.
_BANDS = 4


@dataclass(frozen=True)
class InferenceEstimate:
    """Bytes by kind, and floating-point operations, of predicting one frame.

    Attributes:
        parameters: bytes of the model.
        count: number of parameters.
        activations: peak of the network on the largest view with its flip, or on one window of it.
        scores: the class scores of all views, as the network gives them.
        averaging: what is alive while they are resized and averaged, a band of rows at a time.
        probabilities: [C, H, W] float32 where class scores are stored; on a CPU, what encodes them as well.
        flops: of the network on all views.
    """

    parameters: int
    count: int
    activations: int
    scores: int
    averaging: int
    probabilities: int
    flops: float

    def needed(self, device: torch.device, frames: int) -> int:
        """Returns the bytes at the peak of `frames` frames at once.

        On a CPU each frame is worked on by a thread of its own; on a GPU they share the working memory of one, and the
        frames before them are still being copied to the host.
        """
        work, kept = max(self.activations, self.averaging), self.scores + self.probabilities
        if device.type == "cpu":
            return self.parameters + round(HEADROOM * frames * (work + kept))
        return self.parameters + round(HEADROOM * (work + frames * (kept + self.probabilities))) + CONTEXT_BYTES


def inference(plan: InferencePlan, size: Size, *, with_probabilities: bool) -> InferenceEstimate:
    """Estimates the prediction of one frame of `size` (height, width).

    Args:
        plan: see `vss.infer.load.read_plan`.
        size: of the frame.
        with_probabilities: whether class scores are stored, too.
    """
    groups = groups_of(views_of(*size, plan.tta, plan.protocol))
    shapes = [_forward_shape(group, plan) for group in groups]
    images, (height, width) = max(shapes, key=lambda shape: shape[0] * math.prod(shape[1]))
    model = build_on_meta(network_config(plan.config)).eval()
    with torch.no_grad():
        step = probe(model, (images, 3, height, width), plan.precision, _class_scores)
    pixels, classes = images * height * width, step.shape[1]
    volume = 4 * classes * math.prod(size)
    per_pixel = 4 * math.prod(step.shape) / pixels  # bytes of class scores
    return InferenceEstimate(
        parameters=step.model,
        count=sum(parameter.numel() for parameter in model.parameters()),
        activations=step.peak,
        # Windows whose scores outgrow the frame are summed at its size.
        scores=round(sum(min(per_pixel * _network_pixels(g, plan), len(g.flips) * volume) for g in groups)),
        averaging=_BANDS * 4 * min(band_elements(plan.device), volume // 4),
        probabilities=volume * (2 if plan.device.type == "cpu" else 1) if with_probabilities else 0,
        flops=step.flops * sum(_network_pixels(group, plan) for group in groups) / pixels,
    )


def _class_scores(model: nn.Module, images: Tensor) -> Tensor:
    return model.class_logits(images).float()


def _forward_shape(group: Group, plan: InferencePlan) -> tuple[int, Size]:
    """Returns how many images of which size one forward of a frame holds."""
    if plan.tta.mode != "slide":
        return len(group.flips), group.padded
    return len(group.flips), tuple(min(pair) for pair in zip(group.padded, plan.tta.crop_size, strict=True))


def _network_pixels(group: Group, plan: InferencePlan) -> int:
    """Returns how many pixels of a frame's views of one size the network sees, windows' overlaps included."""
    windows = windows_of(group.padded, plan.tta.crop_size, plan.tta.stride) if plan.tta.mode == "slide" else [None]
    images, (height, width) = _forward_shape(group, plan)
    return len(windows) * images * height * width


def check_inference(
    plan: InferencePlan,
    sizes: Mapping[Size, int],
    *,
    what: str,
    with_probabilities: bool = False,
    workers: int | None = None,
    batch_frames: int | None = None,
) -> dict[str, Any]:
    """Prints the estimate of an inference and returns how many frames to work on at once.

    Args:
        plan: see `vss.infer.load.read_plan`.
        sizes: how many frames there are of each size (height, width), at least one.
        what: starts the line.
        with_probabilities: whether class scores are stored, too.
        workers, batch_frames: see `vss.infer.predictions.predictions`.

    Returns:
        `workers` and `batch_frames`; on a CPU the former, on a GPU the latter is lowered to what fits.

    Raises:
        UserError: not even one frame at a time fits into the memory of the device, or of the machine.
    """
    largest = max(sizes, key=lambda size: _pixels_of(size, plan))
    found = inference(plan, largest, with_probabilities=with_probabilities)
    room = memory_of(plan.device)
    frames = min(frames_at_once(plan.device, workers, batch_frames), sum(sizes.values()))
    while frames > 1 and found.needed(plan.device, frames) > room:
        frames -= 1
    needed = found.needed(plan.device, frames)
    memory = f"about {readable_bytes(needed)} of {readable_bytes(room)}"
    if needed > room:
        raise UserError(f"{what}: a frame of {_text(largest)} needs {memory} on {plan.device_name}; {_advice(plan)}")
    flops = found.flops * sum(count * _pixels_of(size, plan) for size, count in sizes.items())
    seconds = seconds_for(flops / _pixels_of(largest, plan), plan.device, plan.precision)
    views = len(views_of(*largest, plan.tta, plan.protocol))
    log(
        f"{what}: {counted(sum(sizes.values()), 'frame')} of {'up to ' if len(sizes) > 1 else ''}{_text(largest)} in "
        f"{counted(views, 'view')}, {found.count / 1e6:.1f} M parameters on "
        f"{plan.device_name}, {plan.precision}; {frames} at once need {memory} "
        f"(parameters {readable_bytes(found.parameters)}, activations of the largest view "
        f"{readable_bytes(HEADROOM * found.activations)}); very roughly {readable_time(seconds)} of the network"
    )
    if plan.device.type == "cpu":
        return {"workers": frames, "batch_frames": batch_frames}
    return {"workers": workers, "batch_frames": frames}


def _pixels_of(size: Size, plan: InferencePlan) -> int:
    return sum(_network_pixels(group, plan) for group in groups_of(views_of(*size, plan.tta, plan.protocol)))


def _text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _advice(plan: InferencePlan) -> str:
    ways = ["drop the largest of tta.img_ratios", "lower tta.scale"]
    if plan.tta.mode != "slide":
        ways.insert(0, "set tta.mode to slide with a crop_size and a stride")
    if plan.precision == "float32":
        ways.append("use precision bfloat16")
    return ", ".join(ways[:-1]) + f" or {ways[-1]}"
