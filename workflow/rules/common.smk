"""What every stage's rules share: the checked config, the questions asked of it, and the rules' input functions.

Nothing here may import torch: this file is read for every dry run and again for every job.
"""

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(workflow.basedir)

sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "cuda_ops")]

from vss import configs
from vss.workflow.config import check_keys, read_config
from vss.workflow.digest import stage_digest, trained_with_other_code
from vss.core.errors import UserError
from vss.core.files import canonical_json, read_json
from vss.workflow.plan import Plan, any_of, lead_jobs_to
from vss.workflow.settings import (
    check_soups,
    check_views,
    counted_settings,
    training_digests,
)
from vss.workflow.signals import pass_on_to_jobs

lead_jobs_to(REPOSITORY)

if workflow.remote_exec:
    pass_on_to_jobs()
    # What does not listen for SIGUSR1 goes on until the time limit. Where SLURM signals every process, the shell itself
    # hears SIGTERM: it too waits for what it runs, and keeps the log.
    shell.prefix("set -euo pipefail; trap '' USR1; trap : TERM; ")

try:
    check_keys(
        workflow.config_settings.configfiles or [f"{workflow.basedir}/config.yaml"]
    )
    config.update(read_config(config))
    plan = Plan(config, row_names=configs.names())
    # What each training's settings resolve to, bases and defaults included: the row's numbers, not its file's text.
    ROWS = training_digests(plan)
    check_soups(plan)
    check_views(plan)
except UserError as mistake:
    sys.exit(str(mistake))


pathvars:
    results=config["results"],


wildcard_constraints:
    dataset="vspw|coco_stuff",
    model=any_of(plan.models),
    ensemble=any_of(plan.ensembles),
    refiner=any_of(plan.refiners),
    proposals=any_of(plan.proposal_sets()),
    prediction="[^/]+",
    split="train|val|test",
    shard=r"\d{2}",


INDEX = "<results>/prepare/vspw/index.csv"
CARD = "<results>/prepare/vspw/dataset.json"


def code_of(stage):
    """The digest of a stage's code, as a parameter: the stage reruns when its code changes in meaning."""
    return stage_digest(stage)


def training_code(stage):
    """The same for training, which costs weeks: only where the config asks for it."""
    return stage_digest(stage) if config["retrain_on_code_change"] else "kept"


def work_dir(name):
    """Where a training keeps its resumable state."""
    return os.path.join(config["work"], name)


# Snakemake deletes the log of a job that it starts again, and with it why a training failed the time before.
KEEP_LOG = (
    " || {{ status=$?; if [ $status -eq 137 ]; then echo 'killed (signal 9): the memory of the machine or of the job ran"
    " out, or somebody ended it' >> {log:q}; fi;"
    " mkdir -p {params.work_dir:q}; cat {log:q} >> {params.work_dir:q}/failed.log; exit $status; }}"
)


def failed_logs(snakemake_logs):
    """The logs of the jobs that failed in a run, from Snakemake's own of it."""
    texts = [
        Path(path).read_text(encoding="utf-8", errors="replace")
        for path in snakemake_logs
        if Path(path).exists()
    ]
    text = "\n".join(texts)
    found = re.findall(r"^ *log: (.+) \(check log file\(s\)", text, re.MULTILINE)
    return list(dict.fromkeys(found))


def last_line(path):
    """The last line of a log that says something."""
    path = Path(path)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return next(filter(None, map(str.strip, reversed(text.splitlines()))), "empty")


def shards(split):
    """How many jobs a split is cut into."""
    return len(plan.shards(split))


def shard_count(wildcards):
    return shards(wildcards.split)


def labels_of(prediction, split):
    """Label map files of all shards of a prediction."""
    return expand(
        "<results>/predictions/{prediction}/{split}/{shard}.labels.h5",
        prediction=prediction,
        split=split,
        shard=plan.shards(split),
    )


def scores_of(member, split, shard):
    return f"<results>/predictions/{member}/{split}/{shard}.scores.h5"


def optional_inputs(*names):
    """Turns the inputs that a job has among `names` into options."""

    def words(wildcards, input):
        return [
            word
            for name in names
            if name in input.keys()
            for word in (f"--{name.replace('_', '-')}", input[name])
        ]

    return words


if not workflow.remote_exec and not config["retrain_on_code_change"]:
    other_code = trained_with_other_code(config["results"], plan.trainings())
    if other_code:
        print(
            "note: training code has changed since these weights were made, which are kept"
            f" (retrain_on_code_change: true retrains): {', '.join(other_code)}",
            file=sys.stderr,
        )


