"""Settings of the refine stage as typed objects; the config's schema has their defaults, ranges and meaning.

Those of `ssa`, `temporal` and `tubes` stand in the modules that use them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from vss.core.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class CascadePspSettings:
    """`cascadepsp` of the schema; None = the default of the network or the mode."""

    mode: str | None
    parts: str | None
    fast: bool | None
    L: int | None
    min_size: int | None
    min_area: int
    dilate: int
    margin: float
    classes: tuple[str, ...] | None
    max_purity: float | None
    only_uncertain: float | None
    background: tuple[str, ...] | None
    background_weight: float
    batch_size: int
    precision: str


@dataclass(frozen=True)
class Procedure:
    """How CascadePSP goes over a frame.

    Attributes:
        parts: "components" or "classes": what is refined at a time.
        fast: whether to stop after the global step.
        L: pixels; crops whose longer side has more are reduced to it.
        min_size: pixels; crops whose longer side has fewer are enlarged to it, but not beyond L.
    """

    parts: str
    fast: bool
    L: int
    min_size: int


# scene_parsing: CascadePSP's procedure for label maps (eval.py --ade at its defaults: components, each cropped, refined
# as large as it is, up to 900 pixels, and again locally). single_pass: the same without the local step
# (--ade --global_only), tiny crops enlarged. generic: what the package's `Refiner.refine` does with one class of a
# frame (enlarged to 900 pixels, then local crops at full size).
MODES = {
    "scene_parsing": Procedure("components", fast=False, L=900, min_size=0),
    "single_pass": Procedure("components", fast=True, L=900, min_size=224),
    "generic": Procedure("classes", fast=False, L=900, min_size=1 << 16),  # any size is enlarged to L
}


@dataclass(frozen=True)
class RefinerTrainingSettings:
    """`refiner_training` of the schema."""

    network: str
    crop: int
    max_iters: int
    batch_size: int
    lr: float
    min_area: int
    dilate: int
    seed: int
    checkpoint_interval: int
    val_samples: int


@dataclass(frozen=True)
class FelzenszwalbSettings:
    """`felzenszwalb` of the schema."""

    method: str
    scales: tuple[float, ...]
    min_size: int
    sigma: float


@dataclass(frozen=True)
class SlicSettings:
    """`slic` of the schema."""

    method: str
    segments: tuple[int, ...]
    compactness: float
    sigma: float


@dataclass(frozen=True)
class SamSettings:
    """`sam` of the schema: parameters of SAM's automatic mask generator; None = the preset's."""

    method: str
    preset: str
    key_interval: int
    precision: str
    points_per_side: int | None
    points_per_batch: int
    pred_iou_thresh: float | None
    stability_score_thresh: float | None
    stability_score_offset: float
    box_nms_thresh: float
    crop_n_layers: int | None
    crop_nms_thresh: float
    crop_overlap_ratio: float
    crop_n_points_downscale_factor: int | None
    min_mask_region_area: int | None


@dataclass(frozen=True)
class Sam2Settings:
    """`sam2` of the schema."""

    method: str
    precision: str
    key_interval: int
    overlap: int
    points_per_side: int
    points_per_batch: int
    objects_per_batch: int
    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    least_iou: float


def sam2_config(weights: str | os.PathLike) -> Path:
    """Returns the path of SAM 2's config, which stands next to its weights."""
    return Path(weights).with_name("config.json")


ProposalSettings: TypeAlias = FelzenszwalbSettings | SlicSettings | SamSettings | Sam2Settings


def one_of(value: Value, allowed: Iterable[Value], *, where: str) -> Value:
    """Returns `value` if it is among `allowed`.

    Raises:
        UserError: it is not.
    """
    if value not in allowed:
        raise UserError(f"{where}: {value!r}, allowed: {', '.join(map(str, allowed))}")
    return value
