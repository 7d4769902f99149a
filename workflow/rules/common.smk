"""What every stage's rules share: the plan of the run, and one-line adapters of `vss.workflow` to Snakemake's functions.

Nothing here may import torch: this file is read for every dry run and again for every job.
"""

import functools
import os
import sys
from pathlib import Path

REPOSITORY = Path(workflow.basedir)

sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "cuda_ops")]

from vss.core.allocator import collect_garbage_less_often
from vss.core.errors import UserError
from vss.core.files import canonical_json
from vss.core.log import printable
from vss.workflow import failures, jobs, settings
from vss.workflow.config import check_files
from vss.workflow.digest import stage_digest
from vss.workflow.plan import Plan, any_of, export_paths_to_jobs
from vss.workflow.signals import pass_on_to_jobs

collect_garbage_less_often()
export_paths_to_jobs(REPOSITORY)

if workflow.remote_exec:
    pass_on_to_jobs()
    # What does not listen for SIGUSR1 goes on until the time limit. Where SLURM signals every process, the shell itself
    # hears SIGTERM: it too waits for what it runs, and keeps the log.
    shell.prefix("set -euo pipefail; trap '' USR1; trap : TERM; ")

CONFIG_FILES = workflow.config_settings.configfiles or [REPOSITORY / "config.yaml"]
try:
    check_files(CONFIG_FILES)
except UserError as mistake:
    sys.exit(printable(str(mistake)))


# A config file given on the command line stands alone: config.yaml is read only where none is given, because Snakemake
# would merge the two and the default's small models would leak into the other run.
if not workflow.config_settings.configfiles:

    configfile: REPOSITORY / "config.yaml"


try:
    plan = settings.read_plan(config)
    config.update(plan.document)
    if not workflow.remote_exec:
        plan.start_contents()
        for note in jobs.notes(plan):
            print(note, file=sys.stderr)
except UserError as mistake:
    sys.exit(printable(str(mistake)))


pathvars:
    results=config["results"],


wildcard_constraints:
    dataset=any_of(plan.datasets),
    model=any_of(plan.models),
    ensemble=any_of(plan.ensembles),
    refiner=any_of(plan.refiners),
    proposals=any_of(plan.proposal_sets()),
    pseudo=any_of(plan.pseudo),
    prediction="[^/]+",
    split="train|val|test",
    shard=r"\d{2,3}",


LABELS = "<results>/predictions/{prediction}/{split}/{shard}.labels.h5"
# Snakemake deletes the log of a job that it starts again, and with it why a training failed the time before.
KEEP_LOG = (
    " || {{ status=$?; [ $status != 137 ] || echo 'killed (signal 9): out of memory, or ended by somebody' >> {log:q};"
    " mkdir -p {params.work_dir:q}; cat {log:q} >> {params.work_dir:q}/failed.log; exit $status; }}"
)


def asked(question, *names):
    """A parameter that is compared between runs: a question to the plan about some wildcards, as text."""
    answer = functools.cache(lambda *values: as_text(question(*values)))
    return lambda wildcards: answer(*(wildcards[name] for name in names))


def uncompared(question, *names):
    """A parameter that a job takes and Snakemake does not compare, as it compares none that takes `input`: where a file
    lies, or how a training runs. What counts of it is compared elsewhere.
    """
    answer = asked(question, *names)
    return lambda wildcards, input: answer(wildcards)


def of_plan(function, *first):
    """A function of `vss.workflow.jobs` that is asked about this plan."""
    return lambda *rest: function(plan, *first, *rest)


def as_text(answer):
    return canonical_json(answer) if isinstance(answer, dict) else answer


def optional(name):
    """An optional input as `--name FILE`, or nothing."""
    return lambda wildcards, input: (
        [f"--{name.replace('_', '-')}", input[name]] if name in input.keys() else []
    )


def work_dir(name):
    """Where a training keeps its resumable state."""
    return os.path.join(config["work"], name)


def weights_of(stage):
    """The files of a model with weights, whatever they come from."""
    names = ("weights.safetensors", "config.json", "audit.json", "fingerprint.json")
    return {name.split(".")[0]: f"<results>/{stage}/{{model}}/{name}" for name in names}


def predicted(names):
    """The plan of the dataset that a prediction, or pseudo-labels, named by one of these wildcards, are of."""
    if "pseudo" in names.keys():
        return plan.on(plan.pseudo_data(names["pseudo"]))
    kinds = ("prediction", "member", "imported", "ensemble")
    name = next((names[kind] for kind in kinds if kind in names.keys()), None)
    return plan if name is None else plan.on(plan.data_of(name))


def shard_count(wildcards):
    """How many jobs a split is cut into."""
    return len(predicted(wildcards).shards(wildcards.split))


def of_shards(pattern, **names):
    """The files of all shards of a prediction on a split."""
    return expand(pattern, shard=predicted(names).shards(names["split"]), **names)


def braced(files, wildcards, split=None):
    """Those files as short words of a command line."""
    return jobs.braced(files, predicted(wildcards).shards(split or wildcards.split))


def stored_scores(wildcards):
    """The class scores of a prediction whose calibration is scored."""
    if not plan.calibrated(wildcards.prediction):
        return {}
    return {"scores": expand(LABELS.replace(".labels.h5", ".scores.h5"), **wildcards)}


