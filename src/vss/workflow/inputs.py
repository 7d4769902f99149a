"""Which files of other stages a job reads: for its wildcards, the wildcards of those files.

Every function here takes the plan and the wildcards of a job, and returns one mapping of wildcards for each file, in
order; none where the job reads no such file. The rules fill their patterns with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from vss.workflow.plan import Plan

Names = Mapping[str, str]
Question = Callable[[Plan, Names], "list[dict[str, str]]"]


# ---- the dataset of a job


def plan_of(plan: Plan, names: Names) -> Plan:
    """Returns the plan of the dataset that a job's prediction, or its pseudo-labels, are of."""
    if "pseudo" in names:
        return plan.on(plan.pseudo_data(names["pseudo"]))
    kinds = ("prediction", "member", "imported", "ensemble")
    name = next((names[kind] for kind in kinds if kind in names), None)
    return plan if name is None else plan.on(plan.data_of(name))


def shard_names(plan: Plan, names: Names, split: str | None = None) -> list[str]:
    """Returns the shards that a split of a job's dataset is cut into, of the job's own split where none is given."""
    return plan_of(plan, names).shards(split or names["split"])


def shard_count(plan: Plan, names: Names) -> int:
    """Returns how many jobs a job's split is cut into."""
    return len(shard_names(plan, names))


def dataset(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the dataset that a job's prediction is of, and the job's split if it has one."""
    split = {"split": names["split"]} if "split" in names else {}
    return [{"dataset": plan_of(plan, names).dataset, **split}]


def soup_dataset(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns val of the dataset that the parts of a soup are chosen on."""
    return [{"dataset": plan.soup_dataset(names["model"]), "split": "val"}]


# ---- training


def datasets_of(stage: str) -> Question:
    """Returns the question for the datasets that a model is trained on."""
    return lambda plan, names: _each("dataset", plan.training_datasets(stage, names["model"]))


def pseudo_of(stage: str) -> Question:
    """Returns the question for the pseudo-labels that a model is trained on."""
    return lambda plan, names: _each("pseudo", plan.pseudo_of(stage, names["model"]))


def initial_weights(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the training here that a model's finetune starts from, and the dataset whose classes its weights know."""
    found = plan.initial_weights(names["model"])
    if found is None:
        return []
    stage, model = found
    dataset = plan.trained_on("pretrain", model) if stage == "pretrain" else plan.dataset_of_weights(model)
    return [{"stage": stage, "model": model, "dataset": dataset}]


def soup_parts(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the models whose weights a soup averages."""
    return _each("model", plan.soup_parts(names["model"]))


# ---- predictions


def model(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the model of a member, `model.tta`."""
    return [{"model": names["member"].split(".")[0]}]


def shards(split: str | None = None) -> Question:
    """Returns the question for all shards of a prediction, of its job's split where none is given."""

    def question(plan: Plan, names: Names) -> list[dict[str, str]]:
        where = {"prediction": names["prediction"], "split": split or names["split"]}
        return [{**where, "shard": shard} for shard in shard_names(plan, where, where["split"])]

    return question


def members(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the members of an ensemble, of the shard that is averaged."""
    where = {"split": names["split"], "shard": names["shard"]}
    return [{"member": member, **where} for member in plan.members(names["ensemble"])]


def members_on_val(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the members of an ensemble, member by member, each with all shards of val."""
    members = plan.members(names["ensemble"])
    return [{"member": member, "split": "val", "shard": shard} for member in members for shard in plan.shards("val")]


def chosen_weights(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns an ensemble whose weights are chosen on val."""
    return _each("ensemble", filter(plan.searches, [names["ensemble"]]))


def pseudo_shards(plan: Plan, pseudo: str) -> list[str]:
    """Returns the shards of the split that pseudo-labels are made of."""
    return plan.on(plan.pseudo_data(pseudo)).shards(plan.pseudo_split(pseudo))


def pseudo_members(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns what pseudo-labels are made of, prediction by prediction, each with all shards of their split."""
    members, split = plan.pseudo_members(names["pseudo"]), plan.pseudo_split(names["pseudo"])
    shards = pseudo_shards(plan, names["pseudo"])
    return [{"member": member, "split": split, "shard": shard} for member in members for shard in shards]


# ---- refinement


def trained_refiner(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns a refiner whose network is trained here."""
    return _each("refiner", filter(plan.trains_refiner, [names["refiner"]]))


def proposals(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the mask proposals that a refiner votes with."""
    refiner = names["refiner"]
    if plan.trains_refiner(refiner) or not plan.reads_proposals(refiner):
        return []
    return [{"proposals": plan.proposal_set(refiner), "split": names["split"], "shard": names["shard"]}]


def flow(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the optical flow that a refiner follows, of its shard, or of all of val where it has none."""
    prediction, refiner = names["prediction"], names["refiner"]
    return _on_shards(plan, names, flow=plan.flow_set(refiner)) if plan.reads_flow(prediction, refiner) else []


def scores(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the prediction whose class scores a refiner reads, of its shard, or of all of val where it has none."""
    prediction, refiner = names["prediction"], names["refiner"]
    return _on_shards(plan, names, prediction=prediction) if plan.reads_scores(prediction, refiner) else []


def chosen_settings(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns a refinement whose settings are chosen on val."""
    if not plan.searches_settings(names["refiner"]):
        return []
    return [{"prediction": names["prediction"], "refiner": names["refiner"]}]


# ---- score


def calibrated(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the prediction of a shard, where its calibration is scored."""
    return [dict(names.items())] if plan.calibrated(names["prediction"]) else []


def unrefined(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the prediction that a refined one is made of, of the same shard."""
    refined = plan.refinement(names["prediction"])
    return [] if refined is None else [{**names, "prediction": refined[0]}]


# ---- report


def reports(plan: Plan) -> dict[str, Plan]:
    """Returns the plan of each report: `report`, and `report/DATASET` of each other dataset that is scored."""
    return {"report" if name == plan.dataset else f"report/{name}": plan.on(name) for name in plan.scored_datasets()}


def scored(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the predictions in a report."""
    return [{"prediction": prediction, "split": plan.split} for prediction in reports(plan)[names["report"]].scored()]


def shown(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the predictions that a report shows, each with all its shards."""
    reported = reports(plan)[names["report"]]
    question = shards(plan.split)
    return [where for prediction in reported.shown() for where in question(plan, {"prediction": prediction})]


def searched(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the ensembles in a report whose weights are chosen on val."""
    return _each("ensemble", reports(plan)[names["report"]].searched())


def searched_refinements(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the refinements in a report whose settings are chosen on val."""
    refined = map(plan.refinement, reports(plan)[names["report"]].searched_refinements())
    return [{"prediction": prediction, "refiner": refiner} for prediction, refiner in filter(None, refined)]


def reported_dataset(plan: Plan, names: Names) -> list[dict[str, str]]:
    """Returns the dataset that a report is on."""
    return [{"dataset": reports(plan)[names["report"]].dataset, "split": plan.split}]


def _each(wildcard: str, values: Iterable[str]) -> list[dict[str, str]]:
    """Returns a mapping of one wildcard for each value."""
    return [{wildcard: value} for value in values]


def _on_shards(plan: Plan, names: Names, **what: str) -> list[dict[str, str]]:
    """Returns names with the job's split and shard, or with each shard of val where the job has none."""
    if "shard" in names:
        return [{**what, "split": names["split"], "shard": names["shard"]}]
    return [{**what, "split": "val", "shard": shard} for shard in plan.shards("val")]
