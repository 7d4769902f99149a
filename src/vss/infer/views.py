"""Test-time augmentation views: which resized and mirrored copies of a frame are run, and what each one counts.

Two protocols. `paper` runs the views that are named: every ratio of the base scale, with and without a horizontal flip.
`as_published` reproduces the test pipelines of the paper's code (MMSegmentation 0.x `MultiScaleFlipAug`):
`SETR_Resize` clamps the short side, so that ratios below it are silently run at 1.0; `ResizeToMultiple` resizes a
second time instead of padding; and pipelines without `RandomFlip` mirror the prediction of an image that was never
flipped. Views that come out equal are one view with a larger weight.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np

from vss.errors import UserError
from vss.models.frame_size import Size, fitted_into, rounded_up

PROTOCOLS = ("paper", "as_published")
MODES = ("whole", "slide")

# The total stride of every backbone here: ConvNeXt cannot run on less, the others lose their last feature map.
SMALLEST_INPUT = 32


@dataclass(frozen=True)
class Tta:
    """Test-time augmentation settings; the keys of `tta` in the config.

    Attributes:
        img_ratios: factors on the base scale.
        flip: whether each ratio is also run mirrored left-right.
        scale: base (width, height) that a frame is fitted into, longer to longer side; None = the frame's own size.
        keep_ratio: whether the aspect ratio is kept; otherwise frames become exactly `scale` times the ratio.
        size_divisor: `paper`: the normalised view is padded right and below with zeros to a multiple of it (as
            MMSegmentation's data preprocessor does), and to at least `SMALLEST_INPUT`; `as_published`: the view is
            resized up to a multiple of it (`ResizeToMultiple`). None = 1.
        mode: "whole" or "slide".
        crop_size: (height, width) of the sliding window.
        stride: (vertical, horizontal) step of the sliding window.
        setr_resize: whether the published pipeline resizes with `SETR_Resize`; only `as_published`.
        setr_crop_size: its (height, width), whose height the short side is clamped to; None = the base scale's.
        random_flip: whether the published pipeline holds `RandomFlip`; if not, flipped views are not flipped but
            their predictions are mirrored all the same; only `as_published`.
    """

    img_ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    scale: tuple[int, int] | None = None
    keep_ratio: bool = True
    size_divisor: int | None = None
    mode: str = "whole"
    crop_size: Size | None = None
    stride: Size | None = None
    setr_resize: bool = False
    setr_crop_size: Size | None = None
    random_flip: bool = True


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


# ---- settings


def parse_tta(settings: Mapping[str, Any]) -> Tta:
    """Returns checked settings from the config's `tta` mapping; missing keys take the defaults of `Tta`.

    Raises:
        UserError: an unknown key, or a value of the wrong kind or range.
    """
    allowed = [field.name for field in fields(Tta)]
    for key in settings:
        if key not in allowed:
            raise UserError(f"tta.{key}: unknown key; allowed: {', '.join(allowed)}")
    ratios = settings.get("img_ratios", Tta.img_ratios)
    if not isinstance(ratios, (list, tuple)) or not ratios or not all(_is_positive(ratio) for ratio in ratios):
        raise UserError(f"tta.img_ratios: found {ratios!r}, expected a list of numbers > 0")
    for key in ("flip", "keep_ratio", "setr_resize", "random_flip"):
        if not isinstance(settings.get(key, True), bool):
            raise UserError(f"tta.{key}: found {settings[key]!r}, expected true or false")
    tta = Tta(
        img_ratios=tuple(float(ratio) for ratio in ratios),
        flip=settings.get("flip", Tta.flip),
        scale=_pair(settings, "scale"),
        keep_ratio=settings.get("keep_ratio", Tta.keep_ratio),
        size_divisor=_divisor(settings.get("size_divisor")),
        mode=settings.get("mode", Tta.mode),
        crop_size=_pair(settings, "crop_size"),
        stride=_pair(settings, "stride"),
        setr_resize=settings.get("setr_resize", Tta.setr_resize),
        setr_crop_size=_pair(settings, "setr_crop_size"),
        random_flip=settings.get("random_flip", Tta.random_flip),
    )
    if tta.mode not in MODES:
        raise UserError(f"tta.mode: found {tta.mode!r}, expected one of {', '.join(MODES)}")
    if tta.mode == "slide" and (tta.crop_size is None or tta.stride is None):
        raise UserError("tta.mode: slide needs tta.crop_size and tta.stride, both (height, width)")
    if tta.mode == "slide" and any(step > side for step, side in zip(tta.stride, tta.crop_size, strict=True)):
        raise UserError(f"tta.stride: {list(tta.stride)} is larger than tta.crop_size {list(tta.crop_size)}")
    return tta


def published_tta(tta: Tta, model: Mapping[str, Any]) -> Tta:
    """Returns the settings with what the paper's code did for a model family.

    Mask2Former pipelines use `SETR_Resize` with the base scale as crop size; Swin and ConvNeXt pipelines lack
    `RandomFlip` (configs/{mask2former,swin,convnext} of DUT-CSJ/PVUW2023-VSS-3rd at f5c64b1).

    Args:
        model: the resolved config's `model` entry.
    """
    head = str(model.get("decode_head", {}).get("type", ""))
    backbone = str(model.get("backbone", {}).get("type", ""))
    if "Mask2Former" in head:
        tta = replace(tta, setr_resize=True)
    if any(family in backbone for family in ("Swin", "ConvNeXt")):
        tta = replace(tta, random_flip=False)
    return tta


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _pair(settings: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    value = settings.get(key)
    if value is None:
        return None
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)
    if not whole:
        raise UserError(f"tta.{key}: found {value!r}, expected null or two integers > 0")
    return tuple(value)


def _divisor(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise UserError(f"tta.size_divisor: found {value!r}, expected null or an integer > 0")
    return value


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
