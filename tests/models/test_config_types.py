"""A config from elsewhere names modules that compute, and nothing that runs or reads anything else."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.registry import MODELS, TASK_UTILS

from vss import configs
from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.infer.load import read_plan
from vss.models.build import build_on_meta, build_segmentor
from vss.models.config_types import MODEL_TYPES, check_types

ROW = "upernet_swin-nano_vspw"


def set_at(model: dict, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        model = model[key]
    model[last] = value


def attacks(mark: Path) -> dict[str, Any]:
    """Entries of a model config that would write the file `mark`, or load one, by their dotted place."""
    call = {"type": "os.system", "command": f"touch {mark}"}
    return {
        "backbone": call,
        "data_preprocessor": call,
        "neck": call,
        "backbone.norm_cfg": call,
        "backbone.type": "os.system",
        "decode_head.type": "mmengine.fileio.load",
        "decode_head.loss_decode": [[call]],
        "decode_head.loss_decode.type": "mmpretrain.models.build_backbone",
        "decode_head.sampler": {"type": "builtins.exec", "object": f"open({str(mark)!r}, 'w')"},
        "decode_head.extra": {"deep": [{"deeper": [{"deepest": call}]}]},
        "auxiliary_head.act_cfg": {"type": ["os.system"], "command": f"touch {mark}"},
        "auxiliary_head.conv_cfg": {"type": os.system, "command": f"touch {mark}"},
        "init_cfg": {"type": "Pretrained", "checkpoint": str(mark)},
        "backbone.init_cfg": {"type": "Constant", "checkpoint": str(mark)},
        "backbone.pretrained": str(mark),
        "backbone._scope_": "os",
        "decode_head.loss_decode.class_weight": f"{mark}.pkl",
        "type": "VPD",
    }


@pytest.mark.parametrize("place", attacks(Path()))
@pytest.mark.parametrize("build", [build_segmentor, build_on_meta])
def test_a_model_config_that_names_other_code_is_refused_before_anything_is_built(
    tmp_path: Path, place: str, build: Callable
) -> None:
    model = copy.deepcopy(published_settings(resolve({"config": ROW}))["model"])
    set_at(model, place, attacks(tmp_path / "mark")[place])
    with pytest.raises(UserError, match="model") as error:
        build(model)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mark").exists()


def test_the_config_next_to_weights_is_refused_by_its_name(tmp_path: Path) -> None:
    config = published_settings(resolve({"config": ROW}))
    config["model"]["backbone"] = {"type": "os.system", "command": f"touch {tmp_path}/mark"}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=r"config\.json: model\.backbone\.type: found 'os\.system'"):
        read_plan(tmp_path / "config.json", {}, "cpu")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"model.backbone": {"type": "os.system", "command": "true", "_delete_": True}},
        {"model.backbone.type": "os.system"},
        {"model": {"decode_head": {"norm_cfg": {"type": "os.system"}}}},
        {"model.decode_head.loss_decode": [{"type": "os.system"}]},
        {"model.decode_head.init_cfg": {"type": "Pretrained", "checkpoint": "x.pth"}},
        {"optim_wrapper.type": "os.system"},
        {"optim_wrapper.optimizer": {"type": "os.system", "command": "true", "_delete_": True}},
        {"optim_wrapper.optimizer.type": ["os.system"]},
        {"optim_wrapper.constructor": "os.system"},
        {"optim_wrapper.constructor": ["os.system"]},
        {"optim_wrapper.clip_grad.type": "os.system"},
        {"train_pipeline": [{"type": "os.system"}]},
        {"param_scheduler": [{"type": "os.system"}]},
        {"custom_hooks": [{"type": "os.system"}]},
        {"custom_imports": {"imports": ["antigravity"]}},
        {"_base_": "/somewhere/config.py"},
        {"test.mode": {"type": "os.system"}},
    ],
    ids=str,
)
def test_cfg_options_name_no_other_code(options: dict) -> None:
    with pytest.raises(UserError) as error:
        resolve({"config": ROW, "cfg_options": options})
    assert "\n" not in str(error.value)


def test_a_config_file_of_the_user_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "row.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')", encoding="utf-8")
    for name in (str(tmp_path / "row"), str(tmp_path / "row.py"), os.path.relpath(tmp_path / "row", configs.FOLDER)):
        with pytest.raises(UserError, match="is unknown"):
            resolve({"config": name})
    assert not (tmp_path / "mark").exists()


def test_a_bottomless_config_is_refused() -> None:
    nested: Any = []
    for _ in range(20_000):
        nested = [nested]
    with pytest.raises(UserError, match="levels deep"):
        check_types({"type": "Segmentor", "neck": nested}, where="model")


@pytest.mark.parametrize("name", configs.names())
@pytest.mark.parametrize("protocol", ["paper", "as_published"])
def test_every_row_is_accepted(name: str, protocol: str) -> None:
    check_types(published_settings(resolve({"config": name, "protocol": protocol}))["model"], where=name)


def test_the_list_holds_only_what_the_registries_hold() -> None:
    importlib.import_module("mmpretrain.models")
    registered = {*MODELS.module_dict, *ROOT_MODELS.module_dict, *TASK_UTILS.module_dict}
    assert MODEL_TYPES - {"mmpretrain.ConvNeXt"} <= registered
    assert MODELS.get("mmpretrain.ConvNeXt").__name__ == "ConvNeXt"
