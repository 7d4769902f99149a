"""Learning rates, weight decay and schedules against the tables computed by the public constructors."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from torch import nn

from vss.configs.resolve import OPTIMIZERS, resolve
from vss.models.build import build_on_meta
from vss.train.optim import internimage_layer

# Table of the golden folder -> our row, with the protocol whose numbers it has.
ROWS = {
    "upernet_swin_l": "upernet_swin-l_vspw",
    "upernet_convnext_xl": "upernet_convnext-xl_vspw",
    "upernet_internimage_xl": "upernet_internimage-xl_vspw",
    "upernet_internimage_h": "upernet_internimage-h_vspw",
    "mask2former_internimage_h": "mask2former_internimage-h_vspw",
    "mask2former_internimage_h_cocostuff": "mask2former_internimage-h_coco_stuff",
}
# mmdet 2 names -> current names.
RENAMES = (
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.0\.", r"\1.cross_attn."),
    (r"(transformer_decoder\.layers\.\d+)\.attentions\.1\.", r"\1.self_attn."),
    (r"(encoder|decoder)(\.layers\.\d+)\.ffns\.0\.", r"\1\2.ffn."),
)


def to_current_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def rates_of(row: str, protocol: str) -> tuple[dict[str, tuple[float, float]], float]:
    """Returns name -> (multiplier, weight decay), and the base rate, as MMEngine's optimizer has them."""
    config = resolve({"config": row, "protocol": protocol})
    model = build_on_meta(config.model)
    with DefaultScope.overwrite_default_scope("mmseg"):
        wrapper = build_optim_wrapper(model, dict(type="OptimWrapper", **config.optim_wrapper))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    base = config.optim_wrapper.optimizer.lr
    return {
        names[id(parameter)]: (group["lr"] / base, group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }, base


@pytest.mark.golden
@pytest.mark.parametrize("table", ROWS)
def test_every_parameter_has_the_published_rate_and_decay(golden_tables: Path, table: str) -> None:
    golden = json.loads((golden_tables / "optim" / f"{table}.json").read_text())
    rates, base = rates_of(ROWS[table], "as_published")
    expected = {to_current_name(name): tuple(value) for name, value in golden["params"].items()}
    assert rates.keys() == expected.keys()
    assert base == golden["base_lr"]
    for name, (multiplier, decay) in expected.items():
        assert rates[name][0] == pytest.approx(multiplier, rel=1e-12), name
        assert rates[name][1] == decay, name


@pytest.mark.golden
@pytest.mark.parametrize("table", ROWS)
def test_schedule_is_the_published_one(golden_tables: Path, table: str) -> None:
    golden = json.loads((golden_tables / "optim" / "lr_schedule.json").read_text())["schedules"][table]
    config = resolve({"config": ROWS[table], "protocol": "as_published"})
    assert config.max_iters == golden["max_iters"]
    # MMEngine's schedules step from one iteration to the next; the longest ones are followed for a while only.
    wanted = {int(i): lr for i, lr in golden["lr_at_iter"].items() if int(i) < 70000}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=golden["base_lr"])
    schedulers = [PARAM_SCHEDULERS.build({**s, "optimizer": optimizer}) for s in config.param_scheduler]
    for iteration in range(max(wanted) + 1):
        if iteration in wanted:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted[iteration], rel=1e-6), iteration
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_paper_protocol_trains_fresh_mask2former_embeddings_at_the_full_rate() -> None:
    rates, _ = rates_of("mask2former_internimage-h_vspw", "paper")
    published, _ = rates_of("mask2former_internimage-h_vspw", "as_published")
    changed = {name for name in rates if rates[name] != published[name]}
    assert {name.split(".")[1] for name in changed} == {
        "cls_embed",
        "mask_embed",
        "level_embed",
        "query_embed",
        "query_feat",
    }
    assert all(rates[name][0] == 1.0 for name in changed)


def test_layers_of_a_small_internimage() -> None:
    def layer(name: str) -> int:
        return internimage_layer(name, (1, 2, 3, 2), head_embeddings="first")

    assert layer("backbone.patch_embed.conv1.weight") == 0
    assert layer("backbone.levels.0.blocks.0.mlp.fc1.weight") == 1
    assert layer("backbone.levels.0.downsample.conv.weight") == 2
    assert layer("backbone.levels.2.blocks.2.norm1.0.weight") == 6
    assert layer("backbone.levels.2.post_norms.1.0.weight") == 5
    assert layer("backbone.levels.3.blocks.1.norm1.0.weight") == 8
    assert layer("backbone.levels.3.norm.0.weight") == 7
    assert layer("decode_head.query_embed.weight") == 0
    assert layer("decode_head.pixel_decoder.mask_feature.weight") == 9


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_arguments_that_a_dry_run_knows_are_those_of_torch(name: str) -> None:
    parameters = inspect.signature(getattr(torch.optim, name)).parameters
    assert set(OPTIMIZERS[name]) == {*parameters} - {"params"}


def test_layers_of_an_eomt_learn_more_slowly_the_earlier_they_are() -> None:
    """What is no layer of the transformer learns as the last one."""
    row, rate = "eomt_dinov2-nano_vspw", 0.9
    rates, _ = rates_of(row, "paper")
    model = build_on_meta(resolve({"config": row}).model)
    before, after = len(model.backbone.layers), len(model.decode_head.layers)
    last = before + after - 1
    assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, (multiplier, _) in rates.items():
        part, where, *rest = name.split(".")
        layer = last
        if where == "embeddings":
            layer = 0
        elif where == "layers":
            layer = int(rest[0]) + (before if part == "decode_head" else 0)
        assert multiplier == pytest.approx(rate ** (last - layer)), name