# ---- prepare


def prepare_settings(wildcards):
    return canonical_json(plan.data_settings(wildcards.dataset))


def prepare_content(wildcards):
    """What the files of a dataset are: one that was added, replaced or fixed is noticed."""
    return canonical_json(plan.data_content(wildcards.dataset))


def split_lists(wildcards):
    return plan.split_lists(wildcards.dataset)


# ---- settings


def what_a_training_is(wildcards):
    """All that a training's weights depend on, but for other trainings: settings, data, published files, code."""
    stage, name = wildcards.training, wildcards.name
    if stage == "refine":
        settings, row, published = plan.refiners[name]["training"], None, None
    else:
        settings, row = counted_settings(plan, stage, name), ROWS[f"{stage}/{name}"]
        published = plan.published_init(stage, name)
    return canonical_json(
        {
            "settings": settings,
            "row": row,
            "data": plan.training_data(stage, name),
            "init": plan.content_of(published),
            "code": training_code("train_refiner" if stage == "refine" else stage),
        }
    )


def trained_with_other_settings():
    """The finished trainings whose settings are not those that `rule settings` noted; code is another note's matter."""
    refiners = [f"refine/{name}" for name in plan.refiners if plan.trains_refiner(name)]
    found = []
    for training in [*plan.trainings(), *refiners]:
        folder = Path(config["results"], training)
        if not all(
            (folder / name).exists() for name in ("settings.json", "fingerprint.json")
        ):
            continue
        stage, name = training.split("/")
        today = json.loads(
            what_a_training_is(SimpleNamespace(training=stage, name=name))
        )
        if read_json(folder / "settings.json") | {"code": None} != today | {
            "code": None
        }:
            found.append(training)
    return found


if not workflow.remote_exec:
    if other_settings := trained_with_other_settings():
        print(
            f"note: settings have changed since these were trained: {', '.join(other_settings)}. They are trained again"
            " where Snakemake knows how they were made; where .snakemake was lost, add --forcerun settings",
            file=sys.stderr,
        )


# ---- pretrain


def training_settings(stage):
    def settings(wildcards):
        return canonical_json(plan.training_settings(stage, wildcards.model))

    return settings


def training_settings_that_count(stage):
    def settings(wildcards):
        return canonical_json(counted_settings(plan, stage, wildcards.model))

    return settings


def training_gpus(stage):
    return lambda wildcards: plan.training_gpus(stage, wildcards.model)


# Published weights are known by their content (`plan.content_of`, as a parameter): another file under the same name is
# noticed. Their path is a resource, which Snakemake does not compare: where a file lies changes nothing.


def init_path(stage):
    """Where the weights are that a training starts from, as a resource; empty where it starts from none.

    Behind `=` in the shell: what is empty is not even quoted there.
    """

    def path(wildcards):
        if stage == "finetune" and wildcards.model in plan.pretrained():
            return os.path.join(
                config["results"], "pretrain", wildcards.model, "weights.safetensors"
            )
        return plan.published_init(stage, wildcards.model) or ""

    return path


def training_options(stage):
    """The optional arguments of a training, as words to be quoted one by one."""

    def words(wildcards, input):
        options = optional_inputs("init_card")(wildcards, input)
        if config["retrain_on_code_change"]:
            options += ["--retrain-on-code-change"]
        return options

    return words


# ---- finetune


def finetune_init(wildcards):
    """The pretrained weights of a model with a pretrain.

    Weights are `ancient`: their content is followed through the fingerprint, not through the file's time.
    """
    if wildcards.model not in plan.pretrained():
        return {}
    return {
        "init": ancient(f"<results>/pretrain/{wildcards.model}/weights.safetensors"),
        "init_card": ancient("<results>/prepare/coco_stuff/dataset.json"),
        "init_fingerprint": f"<results>/pretrain/{wildcards.model}/fingerprint.json",
    }


def import_settings(wildcards):
    return canonical_json(counted_settings(plan, "import", wildcards.model))


def soup_parts(kind):
    return lambda wildcards: expand(
        "<results>/finetune/{part}/{kind}",
        part=plan.models[wildcards.model]["soup"],
        kind=kind,
    )


# ---- infer


MEMBERS = [f"{model}.{tta}" for model in plan.models for tta in plan.tta]


def model_file(name):
    return (
        lambda wildcards: f"<results>/finetune/{wildcards.member.split('.')[0]}/{name}"
    )


