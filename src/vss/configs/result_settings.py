"""The settings that a training's result depends on: they name its work folder, and a change of them trains again."""

from __future__ import annotations

from typing import Any

from vss.configs.resolve import with_checkpointing
from vss.configs.resolved import ConfigDocument, RowSettings

# What changes where and how a training runs but not what it computes, up to rounding and to the random numbers drawn;
# only batch norm and hard example mining, which see the images held at once, notice a smaller micro_batch (and fewer
# GPUs).
_NOT_IN_HASH = (
    "num_workers",
    "micro_batch",
    "fsdp",
    "checkpoint_interval",
    "keep_checkpoints",
    "keep_weights",
    "log_interval",
    "grad_checkpoint",
)
_VALIDATION = ("val_interval", "val_frames")  # watch a training, unless the best of the validations is published
_DERIVED = ("train_pipeline", "param_scheduler")  # follow from the other settings
# Settings that came later, and the value that means what was there before: without it they would retrain everything.
ABSENT: dict[str, Any] = {"class_weights": None, "rare_class_sampling": None}


def result_config(config: ConfigDocument) -> dict[str, Any]:
    """Returns a resolved config without what changes only where and how a training runs."""
    counted = result_settings(config["training"])
    training = {
        key: value
        for key, value in counted.items()
        if key not in _DERIVED and not (key in ABSENT and ABSENT[key] == value)
    }
    return {**config, "model": with_checkpointing(config["model"], False), "training": training}


def result_settings(settings: RowSettings) -> dict[str, Any]:
    """Returns training settings without what changes only where and how a training runs, cfg_options included."""
    options = settings.get("cfg_options") or {}
    published = options.get("select", settings.get("select", "last"))
    ignored = {*_NOT_IN_HASH, *(_VALIDATION if published == "last" else ())}
    counted = {key: value for key, value in settings.items() if key not in {*ignored, "cfg_options"}}
    if options := {key: value for key, value in options.items() if key not in ignored}:
        counted["cfg_options"] = options
    return counted


def running_settings(settings: RowSettings) -> dict[str, Any]:
    """Returns what `result_settings` leaves out: what changes only where and how a training runs."""
    counted = result_settings(settings)
    options, kept = settings.get("cfg_options") or {}, counted.get("cfg_options", {})
    running = {key: value for key, value in settings.items() if key not in counted and key != "cfg_options"}
    if options := {key: value for key, value in options.items() if key not in kept}:
        running["cfg_options"] = options
    return running


def joined_settings(counted: RowSettings, running: RowSettings) -> dict[str, Any]:
    """Returns whole training settings from their `result_settings` and `running_settings`, keys sorted."""
    options = {**counted.get("cfg_options", {}), **running.get("cfg_options", {})}
    whole = {**counted, **running, "cfg_options": dict(sorted(options.items()))}
    return dict(sorted(whole.items()))
