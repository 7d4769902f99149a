"""Test-time augmentation views: which resized and mirrored copies of a frame are run, and their weights.

Two protocols. `paper` runs the views that are named: every ratio of the base scale, with and without a horizontal flip.
`as_published` reproduces the test pipelines of the paper's code (MMSegmentation 0.x `MultiScaleFlipAug`):
`SETR_Resize` clamps the short side, so that ratios below it are silently run at 1.0; `ResizeToMultiple` resizes a
second time instead of padding; and pipelines without `RandomFlip` mirror the prediction of an image that was never
flipped. Views that come out equal are one view with a larger weight.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from vss.configs.schema import PROTOCOLS
from vss.configs.tta import Tta
from vss.core.errors import UserError
from vss.infer.frame_size import Size, fitted_into, rounded_up

# The total stride of every backbone here: ConvNeXt cannot run on less, the others lose their last feature map.
SMALLEST_INPUT = 32


@dataclass(frozen=True)
class View:
    """One distinct view of a frame.

    Attributes:
        size: (height, width) of the resized image.
        resizes: sizes the image goes through, one cv2 resize each; empty where it already has `size`.
        padded: (height, width) after zero padding right and below; what the network sees.
        input_flip: the image is mirrored before the network.
        output_flip: the prediction is mirrored after it. Differs from `input_flip` only where the published code does.
        weight: how many of the requested views come out as this one.
        ratios: the requested ratios behind it.
    """

    size: Size
    resizes: tuple[Size, ...]
    padded: Size
    input_flip: bool
    output_flip: bool
    weight: int
    ratios: tuple[float, ...]


# ---- realised sizes


@functools.lru_cache(maxsize=1024)
def views_of(height: int, width: int, tta: Tta, protocol: str) -> tuple[View, ...]:
    """Returns the distinct views of a frame in the order requested: per ratio unflipped, then flipped.

    Raises:
        UserError: a ratio makes a side of the frame vanish.
    """
    assert protocol in PROTOCOLS, protocol
    views: dict[tuple, View] = {}
    for ratio in tta.img_ratios:
        chain = _resize_chain((height, width), ratio, tta, protocol)
        if min(chain[-1]) < 1:
            raise UserError(f"tta.img_ratios: ratio {ratio} leaves nothing of a {width}x{height} frame")
        size, resizes = chain[-1], _without_identities((height, width), chain)
        padded = rounded_up(size, tta.size_divisor, SMALLEST_INPUT) if protocol == "paper" else size
        for flip in (False, True) if tta.flip else (False,):
            input_flip = flip and (protocol == "paper" or tta.random_flip)
            key = (resizes, input_flip, flip)
            if key in views:
                seen = views[key]
                views[key] = replace(seen, weight=seen.weight + 1, ratios=(*seen.ratios, ratio))
            else:
                views[key] = View(size, resizes, padded, input_flip, flip, 1, (ratio,))
    return tuple(views.values())


def describe_views(height: int, width: int, tta: Tta, protocol: str) -> list[dict[str, Any]]:
    """Returns the realised views of a frame size as plain JSON, for the resolved config and provenance."""
    return [
        {
            "size": list(view.size),
            "padded": list(view.padded),
            "flip": view.output_flip,
            "image_flipped": view.input_flip,
            "weight": view.weight,
            "img_ratios": list(view.ratios),
        }
        for view in views_of(height, width, tta, protocol)
    ]


def _resize_chain(frame: Size, ratio: float, tta: Tta, protocol: str) -> list[Size]:
    if tta.scale is None:
        # mmcv Resize(scale_factor=ratio): the scale is the frame's size times the ratio, rounded half up.
        scale = (int(frame[1] * ratio + 0.5), int(frame[0] * ratio + 0.5))
    else:
        scale = (int(tta.scale[0] * ratio), int(tta.scale[1] * ratio))
    if protocol == "as_published" and tta.setr_resize:
        least = tta.setr_crop_size[0] if tta.setr_crop_size else min(tta.scale or frame)
        size = fitted_into(frame, _setr_scale(frame, scale, least))
    else:
        size = fitted_into(frame, scale) if tta.keep_ratio else (scale[1], scale[0])
    if protocol == "as_published" and tta.size_divisor:
        return [size, rounded_up(size, tta.size_divisor)]
    return [size]


def _setr_scale(frame: Size, scale: tuple[int, int], least: int) -> tuple[float, float]:
    """Returns the scale `SETR_Resize` replaces the requested one by: the short side is at least `least`."""
    height, width = frame
    short = max(min(scale), least)
    return (short, short * height / width) if height > width else (short * width / height, short)


def _without_identities(frame: Size, chain: list[Size]) -> tuple[Size, ...]:
    kept, size = [], frame
    for step in chain:
        if step != size:
            kept.append(step)
        size = step
    return tuple(kept)


# ---- pixels


def resize_image(image: np.ndarray, resizes: tuple[Size, ...]) -> np.ndarray:
    """Resizes an image [H, W, 3] uint8 through every size in turn: cv2 INTER_LINEAR, bit-equal to mmcv's `imresize`."""
    for height, width in resizes:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def windows_of(size: Size, crop_size: Size, stride: Size) -> list[tuple[int, int, int, int]]:
    """Returns the sliding windows (top, bottom, left, right) that cover an image.

    As in MMSegmentation's `slide_inference`: the last window of a row or column is moved back inside, and a window
    larger than the image is the image.
    """
    rows = _intervals(size[0], crop_size[0], stride[0])
    columns = _intervals(size[1], crop_size[1], stride[1])
    return [(top, bottom, left, right) for top, bottom in rows for left, right in columns]


def _intervals(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(step * stride + crop, length) for step in range(count)]
    return [(max(end - crop, 0), end) for end in ends]
