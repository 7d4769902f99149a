"""What every stage's rules share: the checked config and the questions asked of it.

Nothing here may import torch: this file is read for every dry run and again for every job.
"""

import os
import sys
from pathlib import Path

REPOSITORY = Path(workflow.basedir)

# The project need not be installed where jobs run (a conda environment has its dependencies only), and its interpreter
# need not be first on PATH (.venv/bin/snakemake may be called without activating the environment).
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "cuda_ops")]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*sys.path[:2], *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)

from vss import configs
from vss.config import Plan, any_of, check_schema, training_digests
from vss.digest import stage_digest, trained_with_other_code
from vss.errors import UserError
from vss.formats import canonical_json

try:
    config.update(
        check_schema(config, REPOSITORY / "workflow" / "schemas" / "config.schema.yaml")
    )
    plan = Plan(config, row_names=configs.names())
    # What each training's settings resolve to, bases and defaults included: the row's numbers, not its file's text.
    ROWS = training_digests(plan)
except UserError as mistake:
    sys.exit(str(mistake))


pathvars:
    results=config["results"],


wildcard_constraints:
    dataset="vspw|coco_stuff",
    model=any_of(plan.models),
    ensemble=any_of(plan.ensembles),
    refiner=any_of(plan.refiners),
    prediction="[^/]+",
    split="train|val|test",
    shard=r"\d\d",


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


if not workflow.remote_exec and not config["retrain_on_code_change"]:
    for name in trained_with_other_code(config["results"], plan.trainings()):
        print(
            f"note: {name}: the training code has changed since these weights were made; they are kept"
            " (retrain_on_code_change: true retrains)",
            file=sys.stderr,
        )
