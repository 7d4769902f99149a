"""From files to an engine: a resolved config, its weights, and the view settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from vss.configs.resolved import ModelConfig, ViewSettings, read_model_config
from vss.configs.schema import read_section
from vss.configs.tta import Tta, parse_tta, published_tta
from vss.core.device import resolve_device
from vss.core.files import JsonObject, read_json
from vss.infer.engine import Engine
from vss.models.build import build_segmentor
from vss.models.config_types import NetworkConfig, check_types
from vss.weights.weights_file import read_weights


@dataclass(frozen=True)
class InferencePlan:
    """The settings of an inference, checked before anything is loaded.

    Attributes:
        config: what the model's resolved config holds.
        tta: the views: the model's own test settings overridden by the prediction's.
        protocol: "paper" or "as_published".
        precision: one of `vss.configs.schema.PRECISIONS`.
        device: where the model runs.
        compile: whether to use torch.compile.
        prediction: its name, None where none is given.
    """

    config: ModelConfig
    tta: Tta
    protocol: str
    precision: str
    device: torch.device
    compile: bool
    prediction: str | None = None

    @property
    def device_name(self) -> str:
        """Returns "cpu" or the GPU's product name."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type


@dataclass(frozen=True, kw_only=True)
class InferSettings:
    """`infer_job` of the schema: the settings of a prediction."""

    prediction: str | None = None
    tta: ViewSettings
    protocol: str
    precision: str | None = None
    compile: bool


def read_settings(given: JsonObject) -> InferSettings:
    """Returns the typed settings of a prediction.

    Raises:
        UserError: an unknown key or a value that is not allowed.
    """
    return read_section(InferSettings, "infer_job", given, where="infer settings")


def read_plan(config_file: str | os.PathLike, settings: JsonObject, device: str) -> InferencePlan:
    """Returns the checked plan of an inference with the resolved config that stands next to the weights.

    Raises:
        UserError: see `plan_inference`; or the file is not a resolved config.
    """
    config = read_model_config(read_json(config_file), where=str(config_file))
    check_types(config.model, where=f"{config_file}: model")
    return plan_inference(config, settings, device)


def plan_inference(config: ModelConfig, settings: JsonObject, device: str) -> InferencePlan:
    """Returns the checked plan of an inference.

    Args:
        config: of the model; its `test` holds the defaults of the views.
        settings: `infer_job` of the schema.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: an unknown key or a value that is not allowed.
    """
    options, where = read_settings(settings), resolve_device(device)
    views = {**config.test, **options.tta}
    default = default_precision(where, options.protocol, config)
    return InferencePlan(
        config=config,
        tta=tta_of(config, views, options.protocol),
        protocol=options.protocol,
        precision=views.get("precision") or options.precision or default,
        device=where,
        compile=views.get("compile", options.compile),
        prediction=options.prediction,
    )


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
