"""What a plan's trainings and inferences resolve to: rows merged with settings, digests of them, views that fit."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from vss.errors import UserError
from vss.formats import canonical_json
from vss.plan import Plan

# Of the view settings, those that say how the engine computes and not what.
ENGINE_SETTINGS = ("precision", "compile")


def training_digests(plan: Plan) -> dict[str, str]:
    """Returns by "stage/model" (and "import/model") a digest of what the settings resolve to.

    It changes exactly when a value that the result depends on changes, wherever that value is written: the config, the
    row's file, a base of it, or the table of model sizes.

    Raises:
        UserError: a setting that the row does not have, or a value that it does not allow.
    """
    from vss.train.workdir import what_counts

    return {
        name: hashlib.sha256(canonical_json(what_counts(row)).encode()).hexdigest()[:16]
        for name, row in resolved_rows(plan).items()
    }


def check_views(plan: Plan) -> None:
    """Checks the views of every inference against the row of its model, before anything is trained for it.

    Raises:
        UserError: a setting that is missing or does not fit the others.
    """
    from vss.infer.views import parse_tta

    tests = {name.split("/")[1]: row["test"] for name, row in resolved_rows(plan).items()}  # finetune after pretrain
    for member in plan.inferred():
        model, tta = member.split(".")
        row = tests[plan.models[model].get("soup", [model])[0]]
        views = {key: value for key, value in {**row, **plan.views(model, tta)}.items() if key not in ENGINE_SETTINGS}
        try:
            parse_tta(views)
        except UserError as error:
            raise UserError(f"config: {member}: {error}") from None


@functools.cache
def _resolved(stage: str, model: str, settings: str) -> dict[str, Any]:
    from vss.train.config import published_settings, resolve

    try:
        return published_settings(resolve(json.loads(settings)))
    except UserError as error:
        raise UserError(f"config: models.{model}.{stage}: {error}") from None


def resolved_rows(plan: Plan) -> dict[str, dict[str, Any]]:
    """Returns by "stage/model" (and "import/model") what the settings of a row resolve to.

    Raises:
        UserError: a setting that the row does not have, or a value that it does not allow.
    """
    settings = {name: plan.training_settings(*name.split("/")) for name in plan.trainings()}
    settings |= {f"import/{name}": plan.import_settings(name) for name in plan.imported()}
    return {name: _resolved(*name.split("/"), canonical_json(chosen)) for name, chosen in settings.items()}
