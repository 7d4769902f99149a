"""Several trainings of one model: `seeds: 3` written out as three models, with the predictions of each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vss.core.errors import UserError
from vss.core.files import JsonObject

_STAGES = ("pretrain", "finetune")
_OF_PAPER = ("table", "paper")  # keys of a prediction that stand in the report once


@dataclass(frozen=True)
class SeedRun:
    """One of a model's trainings with several seeds.

    Attributes:
        model: the model that the config names, which is the run of the first seed.
        seed: of the finetuning.
    """

    model: str
    seed: int


def with_seeds(document: JsonObject) -> tuple[dict[str, Any], dict[str, SeedRun]]:
    """Returns a config in which every training is a model of its own, and the runs by the name of their model.

    The run of the first seed keeps the model's name, and with it its work folder and predictions; that of seed 7 is
    `NAME-s7`. Each has its own pretraining, and every prediction of the model, refined ones as well. What names the
    model (ensembles, soups, pseudo-labels, submissions) stays with the first seed.

    Args:
        document: a config with defaults filled in; it is not changed.

    Raises:
        UserError: a model that is not trained has seeds, its seed is hidden in cfg_options, or a name is taken.
    """
    models: dict[str, Any] = {}
    runs: dict[str, SeedRun] = {}
    for name, row in document["models"].items():
        models[name] = {**row, "seeds": 1}
        if row["seeds"] == 1:
            continue
        _check(name, row)
        first = row["finetune"]["seed"]
        runs[name] = SeedRun(name, first)
        for seed in range(first + 1, first + row["seeds"]):
            run_name = f"{name}-s{seed}"
            if run_name in document["models"]:
                raise UserError(
                    f"config: models.{name}.seeds: {run_name} is the run of seed {seed}, and the name is taken by"
                    f" models.{run_name}; choose another"
                )
            models[run_name], runs[run_name] = _with_seed(models[name], seed - first), SeedRun(name, seed)
    predictions = {
        run_name: row
        for name, given in document["predictions"].items()
        for run_name, row in _predictions(name, given, runs).items()
    }
    return {**document, "models": models, "predictions": predictions}, runs


def _check(name: str, row: JsonObject) -> None:
    if row.get("finetune") is None:
        raise UserError(f"config: models.{name}.seeds: is {row['seeds']}; allowed only next to finetune")
    trained = {f".{stage}": row[stage] for stage in _STAGES if row.get(stage) is not None}
    for key, part in {"": row, **trained}.items():
        if "seed" in part["cfg_options"]:
            raise UserError(
                f"config: models.{name}{key}.cfg_options.seed: hides the seeds of models.{name}.seeds; write it as"
                f" models.{name}.finetune.seed"
            )


def _with_seed(row: JsonObject, added: int) -> dict[str, Any]:
    """Returns a model whose trainings have seeds so much higher."""
    changed = copy.deepcopy(dict(row))
    for stage in _STAGES:
        if changed.get(stage) is not None:
            changed[stage]["seed"] += added
    return changed


def _predictions(name: str, row: JsonObject | None, runs: Mapping[str, SeedRun]) -> dict[str, JsonObject | None]:
    """Returns a prediction, and those of the other seeds where it is of a model that has some."""
    model, dot, rest = name.partition(".")
    of_others = None if row is None else {key: value for key, value in row.items() if key not in _OF_PAPER}
    others = (run_name for run_name, run in runs.items() if run.model == model and run_name != model)
    return {name: row, **{f"{run_name}{dot}{rest}": of_others for run_name in others}}
