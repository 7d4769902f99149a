"""What a plan's trainings and inferences resolve to: rows merged with settings, digests of them, views that fit."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from vss import configs
from vss.core.errors import UserError
from vss.core.files import JsonObject, canonical_json
from vss.workflow.config import read_config
from vss.workflow.plan import Plan


def read_plan(config: JsonObject) -> Plan:
    """Returns the plan of a config as Snakemake has read it, checked as far as it can be before anything runs.

    Raises:
        UserError: the first mistake.
    """
    plan = Plan(read_config(config), row_names=configs.names())
    resolved_rows(plan)
    check_soups(plan)
    check_views(plan)
    return plan


def training_digest(plan: Plan, name: str) -> str:
    """Returns a digest of what the settings of "stage/model" (or "import/model") resolve to.

    It changes exactly when a value that the result depends on changes, wherever that value is written: the config, the
    row's file, a base of it, or the table of model sizes.

    Raises:
        UserError: a setting that the row does not have, or a value that it does not allow.
    """
    from vss.configs.result_settings import result_config

    stage, model = name.split("/")
    row = _resolved(stage, model, canonical_json(_settings_of(plan, stage, model)))
    return hashlib.sha256(canonical_json(result_config(row)).encode()).hexdigest()[:16]


def _settings_of(plan: Plan, stage: str, model: str) -> dict[str, Any]:
    return plan.import_settings(model) if stage == "import" else plan.training_settings(stage, model)


def counted_settings(plan: Plan, stage: str, model: str) -> dict[str, Any]:
    """Returns the settings of a training (or "import") without what changes only where and how a training runs."""
    from vss.configs.result_settings import result_settings

    return result_settings(_settings_of(plan, stage, model))


def running_settings(plan: Plan, stage: str, model: str) -> dict[str, Any]:
    """Returns the settings of a training that change only where and how it runs: what `counted_settings` leaves out."""
    from vss.configs import result_settings

    return result_settings.running_settings(plan.training_settings(stage, model))


def check_soups(plan: Plan) -> None:
    """Checks that the members of every soup are one network, as the stage will, before anything is trained for it.

    Raises:
        UserError: two members differ.
    """
    from vss.configs.result_settings import result_config

    rows = {model: result_config(row) for model, row in _rows_by_model(plan).items()}
    for soup in plan.soups():
        first, *others = plan.soup_parts(soup)
        for other in others:
            for key in ("model", "classes", "normalisation"):
                if where := _difference(rows[first][key], rows[other][key], key):
                    raise UserError(
                        f"config: models.{soup}.soup: {first} ({rows[first]['row']}) and {other} ({rows[other]['row']})"
                        f" differ in {where}; a soup needs members of one network"
                    )


def _difference(one: Any, other: Any, where: str) -> str | None:
    """Returns the dotted key of the first difference of two JSON values, None where they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = (_difference(one.get(key), other.get(key), f"{where}.{key}") for key in sorted({*one, *other}))
        return next(filter(None, found), None)
    return None if one == other else where


def check_views(plan: Plan) -> None:
    """Checks the views of every inference against the row of its model, before anything is trained for it.

    Raises:
        UserError: a setting that is missing or does not fit the others.
    """
    from vss.configs.tta import parse_tta

    rows = _rows_by_model(plan)
    for member in plan.inferred():
        model, tta = member.split(".")
        row = rows[plan.soup_parts(model)[0] if model in plan.soups() else model]
        views = {**row["test"], **plan.views(model, tta)}
        try:
            parse_tta(views)
        except UserError as error:
            raise UserError(f"config: {member}: {error}") from None


@functools.cache
def _resolved(stage: str, model: str, settings: str) -> dict[str, Any]:
    from vss.configs.resolve import published_settings, resolve

    where = f"config: models.{model}" if stage == "import" else f"config: models.{model}.{stage}"
    try:
        row = published_settings(resolve(json.loads(settings)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return row


def _rows_by_model(plan: Plan) -> dict[str, dict[str, Any]]:
    return {name.split("/")[1]: row for name, row in resolved_rows(plan).items()}  # finetune after pretrain


def resolved_rows(plan: Plan) -> dict[str, dict[str, Any]]:
    """Returns by "stage/model" (and "import/model") what the settings of a row resolve to.

    Raises:
        UserError: a setting that the row does not have, or a value that it does not allow.
    """
    names = [*plan.trainings(), *(f"import/{model}" for model in plan.imported())]
    rows = {}
    for name in names:
        stage, model = name.split("/")
        row = rows[name] = _resolved(stage, model, canonical_json(_settings_of(plan, stage, model)))
        space = plan.datasets[plan.trained_on(stage, model)].space.name
        if row["dataset"] != space:
            where = f"models.{model}" if stage == "import" else f"models.{model}.{stage}"
            raise UserError(
                f"config: {where}.config: row {row['row']!r} is for {row['dataset']}, must be one for {space}"
            )
    return rows
