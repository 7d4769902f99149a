"""From a resolved config to a segmentor; the one place that knows what has to be registered."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import mmpretrain.models  # noqa: F401  registers ConvNeXt
import mmseg.models  # noqa: F401  registers Swin, UPerHead, FCNHead, losses
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

import vss.models.intern_image
import vss.models.mask2former_head  # noqa: F401
from vss.errors import UserError
from vss.models.segmentor import Segmentor


def build_segmentor(config: Mapping[str, Any]) -> Segmentor:
    """Builds a segmentor with freshly initialised weights, on the current default device, in training mode.

    Args:
        config: the `model` entry of a resolved config, as `vss.models.rows.segmentor_config` returns it. SyncBN becomes
            plain BN (same names, same numbers on one device) where torch.distributed is not initialised.

    Raises:
        UserError: an unknown type or argument in the config.
    """
    config = copy.deepcopy(dict(config))
    config.setdefault("type", "Segmentor")
    if not (dist.is_available() and dist.is_initialized()):
        config = _plain_batch_norm(config)
    try:
        with DefaultScope.overwrite_default_scope("mmseg"):
            segmentor = MODELS.build(ConfigDict(config))
            segmentor.init_weights()
    except (KeyError, TypeError) as error:
        raise UserError(f"model config: {str(error).strip(chr(34))}") from error
    return segmentor


def _plain_batch_norm(value: Any) -> Any:
    """Returns a copy of a config in which every {type: SyncBN} says BN."""
    if isinstance(value, Mapping):
        copied = {key: _plain_batch_norm(item) for key, item in value.items()}
        return copied | {"type": "BN"} if copied.get("type") == "SyncBN" else copied
    if isinstance(value, (list, tuple)):
        return type(value)(_plain_batch_norm(item) for item in value)
    return value
