"""Which files of other stages a job reads, by their wildcards."""

from __future__ import annotations

import pytest

from vss import configs
from vss.workflow import inputs
from vss.workflow.config import read_config
from vss.workflow.plan import Plan

ROW = {"config": "upernet_swin-nano_vspw"}
ON_TEST = {"split": "test", "shard": "01"}


@pytest.fixture(scope="module")
def plan() -> Plan:
    config = {
        "data": {"vspw": {"shards": {"val": 2, "test": 3}}},
        "models": {
            "net": {"pretrain": ROW, "finetune": ROW},
            "soup": {"soup": {"of": "net", "last": 2}},
            "r1": {"finetune": {**ROW, "extra": {"pseudo.sure": 1}}},
            "next": {"finetune": {**ROW, "init": {"model": "soup"}}},
        },
        "tta": {"one": {"img_ratios": [1.0]}},
        "pseudo": {"sure": {"of": ["net.one"], "split": "test", "transductive": True}},
        "ensembles": {
            "all": {"members": {"soup.one": 1, "r1.one": 1}, "search_weights": True},
            "plain": {"members": {"net.one": 1, "r1.one": 1}},
        },
        "refiners": {"vote": {"method": "temporal"}, "grow": {"method": "cascadepsp"}, "ssa": {"method": "ssa"}},
        "predictions": {"net.one": {}, "all.vote.grow": {}, "plain.ssa": {}},
    }
    return Plan(read_config(config), row_names=configs.names())


def test_a_training_reads_its_datasets_its_pseudo_labels_and_its_pretrain(plan: Plan) -> None:
    assert inputs.datasets_of("finetune")(plan, {"model": "r1"}) == [{"dataset": "vspw"}]
    assert inputs.pseudo_of("finetune")(plan, {"model": "r1"}) == [{"pseudo": "sure"}]
    assert inputs.pseudo_of("finetune")(plan, {"model": "net"}) == []
    assert inputs.initial_weights(plan, {"model": "r1"}) == []
    (pretrain,) = inputs.initial_weights(plan, {"model": "net"})
    assert pretrain == {"stage": "pretrain", "model": "net", "dataset": plan.training_datasets("pretrain", "net")[0]}
    (soup,) = inputs.initial_weights(plan, {"model": "next"})
    assert soup == {"stage": "finetune", "model": "soup", "dataset": "vspw"}
    assert inputs.soup_parts(plan, {"model": "soup"}) == [{"model": "net"}]
    assert inputs.soup_dataset(plan, {"model": "soup"}) == [{"dataset": "vspw", "split": "val"}]


def test_an_ensemble_reads_its_members_shard_by_shard_and_its_search_all_of_val(plan: Plan) -> None:
    members = inputs.members(plan, {"ensemble": "all", **ON_TEST})
    assert members == [{"member": "soup.one", **ON_TEST}, {"member": "r1.one", **ON_TEST}]
    on_val = inputs.members_on_val(plan, {"ensemble": "all"})
    assert [(names["member"], names["shard"]) for names in on_val] == [
        ("soup.one", "00"),
        ("soup.one", "01"),
        ("r1.one", "00"),
        ("r1.one", "01"),
    ]
    assert {names["split"] for names in on_val} == {"val"}
    assert inputs.chosen_weights(plan, {"ensemble": "all"}) == [{"ensemble": "all"}]
    assert inputs.chosen_weights(plan, {"ensemble": "plain"}) == []
    assert inputs.model(plan, {"member": "r1.one"}) == [{"model": "r1"}]


def test_pseudo_labels_read_every_shard_of_their_split(plan: Plan) -> None:
    read = inputs.pseudo_members(plan, {"pseudo": "sure"})
    assert [names["shard"] for names in read] == inputs.pseudo_shards(plan, "sure") == ["00", "01", "02"]
    assert {(names["member"], names["split"]) for names in read} == {("net.one", "test")}


def test_a_refiner_reads_what_its_method_works_with(plan: Plan) -> None:
    def read(refiner: str, **where: str) -> dict[str, list[dict[str, str]]]:
        names = {"prediction": "all", "refiner": refiner, **where}
        questions = {
            "weights": inputs.trained_refiner,
            "proposals": inputs.proposals,
            "flow": inputs.flow,
            "scores": inputs.scores,
            "chosen": inputs.chosen_settings,
        }
        return {name: found for name, question in questions.items() if (found := question(plan, names))}

    assert read("vote", **ON_TEST) == {"flow": [{"flow": plan.flow_set("vote"), **ON_TEST}]}
    assert [names["shard"] for names in read("vote")["flow"]] == ["00", "01"]  # of val, for a search
    assert read("grow", **ON_TEST) == {"weights": [{"refiner": "grow"}]}
    assert read("ssa", **ON_TEST) == {"proposals": [{"proposals": plan.proposal_set("ssa"), **ON_TEST}]}


def test_scores_read_a_prediction_and_what_it_was_refined_from(plan: Plan) -> None:
    names = {"prediction": "all.vote.grow", **ON_TEST}
    assert inputs.unrefined(plan, names) == [{"prediction": "all.vote", **ON_TEST}]
    assert inputs.unrefined(plan, {**names, "prediction": "all"}) == []
    assert inputs.shard_count(plan, names) == 3
    assert [found["shard"] for found in inputs.shards("val")(plan, names)] == ["00", "01"]
    assert inputs.dataset(plan, names) == [{"dataset": "vspw", "split": "test"}]
    assert inputs.dataset(plan, {"prediction": "all"}) == [{"dataset": "vspw"}]


def test_a_report_reads_what_it_scores_and_shows(plan: Plan) -> None:
    names = {"report": "report"}
    assert [*inputs.reports(plan)] == ["report"]
    assert [row["prediction"] for row in inputs.scored(plan, names)] == ["net.one", "all.vote.grow", "plain.ssa"]
    shown = inputs.shown(plan, names)
    assert {row["prediction"] for row in shown} == set(plan.shown()) and len(shown) == 2 * len(plan.shown())
    assert inputs.searched(plan, names) == [{"ensemble": "all"}]
    assert inputs.searched_refinements(plan, names) == []
    assert inputs.reported_dataset(plan, names) == [{"dataset": "vspw", "split": "val"}]
