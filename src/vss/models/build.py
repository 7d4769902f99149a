"""From a resolved config to a segmentor; the one place that knows what has to be registered."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import mmseg.models  # noqa: F401  registers Swin, UPerHead, FCNHead, losses
import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch.overrides import TorchFunctionMode

import vss.models.eomt_head
import vss.models.intern_image
import vss.models.mask2former_head
import vss.models.vit  # noqa: F401
from vss.core.errors import UserError
from vss.models.config_types import NetworkConfig, check_types
from vss.models.segmentor import Segmentor
from vss.models.timm_backbone import TimmBackbone


def build_segmentor(config: NetworkConfig) -> Segmentor:
    """Builds a segmentor with freshly initialised weights, on the current default device, in training mode.

    Args:
        config: the `model` entry of a resolved config, as `vss.models.rows.segmentor_config` returns it. SyncBN becomes
            plain BN (same names, same numbers on one device) where torch.distributed is not initialised.

    Raises:
        UserError: a type that is not one of `config_types.MODEL_TYPES`, or an unknown argument.
    """
    segmentor = _build(config)
    with contextlib.redirect_stdout(io.StringIO()):  # Swin prints that it has no weights, before they are loaded
        segmentor.init_weights()
    return segmentor


def build_on_meta(config: NetworkConfig) -> Segmentor:
    """Builds the same segmentor on the meta device: names and shapes, no numbers, no memory.

    Raises:
        UserError: as `build_segmentor`.
    """
    with torch.device("meta"), _LinspaceOnCpu():
        return _build(config)


class _LinspaceOnCpu(TorchFunctionMode):
    """Swin and ConvNeXt read their stochastic depths out of a linspace, and a meta tensor has no values to read."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _build(config: NetworkConfig) -> Segmentor:
    check_types(config, where="model")
    config = {"type": "Segmentor"} | copy.deepcopy(dict(config))
    if not (dist.is_available() and dist.is_initialized()):
        config = _plain_batch_norm(config)
    if config.get("backbone", {}).get("type") == "TimmBackbone":
        config = _with_timm_channels(config)
    if str(config.get("backbone", {}).get("type")).startswith("mmpretrain."):
        importlib.import_module("mmpretrain.models")  # registers ConvNeXt; seconds, which no other model need wait for
    try:
        with DefaultScope.overwrite_default_scope("mmseg"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Default ``avg_non_ignore`` is False")  # we mean it
            return MODELS.build(ConfigDict(config))
    except (KeyError, TypeError) as error:
        message = str(error.args[0] if error.args else error)
        raise UserError(f"model config: {' '.join(message.split())}") from error


def _with_timm_channels(config: NetworkConfig) -> NetworkConfig:
    """Returns a config whose heads have the channels of the backbone's feature maps where they name none."""
    heads = {name: config[name] for name in ("decode_head", "auxiliary_head") if name in config}
    options = {key: value for key, value in config["backbone"].items() if key != "type"}
    with torch.device("meta"):
        channels = TimmBackbone(**options).channels
    for name, head in heads.items():
        if head.get("in_channels") is None:
            index = head["in_index"]
            found = [channels[i] for i in index] if isinstance(index, (list, tuple)) else channels[index]
            config = {**config, name: {**head, "in_channels": found}}
    return config


def _plain_batch_norm(value: Any) -> Any:
    """Returns a copy of a config in which every {type: SyncBN} says BN."""
    if isinstance(value, Mapping):
        copied = {key: _plain_batch_norm(item) for key, item in value.items()}
        return copied | {"type": "BN"} if copied.get("type") == "SyncBN" else copied
    if isinstance(value, (list, tuple)):
        return type(value)(_plain_batch_norm(item) for item in value)
    return value
