"""Every row loads, agrees with itself, and says where paper and code differ."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vss import configs
from vss.configs.resolve import load, published_settings, resolve
from vss.core.errors import UserError
from vss.core.files import canonical_json
from vss.core.labels import LABEL_SPACES
from vss.models.build import build_on_meta

# The authors' configs, under their protocol: (crop h, w), scale, batch, iterations, base rate, decay rate, clip.
PUBLISHED: dict[str, tuple] = {
    "upernet_swin-l_vspw": ((480, 853), (853, 480), 16, 25000, 3e-5, None, None),
    "upernet_convnext-xl_vspw": ((480, 853), (853, 480), 8, 62000, 8e-5, 0.9, None),
    "upernet_convnext-l_vspw": ((480, 853), (853, 480), 16, 25000, 1e-4, 0.9, None),
    "upernet_internimage-xl_vspw": ((512, 512), (2560, 640), 4, 160000, 2e-5, 0.94, 0.1),
    "upernet_internimage-h_vspw": ((480, 853), (1920, 480), 4, 25000, 2e-5, 0.95, 0.1),
    "upernet_internimage-g_vspw": ((480, 853), (1920, 480), 3, 197253, 2e-5, 0.95, 0.1),
    "upernet_internimage-h_coco_stuff": ((480, 480), (1920, 480), 16, 32000, 2e-5, 0.95, None),
    "mask2former_internimage-h_vspw": ((480, 853), (853, 480), 3, 197253, 2e-5, 0.95, 0.1),
    "mask2former_internimage-h_coco_stuff2vspw": ((480, 853), (1920, 480), 16, 25000, 2e-5, 0.95, 0.1),
    "mask2former_internimage-h_coco_stuff": ((480, 480), (1920, 480), 4, 164000, 2e-5, 0.95, 0.1),
}


HEADS = {"upernet": "UPerHead", "mask2former": "Mask2FormerHead", "eomt": "EomtHead", "pmt": "PlainMaskHead"}


@pytest.mark.parametrize("name", configs.names())
@pytest.mark.parametrize("protocol", ["paper", "as_published"])
def test_a_row_agrees_with_its_name_and_dataset(name: str, protocol: str) -> None:
    config = resolve({"config": name, "protocol": protocol})
    dataset = name.rpartition("2")[2] if "coco_stuff2" in name else name.partition("_")[2].partition("_")[2]
    assert config.dataset == dataset
    assert config.model.decode_head.num_classes == LABEL_SPACES[dataset].num_classes
    assert config.model.decode_head.type == HEADS[name.split("_")[0]]
    assert tuple(config.model.data_preprocessor.size) == tuple(config.crop_size)
    assert config.model.test_cfg.protocol == protocol
    paramwise = config.optim_wrapper.get("paramwise_cfg") or {}
    if "depths" in paramwise:
        assert tuple(paramwise.depths) == tuple(config.model.backbone.depths)
    published = published_settings(config)
    assert json.loads(canonical_json(published)) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_the_published_code(name: str) -> None:
    config = resolve({"config": name, "protocol": "as_published"})
    wrapper = config.optim_wrapper
    assert (
        tuple(config.crop_size),
        tuple(config.scale),
        config.batch_size,
        config.max_iters,
        wrapper.optimizer.lr,
        wrapper.paramwise_cfg.get("decay_rate"),
        (wrapper.get("clip_grad") or {}).get("max_norm"),
    ) == PUBLISHED[name]


def ohem(config: Any, head: str) -> Any:
    return config.model[head].get("sampler")


def test_what_differs_between_paper_and_code() -> None:
    both = {p: resolve({"config": "upernet_swin-l_vspw", "protocol": p}) for p in ("paper", "as_published")}
    assert both["paper"].optim_wrapper.optimizer.lr == 6e-5
    assert ohem(both["paper"], "decode_head") is None and ohem(both["as_published"], "decode_head").min_kept == 100000
    both = {p: resolve({"config": "upernet_internimage-xl_vspw", "protocol": p}) for p in ("paper", "as_published")}
    assert tuple(both["paper"].crop_size) == (480, 853)
    assert ohem(both["paper"], "auxiliary_head") is None
    assert ohem(both["as_published"], "auxiliary_head").min_kept == 300000
    for name in ("mask2former_internimage-h_coco_stuff", "upernet_internimage-h_coco_stuff"):
        assert not resolve({"config": name}).label_shift
        assert resolve({"config": name, "protocol": "as_published"}).label_shift
    slide = resolve({"config": "mask2former_internimage-h_coco_stuff2vspw", "protocol": "as_published"}).test
    for name in ("upernet_swin-l_vspw", "upernet_convnext-xl_vspw"):
        assert tuple(resolve({"config": name, "protocol": "as_published"}).test.scale) == (853, 480)
    assert (slide.mode, tuple(slide.crop_size), tuple(slide.stride)) == ("slide", (480, 480), (1, 320))


def test_rows_have_nothing_of_their_base_that_is_not_their_own() -> None:
    """OpenGVLab's models have no shifted labels, early stop or window; of InternImage only L, XL and H clip."""
    coco = resolve({"config": "mask2former_internimage-h-1024d_coco_stuff", "protocol": "as_published"})
    vspw = resolve({"config": "mask2former_internimage-h-1024d_vspw", "protocol": "as_published"})
    assert not coco.label_shift and not vspw.label_shift
    assert vspw.stop_iter is None and vspw.test.mode == "whole"
    assert vspw.precision == "float32" and vspw.optim_wrapper.paramwise_cfg.head_embeddings == "first"
    for size, clip in (("t", None), ("s", None), ("b", None), ("l", 0.1), ("xl", 0.1), ("h", 0.1)):
        config = resolve({"config": f"upernet_internimage-{size}_vspw"})
        assert (config.optim_wrapper.clip_grad or {}).get("max_norm") == clip, size


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("upernet_internimage-xl_vspw", (2560, 640)),
        ("upernet_internimage-h_vspw", (1920, 480)),
        ("upernet_internimage-g_vspw", (853, 480)),
        ("upernet_internimage-h_coco_stuff", (1920, 480)),
    ],
)
def test_sizes_of_the_published_test_pipelines(name: str, scale: tuple[int, int]) -> None:
    test = resolve({"config": name, "protocol": "as_published"}).test
    assert (tuple(test.scale), test.size_divisor, test.mode) == (scale, 32, "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.names())
def test_every_model_can_be_built(name: str) -> None:
    assert sum(parameter.numel() for parameter in build_on_meta(load(name).model).parameters()) > 2e5


def test_settings_and_options_reach_everything_that_depends_on_them() -> None:
    config = resolve(
        {
            "config": "mask2former_internimage-nano-h_vspw",
            "max_iters": 77,
            "cfg_options": {"crop_size": [32, 40], "grad_checkpoint": True, "optim_wrapper.optimizer.lr": 0.5},
        }
    )
    crop = next(t for t in config.train_pipeline if t["type"] == "RandomCrop")
    assert tuple(crop["crop_size"]) == tuple(config.model.data_preprocessor.size) == (32, 40)
    assert config.param_scheduler[-1]["end"] == 78
    assert config.model.backbone.with_cp and config.model.decode_head.with_cp
    assert config.optim_wrapper.optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": "upernet_swin-xl_vspw"}, "row 'upernet_swin-xl_vspw' is unknown.*did you mean"),
        ({}, "key 'config'"),
        ({"protocol": "papr"}, "protocol: found 'papr', allowed are paper, as_published"),
        ({"max_iter": 5}, r"unknown key 'max_iter' \(did you mean 'max_iters'"),
        ({"cfg_options": {"model.bakbone.depths": 1}}, "model has no 'bakbone'; it has .*backbone"),
        ({"cfg_options": {"test.scales": 1}}, "test has no 'scales'; it has crop_size"),
        ({"cfg_options": {"max_iters.first": 1}}, "'first' leads nowhere"),
        ({"cfg_options": {"dataset": "coco_stuff"}}, "unknown key 'dataset'"),
        ({"cfg_options": {"model.decode_head.num_classes": 10}}, "num_classes is 10, not 124"),
        ({"precision": "fp16"}, "vspw.precision: is 'fp16', must be one of 'float32', 'bfloat16', 'float16'"),
        ({"batch_size": 0}, "vspw.batch_size: is 0, must be at least 1"),
        ({"cfg_options": {"select": "best"}}, "needs val_interval"),
        ({"cfg_options": {"optim_wrapper.optimizer.lr": "2e-5"}}, "lr' is the text '2e-5', must be a number"),
        ({"cfg_options": {"optim_wrapper.optimizer": {"eps": "1e-8"}}}, "optimizer.eps' is the text '1e-8'"),
        ({"cfg_options": {"ratio_range": ["5e-1", 2.0]}}, "ratio_range.0' is the text '5e-1'"),
        ({"cfg_options": {"model": 3}}, "'model' is 3, must be a map"),
        ({"cfg_options": {"warmup_iters": -1}}, "warmup_iters: is -1, must be at least 0"),
        ({"cfg_options": {"grad_checkpoint": 1}}, "grad_checkpoint: is 1 .*, must be true or false or null"),
        ({"cfg_options": {"crop_size": 480}}, "crop_size: is 480 .*, must be a list"),
        ({"cfg_options": {"scale": [853, 0]}}, "scale.1: is 0, must be at least 1"),
        ({"cfg_options": {"micro_batch": 1.5}}, "micro_batch: is 1.5 .*, must be a whole number or null"),
        ({"cfg_options": {"stop_iter": 201}}, "stop_iter: is 201, after the schedule's end, max_iters 200"),
        ({"cfg_options": {"ema": 0.9999}}, "ema: is 0.9999, must be at most 0.5"),
        ({"cfg_options": {"flip": 3}}, "flip: is 3, must be at most 1"),
        ({"cfg_options": {"warmup_ratio": 0.0}}, "warmup_ratio: is 0.0, must be more than 0"),
        ({"cfg_options": {"power": -1.0}}, "power: is -1.0, must be more than 0"),
        ({"cfg_options": {"ratio_range": [2, 0.5]}}, r"ratio_range: is \[2.0, 0.5\], must be \[least, most\]"),
        ({"cfg_options": {"max_iters": True}}, "max_iters: is True .*, must be a whole number"),
        ({"cfg_options": {"model.backbone.with_cp": True}}, "with_cp follows from grad_checkpoint"),
        ({"cfg_options": {"optim_wrapper.constructor": "LayerDecay"}}, "'LayerDecay', allowed are DefaultOptimW"),
        ({"cfg_options": {"optim_wrapper.paramwise_cfg.norm_decay": 0}}, r"\(no constructor\) takes no 'norm_decay'"),
        ({"cfg_options": {"optim_wrapper.clip_grad": {"max_nrom": 1}}}, "clip_grad takes no 'max_nrom'.*did you mean"),
        ({"cfg_options": {"optim_wrapper.clip_grad": 3}}, "clip_grad"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    row = {} if message.startswith("key") else {"config": "upernet_swin-nano_vspw"}
    with pytest.raises(UserError, match=message):
        resolve({**row, **settings})


def test_where_embeddings_of_the_head_count_is_checked() -> None:
    with pytest.raises(UserError, match="head_embeddings is 'frist', allowed are last, first"):
        load("upernet_internimage-t_vspw", {"optim_wrapper.paramwise_cfg.head_embeddings": "frist"})
    with pytest.raises(UserError, match=r"paramwise_cfg \(InternImageLayerDecay\) takes no 'decay_rat'"):
        load("upernet_internimage-t_vspw", {"optim_wrapper.paramwise_cfg.decay_rat": 0.9})
    rates = {"_delete_": True, "depths": [4, 4, 18, 4], "decay_rate": 0.9}
    with pytest.raises(UserError, match="InternImageLayerDecay needs 'head_embeddings'"):
        load("upernet_internimage-t_vspw", {"optim_wrapper.paramwise_cfg": rates})
