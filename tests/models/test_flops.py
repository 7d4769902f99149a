"""Counted operations: small cases by hand, and the published counts of full-size models."""

from __future__ import annotations

import pytest
import torch
import vss_ops
from torch.utils.flop_counter import FlopCounterMode

from vss.models.build import build_on_meta
from vss.models.flops import count_flops
from vss.models.rows import segmentor_config, upernet_config


@pytest.mark.parametrize("remove_center", [False, True])
def test_dcnv3_takes_ten_operations_a_sampled_value(remove_center):
    points = 9 - remove_center
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        vss_ops.dcnv3(
            torch.empty(2, 5, 7, 8),
            torch.empty(2, 5, 7, 2 * points * 2),
            torch.empty(2, 5, 7, 2 * points),
            kernel_size=3,
            stride=1,
            padding=1,
            dilation=1,
            group=2,
            group_channels=4,
            offset_scale=1.0,
            remove_center=remove_center,
        )
    assert counter.get_total_flops() == 10 * 2 * 5 * 7 * 8 * points


def test_deformable_attention_takes_ten_operations_a_sampled_value():
    sizes = torch.tensor([[4, 6], [2, 3]])
    starts = torch.tensor([0, 24])
    with FlopCounterMode(display=False) as counter:
        vss_ops.ms_deform_attn(
            torch.zeros(1, 30, 2, 4), sizes, starts, torch.zeros(1, 5, 2, 2, 3, 2), torch.zeros(1, 5, 2, 2, 3)
        )
    # 5 queries, 2 heads of 4 channels, 2 levels with 3 points each.
    assert counter.get_total_flops() == 10 * 5 * 2 * 4 * 2 * 3


@pytest.mark.parametrize(
    ("backbone", "height", "width", "published"),
    [
        # OpenGVLab/InternImage segmentation/configs/ade20k/README.md, in 1e9 multiply-adds. H is counted at 896x896,
        # the others at 4 times the crop's width.
        ("internimage-t", 512, 2048, 944),
        ("internimage-xl", 640, 2560, 3142),
        ("internimage-h", 896, 896, 3566),
    ],
)
def test_full_size_models_cost_what_was_published(backbone, height, width, published):
    model = build_on_meta(segmentor_config(backbone, upernet_config(backbone, num_classes=150)))
    assert count_flops(model, height=height, width=width) / 2e9 == pytest.approx(published, rel=0.005)
