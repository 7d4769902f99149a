"""Pseudo-labels in a plan: what is trained on what, in rounds, and what is refused or marked."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import REPOSITORY
from vss import configs
from vss.core.errors import UserError
from vss.workflow import jobs
from vss.workflow.config import read_config
from vss.workflow.plan import Plan

TOUR = yaml.safe_load((REPOSITORY / "workflow/configs/tour.yaml").read_text(encoding="utf-8"))


def plan_of(pseudo: dict[str, Any], **extra: dict[str, float]) -> Plan:
    """The plan of a student of `swin` and a student of that one, with other pseudo-labels than the tour's."""
    config = copy.deepcopy(TOUR)
    row = config["models"]["swin"]["finetune"]
    config["models"] = {"swin": config["models"]["swin"]}
    for name, weights in extra.items():
        config["models"][name] = {"finetune": {**row, "extra": weights}}
    config |= {"pseudo": pseudo, "predictions": {f"{name}.single": {} for name in config["models"]}, "refiners": {}}
    return Plan(read_config(config), row_names=configs.names())


ROUNDS = {"a": {"of": ["swin.single"]}, "b": {"of": ["r1.single"], "split": "test", "transductive": True}}


def test_rounds_are_an_ordinary_plan() -> None:
    plan = plan_of(ROUNDS, r1={"pseudo.a": 0.5}, r2={"pseudo.b": 1})
    assert plan.with_scores() == ["r1.single", "swin.single"]
    assert plan.training_settings("finetune", "r1")["mix"] == [
        {"weight": 1.0, "train_ids": None},
        {"weight": 0.5, "strong": True},
    ]
    assert "mix" not in plan.training_settings("finetune", "swin")
    titles = {row["name"]: row["title"] for row in jobs.report_settings(plan)["rows"]}
    assert [name for name, title in titles.items() if title.endswith(" (transductive)")] == ["r2.single"]


@pytest.mark.parametrize(
    ("pseudo", "extra", "message"),
    [
        ({"a": {"of": ["swin.single"], "split": "test"}}, {}, r"pseudo\.a\.split: is 'test', which is scored"),
        ({"a": {"of": ["swin.single"], "split": "val"}}, {}, "or set transductive: true"),
        (
            {"a": {"of": ["swim.single"]}},
            {},
            r"pseudo\.a\.of: 'swim\.single' names no model 'swim'.*did you mean 'swin'",
        ),
        ({"a": {"of": ["swin.single"], "keep_of": {"skye": 1}}}, {}, r"pseudo\.a\.keep_of: no class 'skye'"),
        ({"a": {"of": ["r1.single"]}}, {"r1": {"pseudo.a": 1}}, r"models\.r1\.finetune\.extra: .* made by itself"),
        (
            {"a": {"of": ["r2.single"]}, "b": {"of": ["r1.single"]}},
            {"r1": {"pseudo.a": 1}, "r2": {"pseudo.b": 1}},
            "made by itself",
        ),
        ({}, {"r1": {"pseudo.a": 1}}, r"models\.r1\.finetune\.extra: no pseudo-labels 'a'"),
        ({}, {"r1": {"sure": 1}}, "extra"),
    ],
)
def test_mistakes(pseudo: dict, extra: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(pseudo, **extra)
