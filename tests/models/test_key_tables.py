"""Every full-size model has exactly the published parameter names and shapes (golden tables `keys`)."""

from __future__ import annotations

import json

import pytest
from models.golden_models import load_meta, to_current_name

from vss.models.build import build_on_meta
from vss.models.rows import mask2former_config, segmentor_config, upernet_config


def upernet(backbone: str) -> dict:
    return segmentor_config(backbone, upernet_config(backbone, num_classes=124))


def mask2former(num_classes: int, size: str) -> dict:
    return segmentor_config("internimage-h", mask2former_config("internimage-h", num_classes=num_classes, size=size))


MODELS = {
    "upernet_swin_l": upernet("swin-l"),
    "upernet_convnext_xl": upernet("convnext-xl"),
    "upernet_internimage_xl": upernet("internimage-xl"),
    "upernet_internimage_h": upernet("internimage-h"),
    "mask2former_internimage_h": mask2former(124, "authors"),
    "mask2former_internimage_h_cocostuff": mask2former(171, "authors"),
    "mask2former_internimage_h_1024d_200q_ade20k": mask2former(150, "opengvlab"),
    "mask2former_internimage_h_1024d_200q_cocostuff164k": mask2former(171, "opengvlab"),
}


@pytest.mark.golden
@pytest.mark.parametrize("table", MODELS)
def test_names_and_shapes_are_the_published_ones(table, golden_tables, mask2former_folder):
    rules = load_meta(mask2former_folder)["loss"]["name_conversion_old_to_new"]
    published = json.loads((golden_tables / "keys" / f"{table}.json").read_text())
    expected = {to_current_name(name, rules): shape for name, shape in published.items()}
    assert len(expected) == len(published)
    segmentor = build_on_meta(MODELS[table])
    found = {name: list(tensor.shape) for name, tensor in segmentor.state_dict().items()}
    assert found == expected
