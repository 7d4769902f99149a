"""Counting a model's operations with PyTorch's own counter, `torch.utils.flop_counter`, on tensors without data.

It counts convolutions and matrix products, attention included, a multiplication and an addition as two operations;
norms, activations and resizing are not counted. For the project's two ops the formulas below are registered with it.
The tables of MMSegmentation and of most papers count a multiplication with its addition as one: half these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import vss_ops  # noqa: F401  defines torch.ops.vss_ops
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from vss.models.segmentor import Segmentor

Shape = Sequence[int]

# Of one sampled value: four products and sums of the bilinear interpolation, and one with the weight of the point.
_PER_SAMPLE = 2 * 5


@register_flop_formula(torch.ops.vss_ops.dcnv3)
def dcnv3_flops(input_shape: Shape, offset_shape: Shape, mask_shape: Shape, *window: Any, **_: Any) -> int:
    """Returns the operations of DCNv3's sampling: at every output pixel, each point of a group for all its channels.

    `window` are the op's further arguments: kernel_size, stride, padding, dilation, group, ...
    """
    points = mask_shape[-1] // window[4]
    return _PER_SAMPLE * math.prod(offset_shape[:3]) * points * input_shape[-1]


@register_flop_formula(torch.ops.vss_ops.ms_deform_attn)
def ms_deform_attn_flops(value_shape: Shape, sizes: Shape, starts: Shape, locations: Shape, *_: Any, **__: Any) -> int:
    """Returns the operations of deformable attention's sampling: each query's points of every head and level."""
    return _PER_SAMPLE * math.prod(locations[:-1]) * value_shape[-1]


def count_flops(segmentor: Segmentor, *, height: int, width: int) -> int:
    """Returns the floating-point operations of the class scores of one image; the auxiliary head is not run.

    Args:
        segmentor: on the meta device (`build_on_meta`); it is put into eval mode and its parameters are frozen.
        height, width: of the image in pixels.
    """
    segmentor.eval().requires_grad_(False)
    if hasattr(segmentor.decode_head, "anneal"):
        segmentor.decode_head.anneal(1.0)  # as the end of a training leaves it
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        segmentor.class_logits(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops()
