"""Pseudo-labels in a plan: what is trained on what, in rounds, and what is refused or marked."""

from __future__ import annotations

from typing import Any

import pytest

from vss import configs
from vss.core.errors import UserError
from vss.workflow import jobs
from vss.workflow.config import read_config
from vss.workflow.needs import needed_jobs
from vss.workflow.plan import Plan

ROW = {"config": "upernet_swin-nano_vspw"}


# Frames of which none has a mask, with VSPW's classes; `street` is alike, with others.
CLIPS = {"images": "{split}/{video}/{frame}.jpg", "masks": "{split}/{video}/{frame}.png", "classes": "vspw"}


def plan_of(pseudo: dict[str, Any], **extra: dict[str, float] | tuple[dict[str, float], dict[str, Any]]) -> Plan:
    """The plan of `swin` and of students with extra labels (and more settings), all of which are scored."""
    given = {name: each if isinstance(each, tuple) else (each, {}) for name, each in extra.items()}
    students = {name: {"finetune": {**ROW, **more, "extra": weights}} for name, (weights, more) in given.items()}
    models = {"swin": {"finetune": ROW}, **students}
    config = {
        "data": {"vspw": {}, "clips": CLIPS, "street": {**CLIPS, "classes": "cityscapes"}},
        "models": models,
        "tta": {"single": {"img_ratios": [1.0]}, "clips": {"img_ratios": [1.0]}},
        "pseudo": pseudo,
        "predictions": {f"{name}.single": {} for name in models},
    }
    return Plan(read_config(config), row_names=configs.names())


ROUNDS = {
    "a": {"of": ["swin.single"]},
    "b": {"of": ["r1.single"], "split": "test", "transductive": True, "negatives": True},
    "c": {"teacher": "ema", "least": 0.9, "split": "test", "transductive": True},
}


def test_rounds_are_an_ordinary_plan() -> None:
    plan = plan_of(ROUNDS, r1={"pseudo.a": 0.5}, r2={"pseudo.b": 1}, mean={"pseudo.c": 1})
    assert plan.with_scores() == ["r1.single", "swin.single"]
    assert plan.training_settings("finetune", "r1")["mix"] == [
        {"weight": 1.0, "train_ids": None},
        {"weight": 0.5, "strong": True},
    ]
    assert plan.training_settings("finetune", "r2")["mix"][1] == {"weight": 1, "strong": True, "negatives": True}
    assert plan.training_settings("finetune", "mean")["mix"][1] == {"weight": 1, "strong": True, "teacher": 0.9}
    assert "mix" not in plan.training_settings("finetune", "swin")
    titles = {row["name"]: row["title"] for row in jobs.report_settings(plan)["rows"]}
    assert [name for name, title in titles.items() if title.endswith(" (transductive)")] == ["r2.single", "mean.single"]


def test_a_round_may_start_from_the_teachers_weights() -> None:
    start = {"init": {"model": "r2"}, "init_classes": "copy"}
    plan = plan_of(ROUNDS, r1={"pseudo.a": 1}, r2={"pseudo.b": 1}, r3=({"pseudo.a": 1}, start))
    assert jobs.init_weights(plan, "finetune", "r3") == "results/finetune/r2/weights.safetensors"
    assert plan.published_init("finetune", "r3") is None
    assert set(plan.ancestors("r3")) == {"r3", "r2", "r1", "swin"}
    assert plan.is_transductive("r3.single")
    assert {"finetune/r3", "finetune/r2", "finetune/r1", "finetune/swin"} <= set(needed_jobs(plan, "r3.single"))


@pytest.mark.parametrize(
    ("stage", "start", "message"),
    [
        ("finetune", "swim", r"models\.r1\.finetune\.init: no model 'swim'.*did you mean 'swin'"),
        ("finetune", "r1", r"models\.r1: its weights start from themselves"),
        ("pretrain", "swin", r"models\.r1\.pretrain\.init: .* allowed in finetune only"),
    ],
)
def test_mistakes_in_what_a_training_starts_from(stage: str, start: str, message: str) -> None:
    row = {"finetune": ROW, stage: {**ROW, "init": {"model": start}}}
    config = {
        "data": {"vspw": {}},
        "models": {"swin": {"finetune": ROW}, "r1": row},
        "tta": {"single": {"img_ratios": [1.0]}},
        "predictions": {"r1.single": {}},
    }
    with pytest.raises(UserError, match=message):
        Plan(read_config(config), row_names=configs.names())


def test_another_dataset_is_labelled_by_a_tta_of_its_own() -> None:
    plan = plan_of({"a": {"of": ["swin.clips"], "data": "clips", "split": "train"}}, r1={"pseudo.a": 1})
    assert plan.data_of("swin.clips") == "clips" and plan.data_of("swin.single") == "vspw"
    assert (plan.with_scores(), plan.on("clips").dataset) == (["swin.clips"], "clips")
    assert plan.scored_datasets() == ["vspw"] and plan.pseudo_data("a") == "clips"


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
        ({"a": {"keep": 0.5}}, {}, r"pseudo\.a\.of: is missing; name predictions, .* or set teacher: ema"),
        ({"a": {"of": ["swin.single"], "teacher": "ema"}}, {}, r"pseudo\.a\.of: has no meaning with teacher: ema"),
        (
            {"a": {"of": ["swin.single"], "data": "clips"}},
            {"r1": {"pseudo.a": 1}},
            r"swin\.single is predicted on clips as well; a tta of another name",
        ),
        (
            {"a": {"of": ["swin.clips"], "data": "clip"}},
            {},
            r"pseudo\.a\.data: no dataset 'clip'.*'clips'",
        ),
        (
            {"a": {"teacher": "ema", "data": "street"}},
            {"r1": {"pseudo.a": 1}},
            r"r1\.finetune\.extra: pseudo\.a has the classes of cityscapes, and the model those of vspw",
        ),
        ({"a": {"teacher": "ema", "split": "val"}}, {}, "or set transductive: true"),
    ],
)
def test_mistakes(pseudo: dict, extra: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(pseudo, **extra)
