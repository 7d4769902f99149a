"""Settings of test-time augmentation: the keys of `tta` in the config, checked and typed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vss.configs.resolved import ViewSettings
from vss.configs.schema import read_section
from vss.core.errors import UserError
from vss.models.config_types import NetworkConfig

ENGINE_SETTINGS = ("precision", "compile")  # of `views`: how the engine computes, not what


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


def parse_tta(settings: ViewSettings) -> Tta:
    """Returns checked settings from the config's `tta` mapping; missing keys take the defaults of `Tta`.

    Args:
        settings: `views` of the schema; precision and compile, which say how the engine computes, are left out.

    Raises:
        UserError: an unknown key, or a value of the wrong kind or range.
    """
    views = {key: value for key, value in settings.items() if key not in ENGINE_SETTINGS}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in views.items()}
    tta = read_section(Tta, "views", lists, where="tta")
    if tta.mode == "slide":
        if tta.crop_size is None or tta.stride is None:
            raise UserError("tta.mode: slide needs tta.crop_size and tta.stride, both (height, width)")
        if any(step > side for step, side in zip(tta.stride, tta.crop_size, strict=True)):
            raise UserError(f"tta.stride: {list(tta.stride)} is larger than tta.crop_size {list(tta.crop_size)}")
    return tta


def published_tta(tta: Tta, model: NetworkConfig) -> Tta:
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
