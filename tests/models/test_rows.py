"""The registry of numbers: every row builds, and its numbers are those of the papers."""

from __future__ import annotations

import pytest
import torch

from vss.core.errors import UserError
from vss.models import rows
from vss.models.build import build_on_meta, build_segmentor


def upernet(backbone: str):
    return build_on_meta(rows.segmentor_config(backbone, rows.upernet_config(backbone, num_classes=150)))


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("backbone", rows.BACKBONES)
def test_every_row_builds_and_gives_the_channels_it_says(backbone):
    segmentor = upernet(backbone)
    channels = rows.backbone_channels(backbone)
    assert segmentor.decode_head.in_channels == channels
    with torch.device("meta"), torch.no_grad():
        features = segmentor.eval().backbone(torch.empty(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == channels
    assert [f.shape[-1] for f in features] == [16, 8, 4, 2]


# Parameters of the whole UperNet, 150 classes, as published by MMSegmentation and OpenGVLab's model zoo; in millions.
PUBLISHED_MILLIONS = {
    "internimage-t": 59,
    "internimage-s": 80,
    "internimage-b": 128,
    "internimage-l": 256,
    "internimage-xl": 368,
    "internimage-h": 1120,
}


@pytest.mark.parametrize("backbone", PUBLISHED_MILLIONS)
def test_parameters_are_the_published_number(backbone):
    assert millions(upernet(backbone)) == pytest.approx(PUBLISHED_MILLIONS[backbone], rel=0.015)


def test_mask2former_of_the_authors_has_1094_million_parameters():
    heads = rows.mask2former_config("internimage-h", num_classes=124)
    segmentor = build_on_meta(rows.segmentor_config("internimage-h", heads))
    assert millions(segmentor) == pytest.approx(1093.9, abs=0.1)


def test_overrides_reach_the_constructors():
    heads = rows.mask2former_config("internimage-nano-h", num_classes=3, size="nano", num_queries=7, with_cp=True)
    config = rows.segmentor_config("internimage-nano-h", heads, with_cp=True, drop_path_rate=0.2)
    segmentor = build_segmentor(config)
    assert segmentor.decode_head.query_feat.num_embeddings == 7
    assert segmentor.decode_head.transformer_decoder.with_cp
    assert segmentor.decode_head.pixel_decoder.encoder.with_cp
    assert all(block.with_cp for level in segmentor.backbone.levels for block in level.blocks)


def test_rows_are_not_shared_between_callers():
    rows.backbone_config("internimage-xl")["depths"].append(1)
    assert rows.backbone_config("internimage-xl")["depths"] == [5, 5, 24, 5]


@pytest.mark.parametrize("function", [rows.backbone_config, rows.backbone_channels])
def test_an_unknown_row_is_named(function):
    with pytest.raises(UserError, match=r"'internimage-xxl'.*internimage-xl"):
        function("internimage-xxl")


def test_an_unknown_size_is_named():
    with pytest.raises(UserError, match=r"Mask2Former size 'huge'.*authors"):
        rows.mask2former_config("internimage-h", num_classes=2, size="huge")