def infer_settings(wildcards):
    return canonical_json(
        {
            "prediction": wildcards.member,
            "tta": plan.views(*wildcards.member.split(".")),
            "protocol": config["protocol"],
        }
    )


# ---- ensemble


def member_scores(split, shard):
    """The members' score files of a shard, or of all shards, member by member."""

    def files(wildcards):
        names = plan.shards(split) if shard is None else [wildcards.shard]
        where = split or wildcards.split
        return [
            scores_of(member, where, name)
            for member in plan.members(wildcards.ensemble)
            for name in names
        ]

    return files


def ensemble_settings(wildcards):
    return canonical_json(
        {
            "prediction": wildcards.ensemble,
            "members": plan.member_settings(wildcards.ensemble),
        }
    )


def search_settings(wildcards):
    chosen = plan.ensembles[wildcards.ensemble]
    members = plan.member_settings(wildcards.ensemble)
    switches = {key: chosen[key] for key in ("search_weights", "fit_temperature")}
    return canonical_json(
        {"prediction": wildcards.ensemble, "members": members, **switches}
    )


def chosen_weights(wildcards):
    if plan.searches(wildcards.ensemble):
        return {"chosen": f"<results>/ensemble/{wildcards.ensemble}/chosen.json"}
    return {}


# ---- refine


def proposals_file(name, wildcards):
    return f"<results>/proposals/{name}/{wildcards.split}/{wildcards.shard}.h5"


def proposer(wildcards):
    """One of the refiners that use a set of mask proposals; all ask for the same."""
    return plan.refiners[plan.proposal_sets()[wildcards.proposals]]


def refiner_inputs(wildcards):
    """Mask proposals, optical flow, or the weights of the small network, which are followed through their fingerprint."""
    refiner = plan.refiners[wildcards.refiner]
    if refiner["method"] == "temporal":
        return {"flow": f"<results>/flow/dis/{wildcards.split}/{wildcards.shard}.h5"}
    if refiner["method"] != "cascadepsp":
        return {
            "proposals": proposals_file(plan.proposal_set(wildcards.refiner), wildcards)
        }
    if refiner["weights"] is not None:
        return {}
    return {
        "weights": ancient(f"<results>/refine/{wildcards.refiner}/weights.safetensors"),
        "fingerprint": f"<results>/refine/{wildcards.refiner}/fingerprint.json",
    }


def refiner_weights(wildcards):
    """Where CascadePSP's weights are, as a resource; empty where none are needed."""
    refiner = plan.refiners[wildcards.refiner]
    if refiner["method"] != "cascadepsp":
        return ""
    return refiner["weights"] or os.path.join(
        config["results"], "refine", wildcards.refiner, "weights.safetensors"
    )


def refiner_gpu(wildcards):
    """The vote over segments is a matter of the CPU."""
    return int(plan.refiners[wildcards.refiner]["method"] == "cascadepsp")


def refiner_settings(*keys):
    return lambda wildcards: canonical_json(
        {key: plan.refiners[wildcards.refiner][key] for key in keys}
    )


# ---- submit


def all_submissions():
    return expand("<results>/submit/{prediction}.zip", prediction=plan.submitted())


# ---- report


def report_settings():
    rows = [
        {
            "name": name,
            "title": plan.title(name),
            "table": row.get("table"),
            "paper": row.get("paper", {}),
        }
        for name, row in plan.predictions.items()
    ]
    return canonical_json(
        {
            **config["report"],
            "titles": {
                name: plan.title(name) for name in (*plan.models, *plan.ensembles)
            },
            "protocol": config["protocol"],
            "split": plan.split,
            "rows": rows,
            "shown": plan.shown(),
            "trainings": plan.trainings(),
        }
    )


def score_file(name):
    return expand(
        "<results>/score/{prediction}/{split}/{name}",
        prediction=plan.scored(),
        split=plan.split,
        name=name,
    )


def report_inputs(wildcards, input):
    """The input files by the names of what they belong to."""
    files = {
        "scores": dict(zip(plan.scored(), input.scores)),
        "per_class": dict(zip(plan.scored(), input.per_class)),
        "logs": dict(zip(plan.trainings(), input.logs)),
        "chosen": dict(zip(plan.searched(), input.chosen)),
        "labels": {},
    }
    each = shards(plan.split)
    for number, prediction in enumerate(plan.shown()):
        files["labels"][prediction] = input.labels[number * each : (number + 1) * each]
    return canonical_json(files)
