"""The commands of training."""

from __future__ import annotations

from pathlib import Path

from vss.core.command_line import Command, files, option
from vss.core.options import DATA, DEVICE, FILE_OR_NONE, JSON_VALUE, MODEL, MODEL_FILES, SETTINGS

TRAINING_OPTIONS = (
    MODEL,
    *files("index", "card", nargs="+"),
    *files("weights", "work-dir"),
    *files("fingerprint", "config", "audit", required=False, help="(default: next to the weights)"),
    *files("log", dest="log_file", required=False, help="(default: next to the weights)"),
    option("--init", help="weights to start from (default, or '': none)", **FILE_OR_NONE),
    option("--init-card", type=Path, metavar="FILE", help="card of the dataset those weights were trained on"),
    option("--gpus", type=int, default=0),
    option(
        "--retrain-on-code-change", action="store_true", help="train again where the weights were trained by other code"
    ),
    SETTINGS,
    option(
        "--running", default={}, help="settings that change where and how it runs, not what it computes", **JSON_VALUE
    ),
)
PRETRAIN, FINETUNE = (
    Command(stage, "vss.train.run:train", f"Train a model on {data}.", TRAINING_OPTIONS, {"stage": stage})
    for stage, data in (("pretrain", "COCO-Stuff"), ("finetune", "VSPW"))
)
SOUP_OF_RUN = Command(
    "soup-of-run",
    "vss.train.soup:soup_of_run",
    "Average the last weights of one training.",
    (MODEL, *files("part", "part-config", "work-dir"), *DATA, *MODEL_FILES, SETTINGS, DEVICE),
)
