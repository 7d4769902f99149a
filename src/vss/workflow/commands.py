"""The commands that know the plan of a run, or the machine's GPUs."""

from __future__ import annotations

import argparse

from vss.core.command_line import Command, files, option

DROP_SCORES = Command(
    "drop-scores",
    "vss.workflow.drop:drop_scores",
    "Delete stored class scores that no ensemble of the config needs.",
    (
        *files("config", dest="config_file", help="the config file whose ensembles are kept"),
        option("--yes", action="store_true", help="delete; without it only list"),
    ),
    example="vss drop-scores --config my.yaml",
)
LEASE = Command(
    "lease",
    "vss.workflow.lease:lease",
    "Run a command while holding GPUs of this machine.",
    (option("gpus", type=int), option("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")),
)
