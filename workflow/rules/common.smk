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
from vss.workflow import failures, inputs, jobs, settings
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
        notes = jobs.print_notes(plan)
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
SCORES = LABELS.replace(".labels.h5", ".scores.h5")
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
    """A function of `vss.workflow` that is asked about this plan."""
    return lambda *rest: function(plan, *first, *rest)


def of_job(function):
    """A function of `vss.workflow.inputs` that is asked about this plan and a job's wildcards."""
    return lambda wildcards: function(plan, dict(wildcards.items()))


def on_nodes(stage):
    """What a training requests of SLURM for its nodes."""
    return {
        name: asked(
            lambda model, name=name: jobs.node_resources(plan, stage, model)[name],
            "model",
        )
        for name in jobs.NODE_RESOURCES
    }


def as_text(answer):
    return canonical_json(answer) if isinstance(answer, dict) else answer


@functools.cache
def filled(pattern, names):
    """A pattern with its wildcards filled in. It takes 0.1 ms, and many jobs read the same files."""
    return str(*expand(pattern, **dict(names)))


def each(pattern, question):
    """The files of a pattern that a function of `vss.workflow.inputs` names for a job."""
    names, pattern = of_job(question), str(pattern)
    return lambda job: [filled(pattern, tuple(n.items())) for n in names(job)]


def of_any_age(files):
    """Those files whatever their age: their content is followed by another file."""
    return lambda wildcards: ancient(files(wildcards))


def present(**files):
    """Those of several inputs that a job has, by their names."""
    return lambda wildcards: {
        name: found for name, of in files.items() if (found := of(wildcards))
    }


def optional(name):
    """An optional input as `--name FILE`, or nothing."""
    return lambda wildcards, input: (
        [f"--{name.replace('_', '-')}", input[name]] if name in input.keys() else []
    )


def braced(name, split=None):
    """Those files of an input, one a shard, as short words of a command line."""
    shards = of_job(functools.partial(inputs.shard_names, split=split))
    return lambda wildcards, input: jobs.braced(input[name], shards(wildcards))


def work_dir(name):
    """Where a training keeps its resumable state."""
    return os.path.join(config["work"], name)


def weights_of(stage):
    """The files of a model with weights, whatever they come from."""
    names = ("weights.safetensors", "config.json", "audit.json", "fingerprint.json")
    return {name.split(".")[0]: f"<results>/{stage}/{{model}}/{name}" for name in names}


def trained_on(stage, part):
    """The index or the card of every dataset and of all pseudo-labels that a model is trained on."""
    return lambda wildcards: [
        *of_any_age(each(rules.prepare.output[part], inputs.datasets_of(stage)))(
            wildcards
        ),
        *each(rules.pseudo.output[part], inputs.pseudo_of(stage))(wildcards),
    ]
