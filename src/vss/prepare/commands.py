"""The commands that read datasets."""

from __future__ import annotations

from vss.core.command_line import Command, files, option
from vss.core.options import DATA, OUT, SETTINGS, SPLIT

PREPARE = Command(
    "prepare",
    "vss.prepare.run:prepare",
    "Check and list a dataset, or draw one.",
    (
        option("--dataset", required=True, help="key of the config's data, such as vspw"),
        *(*DATA, *files("check")),
        option("--workers", type=int, help="processes (default: all cores)"),
        SETTINGS,
    ),
)
CHECK_MASKS = Command(
    "check-masks",
    "vss.prepare.recheck:check_masks",
    "Check the files of a split that have changed since the dataset was listed.",
    (*DATA, *OUT, SPLIT),
)
