"""The sections of a run's config as frozen objects: what decides which jobs there are, and what they depend on.

What is handed on to a job, hashed or compared stays JSON, as the user wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vss.configs.datasets import MixEntry
from vss.configs.schema import from_json, read_section
from vss.core.errors import UserError
from vss.core.files import JsonObject


@dataclass(frozen=True)
class InitModel:
    """Another model of the config whose weights a training starts from."""

    model: str


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A `finetune` or `pretrain` of a model: see `training` in config.schema.yaml."""

    config: str
    cfg_options: JsonObject
    gpus: int
    nodes: int
    init_classes: str
    seed: int
    extra: Mapping[str, float]
    data: str | tuple[str | MixEntry, ...] | None = None
    init: str | InitModel | None = None
    max_iters: int | None = None
    batch_size: int | None = None
    precision: str | None = None
    checkpoint_interval: int | None = None
    class_weights: str | Mapping[str, float] | None = None
    rare_class_sampling: JsonObject | None = None


@dataclass(frozen=True)
class RunSoup:
    """How a run's last weights are averaged: see `run_soup` in config.schema.yaml."""

    of: str
    last: int
    greedy: str | None


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A model: see `models` in config.schema.yaml."""

    seeds: int
    cfg_options: JsonObject
    test: JsonObject
    title: str | None = None
    finetune: TrainingRow | None = None
    pretrain: TrainingRow | None = None
    weights: str | None = None
    soup: RunSoup | tuple[str, ...] | None = None
    data: str | None = None
    config: str | None = None

    def training(self, stage: str) -> TrainingRow:
        """Returns the training of a stage that the model has."""
        row = self.pretrain if stage == "pretrain" else self.finetune
        assert row is not None, stage
        return row

    @property
    def trainings(self) -> dict[str, TrainingRow]:
        """Its trainings by stage, in their order."""
        stages = {"pretrain": self.pretrain, "finetune": self.finetune}
        return {stage: row for stage, row in stages.items() if row is not None}

    @property
    def soup_parts(self) -> tuple[str, ...]:
        """The models whose weights it averages: of a soup of one training that one; none where it is no soup."""
        return (self.soup.of,) if isinstance(self.soup, RunSoup) else self.soup or ()


@dataclass(frozen=True, kw_only=True)
class EnsembleRow:
    """An ensemble: see `ensembles` in config.schema.yaml. Its members are read by their stage."""

    members: Mapping[str, float | JsonObject]
    search_weights: bool
    fit_temperature: bool
    title: str | None = None

    @property
    def searches(self) -> bool:
        """Whether weights or temperatures are chosen on val."""
        return self.search_weights or self.fit_temperature


@dataclass(frozen=True, kw_only=True)
class RefinerRow:
    """A refiner: see `refiners` in config.schema.yaml. What its stage is given is read there."""

    method: str
    weights: str | None
    settings: JsonObject
    training: JsonObject
    proposals: JsonObject
    flow: str
    flow_weights: str | None
    on_problem: str
    search_settings: bool = False
    title: str | None = None

    @property
    def is_trained(self) -> bool:
        """Whether its small network is trained here."""
        return self.method == "cascadepsp" and self.weights is None

    @property
    def reads_proposals(self) -> bool:
        """Whether it reads mask proposals."""
        return self.method in ("ssa", "tubes")

    @property
    def weights_config(self) -> str | None:
        """The config that is published next to SAM 2's weights, which do not say all of its sizes; None for others."""
        if self.weights is None or self.proposals.get("method") != "sam2":
            return None
        return os.path.join(os.path.dirname(self.weights), "config.json")

    @property
    def only_uncertain(self) -> bool:
        """Whether it looks only at what the prediction is uncertain of."""
        return self.settings.get("only_uncertain") is not None

    @property
    def follows_flow(self) -> bool:
        """Whether it reads optical flow, of some predictions at least."""
        links_superpixels = self.method == "tubes" and self.weights is None
        return self.method == "temporal" or links_superpixels or self.only_uncertain


@dataclass(frozen=True)
class PseudoSettings:
    """How pseudo-labels are made: see `pseudo_labels` in config.schema.yaml."""

    of: tuple[str, ...]
    teacher: str
    split: str
    measure: str
    keep: float
    least: float
    max_share: float
    stride: int
    negatives: bool
    transductive: bool
    data: str | None = None
    keep_of: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunTargets:
    """What is made of the predictions: see `targets` in config.schema.yaml."""

    score_split: str
    submit: tuple[str, ...]
    flow: str | None
    flow_weights: str | None
    calibration: bool
    data: str | None = None


@dataclass(frozen=True)
class SubmissionRules:
    """The submission of the test split: see `submit` in config.schema.yaml."""

    fill: str | None
    pngs: str | None


@dataclass(frozen=True)
class Ablation:
    """Predictions that show what each lever changed: see `ablation` in config.schema.yaml."""

    baseline: str
    levers: Mapping[str, str]
    all: str | None

    @property
    def predictions(self) -> list[str]:
        """All that it names, the baseline first."""
        return [self.baseline, *self.levers.values(), *([] if self.all is None else [self.all])]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """The report's words and pictures: see `report` in config.schema.yaml."""

    frames: int
    overlay_alpha: float
    overlays: tuple[str, ...]
    videos: int | tuple[str, ...]
    video_megabytes: float
    colours: Mapping[str, str]
    ablation: Ablation | None
    title: str | None = None


@dataclass(frozen=True)
class TrackerSettings:
    """Settings of the tracker: see `tracker` in config.schema.yaml."""

    backend: str | None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    """A checked config. Rows of `data`, `tta`, `predictions` and `pseudo` are read by who knows their defaults."""

    results: str
    work: str
    proposals_cache: str | None
    protocol: str
    retrain_on_code_change: bool
    data: Mapping[str, JsonObject]
    models: Mapping[str, ModelRow]
    tta: Mapping[str, JsonObject]
    ensembles: Mapping[str, EnsembleRow]
    refiners: Mapping[str, RefinerRow]
    pseudo: Mapping[str, JsonObject]
    predictions: Mapping[str, JsonObject | None]
    targets: RunTargets
    submit: SubmissionRules
    report: ReportOptions
    tracker: TrackerSettings


def read_run_config(document: JsonObject) -> RunConfig:
    """Returns a config that `vss.configs.schema.check_config` has checked and filled."""
    return from_json(RunConfig, document)


_OF_EMA = ("teacher", "data", "split", "transductive", "stride", "least")


def read_pseudo_settings(given: JsonObject, *, where: str) -> PseudoSettings:
    """Returns the typed settings of pseudo-labels.

    Raises:
        UserError: an unknown key, a value that is not allowed, or a split that is scored without `transductive`.
    """
    settings = read_section(PseudoSettings, "pseudo_labels", given, where=where)
    if settings.split != "train" and not settings.transductive:
        raise UserError(
            f"{where}.split: is {settings.split!r}, which is scored; training on it is transductive: choose train, or"
            " set transductive: true, which every table will say"
        )
    if settings.teacher == "predictions":
        if not settings.of:
            raise UserError(f"{where}.of: is missing; name predictions, each a model.tta, or set teacher: ema")
    elif other := next((key for key in given if key not in _OF_EMA), None):
        raise UserError(f"{where}.{other}: has no meaning with teacher: ema, which takes {', '.join(_OF_EMA[1:])}")
    return settings
