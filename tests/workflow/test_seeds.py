"""`seeds: 3` of a model is three models in a plan; what was trained before stays where it is."""

from __future__ import annotations

from typing import Any

import pytest

from vss import configs
from vss.core.errors import UserError
from vss.workflow import jobs
from vss.workflow.config import read_config
from vss.workflow.plan import Plan
from vss.workflow.settings import counted_settings

FINETUNE = {"config": "mask2former_internimage-nano-h_vspw", "max_iters": 5}


def plan_of(model: dict[str, Any], **others: dict[str, Any]) -> Plan:
    """The plan of `net`, whose prediction and its refinement are scored, and of an ensemble that has it."""
    config = {
        "data": {"vspw": {}, "coco_stuff": {}},
        "models": {"net": {"title": "Net", "finetune": FINETUNE, **model}, **others},
        "tta": {"one": {"img_ratios": [1.0]}},
        "refiners": {"ssa": {"method": "ssa", "title": "SSA"}},
        "ensembles": {"all": {"members": {"net.one": 1}}},
        "predictions": {"net.one": {"table": 1, "paper": {"val": 56}}, "net.one.ssa": None, "all": {}},
        "targets": {"submit": ["net.one"]},
    }
    return Plan(read_config(config), row_names=configs.names())


def test_a_model_with_seeds_is_several_models() -> None:
    pretrain = {"config": "mask2former_internimage-nano-h_coco_stuff", "seed": 3}
    once = plan_of({"pretrain": pretrain})
    plan = plan_of({"pretrain": pretrain, "seeds": 3})
    assert plan.finetuned() == plan.pretrained() == ["net", "net-s1", "net-s2"]
    assert plan.scored() == [
        "net.one",
        "net-s1.one",
        "net-s2.one",
        "net.one.ssa",
        "net-s1.one.ssa",
        "net-s2.one.ssa",
        "all",
    ]
    # The run of the first seed is the training of before, and each other one has the next seed.
    for stage, first in (("pretrain", 3), ("finetune", 0)):
        assert counted_settings(plan, stage, "net") == counted_settings(once, stage, "net")
        settings = [plan.training_settings(stage, name) for name in plan.finetuned()]
        assert [given.pop("seed") for given in settings] == [first, first + 1, first + 2]
        assert settings[0] == settings[1] == settings[2]
    # What names the model is made of the first seed.
    assert plan.members("all") == ["net.one"] and plan.submitted() == ["net.one"]
    assert jobs.report_settings(once)["rows"][0]["title"] == "Net"


def test_the_report_is_given_whose_runs_its_rows_are() -> None:
    settings = jobs.report_settings(plan_of({"seeds": 2}))
    rows = {row["name"]: row for row in settings["rows"]}
    assert [rows[name]["title"] for name in ("net.one", "net-s1.one.ssa")] == ["Net, seed 0", "Net, seed 1 + SSA"]
    assert rows["net-s1.one.ssa"]["seeds_of"] == "net.one.ssa" and rows["net.one"]["seeds_title"] == "Net"
    assert rows["net.one"]["paper"] and not rows["net-s1.one"]["paper"] and "seeds_of" not in rows["all"]
    untitled = plan_of({}, other={"finetune": FINETUNE, "seeds": 2})
    titles = {**settings["titles"], **jobs.report_settings(untitled)["titles"]}
    assert [titles[name] for name in ("net-s1", "other-s1")] == ["Net, seed 1", "other, seed 1"]  # as curves are named


@pytest.mark.parametrize(
    ("model", "others", "message"),
    [
        ({"seeds": 0}, {}, r"models\.net\.seeds: is 0, must be at least 1"),
        (
            {"seeds": 2},
            {"net-s1": {"finetune": FINETUNE}},
            r"models\.net\.seeds: net-s1 is the run of seed 1, and the name is taken by models\.net-s1",
        ),
        (
            {},
            {"soup": {"soup": {"of": "net"}, "seeds": 2}},
            r"models\.soup\.seeds: is 2; allowed only next to finetune",
        ),
        (
            {"seeds": 2, "cfg_options": {"seed": 4}},
            {},
            r"models\.net\.cfg_options\.seed: .* write it as models\.net\.finetune\.seed",
        ),
        ({"seeds": 2, "finetune": {**FINETUNE, "cfg_options": {"seed": 4}}}, {}, r"net\.finetune\.cfg_options\.seed"),
    ],
)
def test_mistakes(model: dict, others: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(model, **others)
