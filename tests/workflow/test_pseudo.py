"""Pseudo-labels in a plan: what is trained on what, in rounds, and what is refused or marked."""

from __future__ import annotations

from typing import Any

import pytest

from vss import configs
from vss.core.errors import UserError
from vss.workflow import jobs
from vss.workflow.config import read_config
from vss.workflow.plan import Plan

ROW = {"config": "upernet_swin-nano_vspw"}


def plan_of(pseudo: dict[str, Any], **extra: dict[str, float]) -> Plan:
    """The plan of `swin` and of students with extra labels, all of which are scored."""
    students = {name: {"finetune": {**ROW, "extra": weights}} for name, weights in extra.items()}
    models = {"swin": {"finetune": ROW}, **students}
    config = {
        "data": {"vspw": {}},
        "models": models,
        "tta": {"single": {"img_ratios": [1.0]}},
        "pseudo": pseudo,
        "predictions": {f"{name}.single": {} for name in models},
    }
    return Plan(read_config(config), row_names=configs.names())


ROUNDS = {
    "a": {"of": ["swin.single"]},
    "b": {"of": ["r1.single"], "split": "test", "transductive": True, "negatives": True},
}


def test_rounds_are_an_ordinary_plan() -> None:
    plan = plan_of(ROUNDS, r1={"pseudo.a": 0.5}, r2={"pseudo.b": 1})
    assert plan.with_scores() == ["r1.single", "swin.single"]
    assert plan.training_settings("finetune", "r1")["mix"] == [
        {"weight": 1.0, "train_ids": None},
        {"weight": 0.5, "strong": True},
    ]
    assert plan.training_settings("finetune", "r2")["mix"][1] == {"weight": 1, "strong": True, "negatives": True}
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
