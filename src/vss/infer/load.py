"""From files to an engine: a resolved config, its weights, and the view settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vss.configs.resolved import ModelConfig, NetworkConfig, ViewSettings, read_model_config
from vss.configs.schema import PRECISIONS, PROTOCOLS
from vss.configs.tta import Tta, parse_tta, published_tta
from vss.core.device import resolve_device
from vss.core.errors import UserError
from vss.core.files import read_json
from vss.infer.engine import Engine
from vss.models.build import build_segmentor
from vss.models.config_types import check_types
from vss.weights.weights_file import read_weights


@dataclass(frozen=True)
class InferencePlan:
    """What an inference will do, checked before anything is loaded.

    Attributes:
        config: what the model's resolved config holds.
        tta: the views: the model's own test settings overridden by the prediction's.
        protocol: "paper" or "as_published".
        precision: key of `PRECISIONS`.
        device: where the model runs.
        compile: whether to use torch.compile.
    """

    config: ModelConfig
    tta: Tta
    protocol: str
    precision: str
    device: torch.device
    compile: bool

    @property
    def device_name(self) -> str:
        """Returns "cpu" or the GPU's product name."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type


def read_plan(config_file: str | os.PathLike, settings: Mapping[str, Any], device: str) -> InferencePlan:
    """Returns the checked plan of an inference with the resolved config that stands beside the weights.

    Raises:
        UserError: see `plan_inference`; or the file is not a resolved config.
    """
    config = read_model_config(read_json(config_file), where=str(config_file))
    check_types(config.model, where=f"{config_file}: model")
    return plan_inference(config, settings, device)


def plan_inference(config: ModelConfig, settings: Mapping[str, Any], device: str) -> InferencePlan:
    """Returns the checked plan of an inference.

    Args:
        config: of the model; its `test` holds the defaults of the views.
        settings: tta (keys of `Tta`, and `precision` and `compile` of this prediction alone), protocol, precision
            (see `default_precision`), compile, prediction (a name; recorded only).
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: an unknown key or a value that is not allowed.
    """
    allowed = ("tta", "protocol", "precision", "compile", "prediction")
    for key in settings:
        if key not in allowed:
            raise UserError(f"infer settings: unknown key {key!r}; allowed: {', '.join(allowed)}")
    protocol = settings.get("protocol", "paper")
    if protocol not in PROTOCOLS:
        raise UserError(f"infer settings: protocol is {protocol!r}, allowed: {', '.join(PROTOCOLS)}")
    where = resolve_device(device)
    views = {**config.test, **settings.get("tta", {})}
    default = default_precision(where, protocol, config)
    precision = views.pop("precision", None) or settings.get("precision") or default
    if precision not in PRECISIONS:
        raise UserError(f"infer settings: precision is {precision!r}, allowed: {', '.join(PRECISIONS)}")
    compiled = views.pop("compile", settings.get("compile", False))
    if not isinstance(compiled, bool):
        raise UserError(f"infer settings: compile is {compiled!r}, allowed: true, false")
    return InferencePlan(config, tta_of(config, views, protocol), protocol, precision, where, compiled)


def tta_of(config: ModelConfig, views: ViewSettings, protocol: str) -> Tta:
    """Returns the checked view settings of a model under a protocol.

    Args:
        config: of the model.
        views: keys of `Tta`; usually the config's `test`, overridden by a prediction's own.
        protocol: "paper" or "as_published".

    Raises:
        UserError: an unknown key, or a value of the wrong kind or range.
    """
    tta = parse_tta(views)
    return published_tta(tta, config.model) if protocol == "as_published" else tta


def default_precision(device: torch.device, protocol: str, config: ModelConfig) -> str:
    """Returns the precision of a run that names none.

    "float32" on a CPU. On a GPU "bfloat16", and under `as_published` what the authors' code ran the row in, which is
    what it was trained in.
    """
    if device.type == "cpu":
        return "float32"
    return config.trained_in if protocol == "as_published" else "bfloat16"


def load_segmentor(config: ModelConfig, weights: str | os.PathLike) -> nn.Module:
    """Builds a model and fills every parameter from its weights.

    Args:
        config: of the model.
        weights: safetensors or a published checkpoint.

    Raises:
        UserError: the weights do not fill the model, or differ from it in shape.
    """
    segmentor = build_segmentor(network_config(config))
    file = read_weights(weights)
    file.fill(segmentor, tolerate_unused=not file.is_ours)
    return segmentor


def network_config(config: ModelConfig) -> NetworkConfig:
    """Returns the config of the network without the auxiliary head, for which inference has no use."""
    return {key: value for key, value in config.model.items() if key != "auxiliary_head"}


def load_engine(plan: InferencePlan, weights: str | os.PathLike, *, memory: int | None = None) -> Engine:
    """Loads the model of a plan onto its device, ready to predict.

    Args:
        plan: see `read_plan`.
        weights: see `load_segmentor`.
        memory: bytes a GPU forward may use; None = most of what is free.
    """
    return build_engine(plan, load_segmentor(plan.config, weights), memory=memory)


def build_engine(plan: InferencePlan, segmentor: nn.Module, *, memory: int | None = None) -> Engine:
    """Returns the engine that runs a plan's model, which is moved to the plan's device and set to eval mode."""
    return Engine(
        segmentor,
        tta=plan.tta,
        protocol=plan.protocol,
        mean=plan.config.mean,
        std=plan.config.std,
        device=plan.device,
        precision=plan.precision,
        memory=memory,
        compile=plan.compile,
    )
