"""The jobs that a prediction needs, from the trainings on."""

from __future__ import annotations

from collections.abc import Iterator

from vss.workflow.plan import Plan


def needed_jobs(plan: Plan, prediction: str) -> list[str]:
    """Returns the jobs that a prediction of the scored split needs, as "stage/name".

    A name is that of the job's benchmark file; of a job per shard without the shard. Preparing data and scoring, which
    every prediction needs, are left out.
    """
    return sorted(set(_of_prediction(plan, prediction, plan.split)))


def _of_prediction(plan: Plan, prediction: str, split: str) -> Iterator[str]:
    """Yields the jobs of a prediction on a split; some more than once."""
    refined = plan.refinement(prediction)
    if refined is not None:
        yield from _of_refinement(plan, *refined, split)
    elif prediction in plan.ensembles:
        yield f"ensemble/{prediction}.{split}"
        splits = {split, "val"} if plan.searches(prediction) else {split}
        if plan.searches(prediction):
            yield f"ensemble/{prediction}.search"
        for member in plan.members(prediction):
            for each in splits:
                yield from _of_prediction(plan, member, each)
    elif prediction in plan.imports:
        yield f"import/{prediction}.{split}"
    else:
        yield f"infer/{prediction}.{split}"
        yield from _of_model(plan, prediction.split(".")[0])


def _of_refinement(plan: Plan, source: str, refiner: str, split: str) -> Iterator[str]:
    """Yields the jobs of a refiner and of what it refines."""
    yield f"refine/{source}.{refiner}.{split}"
    if plan.trains_refiner(refiner):
        yield f"refine/{refiner}.train"
    splits = {split, "val"} if plan.searches_settings(refiner) else {split}
    if plan.searches_settings(refiner):
        yield f"refine/{source}.{refiner}.search.val"
    for each in splits:
        if plan.reads_proposals(refiner):
            yield f"propose/{plan.proposal_set(refiner)}.{each}"
        if plan.reads_flow(source, refiner):
            yield f"flow/{plan.flow_set(refiner)}.{each}"
        yield from _of_prediction(plan, source, each)


def _of_model(plan: Plan, model: str) -> Iterator[str]:
    """Yields the jobs of a model's weights: its trainings, and those of what they or its pseudo-labels are made of."""
    for part in plan.parts_of_weights(model):
        yield from _of_model(plan, part)
    yield from (training for training in plan.trainings() if training.endswith(f"/{model}"))
    for pseudo in plan.pseudo_of("finetune", model):
        yield f"pseudo/{pseudo}"
        for member in plan.pseudo_members(pseudo):
            yield from _of_prediction(plan, member, plan.pseudo_split(pseudo))
