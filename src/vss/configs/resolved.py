"""Resolved configs as typed objects: what `config.json` next to the weights holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from vss.configs.schema import read_section
from vss.core.errors import UserError
from vss.models.config_types import NetworkConfig
from vss.models.rows import IMAGE_MEAN, IMAGE_STD

ViewSettings: TypeAlias = Mapping[str, Any]
"""View settings as somebody wrote them, any of them absent; `vss.configs.tta.parse_tta` reads them."""

ConfigDocument: TypeAlias = Mapping[str, Any]
"""A resolved config as JSON (`vss.configs.resolve.published_settings`): what is written, hashed and compared."""

RowSettings: TypeAlias = Mapping[str, Any]
"""What is requested of a row: config (its name), protocol, cfg_options, and any key of the row."""


@dataclass(frozen=True)
class RareClassSampling:
    """Samples chosen by class, rare ones more often: see `rare_class_sampling` of `row` in config.schema.yaml."""

    temperature: float
    min_pixels: int


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training, as `$defs.row` of the schema describes them."""

    scale: tuple[int, int]
    crop_size: tuple[int, int]
    ratio_range: tuple[float, float]
    cat_max_ratio: float
    flip: float
    photometric_distortion: bool
    label_shift: bool
    batch_size: int
    max_iters: int
    warmup_iters: int
    warmup_ratio: float
    power: float
    min_lr: float
    stop_iter: int | None
    seed: int
    precision: str
    grad_checkpoint: bool | None
    micro_batch: int | None
    fsdp: bool
    ema: float | None
    num_workers: int
    init_classes: str
    checkpoint_interval: int
    keep_checkpoints: int
    keep_weights: int
    log_interval: int
    val_interval: int
    val_frames: int
    select: str
    optim_wrapper: NetworkConfig
    class_weights: str | Mapping[str, float] | None = None
    rare_class_sampling: RareClassSampling | None = None

    @property
    def iterations(self) -> int:
        """How many iterations it runs: its schedule's length, or where it is stopped before."""
        return self.stop_iter or self.max_iters

    def accumulation_steps(self, processes: int) -> int:
        """Returns the gradient accumulation steps of one process, which the batch is shared with evenly."""
        share, rest = divmod(self.batch_size, processes)
        assert rest == 0, (self.batch_size, processes)
        return share // min(self.micro_batch or share, share)


@dataclass(frozen=True)
class ModelConfig:
    """What inference takes from a resolved config.

    Attributes:
        model: MMEngine config of the segmentor.
        row: name of the row, None where a config names none.
        protocol: "paper" or "as_published".
        classes: names, position = train id; None where a config has none.
        colours: "#rrggbb" by train id, "" for the overlay palette's; empty where the classes have none of their own.
        test: the model's own view settings.
        mean, std: three numbers each, RGB on 0..255.
        trained_in: precision of the training.
    """

    model: NetworkConfig
    row: str | None
    protocol: str
    classes: tuple[str, ...] | None
    colours: tuple[str, ...]
    test: ViewSettings
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained_in: str


@dataclass(frozen=True)
class TrainingConfig(ModelConfig):
    """What a training takes from a resolved config.

    Attributes:
        dataset: name of the dataset that the row is for.
        training: its settings.
    """

    dataset: str
    training: TrainingSettings


def read_model_config(document: ConfigDocument, *, where: str) -> ModelConfig:
    """Returns the typed reading of a resolved config.

    Raises:
        UserError: `where` is not a resolved config.
    """
    return ModelConfig(**_model_fields(document, where))


def read_training_config(document: ConfigDocument) -> TrainingConfig:
    """Returns the typed reading of what `vss.configs.resolve.published_settings` made."""
    return TrainingConfig(
        **_model_fields(document, document["row"]),
        dataset=document["dataset"],
        training=read_training(document["row"], document["training"]),
    )


def read_training(row: str, settings: RowSettings) -> TrainingSettings:
    """Returns the typed settings of a row; keys that are not settings of a training are left out.

    Raises:
        UserError: a value that is not allowed.
    """
    known = {key: value for key, value in settings.items() if key in TrainingSettings.__annotations__}
    return read_section(TrainingSettings, "row", known, where=row)


def _model_fields(document: ConfigDocument, where: str) -> dict[str, Any]:
    if "model" not in document:
        raise UserError(f"{where}: not a resolved model config, key 'model' is missing")
    normalisation = document.get("normalisation", {})
    classes = document.get("classes")
    return {
        "model": document["model"],
        "row": document.get("row"),
        "protocol": document.get("protocol", "paper"),
        "classes": None if classes is None else tuple(classes),
        "colours": tuple(document.get("colours", ())),
        "test": document.get("test", {}),
        "mean": tuple(normalisation.get("mean", IMAGE_MEAN)),
        "std": tuple(normalisation.get("std", IMAGE_STD)),
        "trained_in": document.get("training", {}).get("precision", "float32"),
    }