def labels_refined(wildcards):
    """The label maps that a refined prediction is made of."""
    refined = plan.refinement(wildcards.prediction)
    if refined is None:
        return {}
    return {"refines": expand(LABELS, **{**wildcards, "prediction": refined[0]})}


def trained_on(stage, part):
    """The index or the card of every dataset and of all pseudo-labels that a model is trained on."""
    return lambda wildcards: [
        *ancient(
            expand(
                rules.prepare.output[part],
                dataset=plan.training_datasets(stage, wildcards.model),
            )
        ),
        *expand(
            rules.pseudo.output[part], pseudo=plan.pseudo_of(stage, wildcards.model)
        ),
    ]


def pseudo_scores(wildcards):
    """The class scores that pseudo-labels are made of, prediction by prediction."""
    split = plan.pseudo_split(wildcards.pseudo)
    return [
        file
        for member in plan.pseudo_members(wildcards.pseudo)
        for file in of_shards(rules.infer.output.scores, member=member, split=split)
    ]


def pretrained(wildcards):
    """The pretrained weights of a model with a pretrain: `ancient`, since their content is followed by the fingerprint."""
    if wildcards.model not in plan.pretrained():
        return {}
    return {
        "init": ancient(expand(rules.pretrain.output.weights, model=wildcards.model)),
        "init_card": trained_on("pretrain", "card")(wildcards)[:1],
        "init_fingerprint": expand(
            rules.pretrain.output.fingerprint, model=wildcards.model
        ),
    }


def soup_parts(pattern):
    return lambda wildcards: expand(pattern, model=plan.soup_parts(wildcards.model))


def of_model(pattern):
    files = functools.cache(lambda model: expand(pattern, model=model))
    return lambda wildcards: files(wildcards.member.split(".")[0])


def member_scores(split):
    """The members' score files of a shard, or of all shards, member by member."""
    return lambda wildcards: [
        file
        for member in plan.members(wildcards.ensemble)
        for file in expand(
            rules.infer.output.scores,
            member=member,
            split=split or wildcards.split,
            shard=plan.shards(split) if split else wildcards.shard,
        )
    ]


def chosen_weights(wildcards):
    if not plan.searches(wildcards.ensemble):
        return {}
    return {"chosen": expand(rules.search.output.chosen, ensemble=wildcards.ensemble)}


def refiner_inputs(wildcards):
    """Class scores, optical flow, and what else a refiner's method works with."""
    inputs = method_inputs(wildcards) | flow_and_scores(**wildcards)
    if plan.searches_settings(wildcards.refiner):
        inputs["chosen"] = expand(rules.search_refiner.output.chosen, **wildcards)
    return inputs


def flow_and_scores(prediction, refiner, split, shard):
    """The optical flow that a refiner follows, and the class scores that vote, of one shard or of several."""
    where = {"split": split, "shard": shard}
    inputs = {}
    if plan.reads_flow(prediction, refiner):
        inputs["flow"] = expand(rules.flow.output, flow=plan.flow_set(refiner), **where)
    if plan.reads_scores(prediction, refiner):
        pattern = LABELS.replace(".labels.h5", ".scores.h5")
        inputs["scores"] = expand(pattern, prediction=prediction, **where)
    return inputs


def searched_on_val(wildcards):
    """What the search of a refiner's settings reads of all shards of val."""
    where = {"split": "val", "shard": plan.shards("val")}
    labels = expand(LABELS, prediction=wildcards.prediction, **where)
    return {"labels": labels} | flow_and_scores(**wildcards, **where)


def method_inputs(wildcards):
    """Mask proposals, or the weights of the small network, which are followed by their fingerprint."""
    name = wildcards.refiner
    if plan.trains_refiner(name):
        return {
            "weights": ancient(
                expand(rules.train_refiner.output.weights, refiner=name)
            ),
            "fingerprint": expand(rules.train_refiner.output.fingerprint, refiner=name),
        }
    if not plan.reads_proposals(name):
        return {}
    proposals = plan.proposal_set(name)
    return {"proposals": expand(rules.propose.output, proposals=proposals, **wildcards)}


def of_prediction(pattern):
    """A file of the dataset that a job's prediction is of."""
    files = {}  # every job asks, and to fill in a pattern takes 0.1 ms

    def file(wildcards):
        names = {
            "dataset": predicted(wildcards).dataset,
            "split": wildcards.get("split"),
        }
        key = tuple(names.values())
        if key not in files:
            files[key] = str(*expand(pattern, **names))
        return files[key]

    return file


def of_scored(pattern):
    """The files of every prediction in a report."""
    return lambda wildcards: expand(
        pattern, prediction=REPORTS[wildcards.report].scored(), split=plan.split
    )


def shown_labels(wildcards):
    """The label maps of the predictions that a report shows."""
    return [
        path
        for prediction in REPORTS[wildcards.report].shown()
        for path in of_shards(LABELS, prediction=prediction, split=plan.split)
    ]


def of_reported(pattern):
    """A file of the dataset that a report is on."""
    return lambda wildcards: expand(
        pattern, dataset=REPORTS[wildcards.report].dataset, split=plan.split
    )
