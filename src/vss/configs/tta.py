"""Settings of test-time augmentation: the keys of `tta` in the config, checked and typed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vss.core.errors import UserError

MODES = ("whole", "slide")


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
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    setr_resize: bool = False
    setr_crop_size: tuple[int, int] | None = None
    random_flip: bool = True


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
