"""What a prediction needs, from its trainings on, and an ablation that names what is not there."""

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


def plan_of(ablation: dict[str, Any] | None = None) -> Plan:
    config = {
        "data": {"vspw": {}},
        "models": {
            "net": {"finetune": ROW},
            "soup": {"soup": {"of": "net", "last": 2}},
            "r1": {"finetune": {**ROW, "extra": {"pseudo.sure": 1}}},
        },
        "tta": {"one": {"img_ratios": [1.0]}},
        "pseudo": {"sure": {"of": ["net.one"], "split": "test", "transductive": True}},
        "ensembles": {"all": {"members": {"soup.one": 1, "r1.one": 1}, "search_weights": True}},
        "refiners": {"vote": {"method": "temporal"}, "grow": {"method": "cascadepsp"}, "ssa": {"method": "ssa"}},
        "predictions": {"net.one": {}, "all.vote.grow": {}, "all.ssa": {}},
        "report": {"ablation": ablation},
    }
    return Plan(read_config(config), row_names=configs.names())


def test_a_prediction_needs_all_that_it_is_made_of() -> None:
    plan = plan_of()
    assert needed_jobs(plan, "net.one") == ["finetune/net", "infer/net.one.val"]
    assert needed_jobs(plan, "all.vote.grow") == [
        "ensemble/all.search",
        "ensemble/all.val",
        "finetune/net",  # of which the soup is made, and the pseudo-labels
        "finetune/r1",
        "flow/dis.val",
        "infer/net.one.test",
        "infer/r1.one.val",
        "infer/soup.one.val",
        "pseudo/sure",
        "refine/all.vote.grow.val",
        "refine/all.vote.val",
        "refine/grow.train",
    ]
    assert [job for job in needed_jobs(plan, "all.ssa") if job.startswith("propose/superpixels-")]


def test_the_report_is_given_the_jobs_of_its_ablation() -> None:
    ablation = {"baseline": "net.one", "levers": {"voting": "all.vote.grow"}}
    settings = jobs.report_settings(plan_of(ablation))
    assert list(settings["jobs"]) == ["net.one", "all.vote.grow"]
    assert settings["ablation"] == {**ablation, "all": None}
    assert jobs.report_settings(plan_of())["jobs"] == {}


@pytest.mark.parametrize(
    ("ablation", "message"),
    [
        ({"baseline": "net.on", "levers": {"a": "all.ssa"}}, r"report\.ablation: 'net\.on' is not .*'net\.one'"),
        ({"baseline": "net.one", "levers": {"a": "all"}}, r"report\.ablation: 'all' is not among predictions"),
        ({"baseline": "net.one", "levers": {}}, r"report\.ablation\.levers: is empty, needs at least one entry"),
        ({"levers": {"a": "all.ssa"}}, r"report\.ablation: key 'baseline' is missing"),
    ],
)
def test_mistakes(ablation: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(ablation)
