"""The commands of refinement."""

from __future__ import annotations

from vss.core.command_line import Command, files, option
from vss.core.options import DATA, DEVICE, FILE_OR_NONE, LOG_FILE, OUT, SETTINGS, SHARD, SHARDS, SPLIT

PROPOSE = Command(
    "propose",
    "vss.refine.propose:propose",
    "Store mask proposals of frames.",
    (
        *(*DATA, *OUT, SETTINGS, *SHARD, DEVICE),
        option("--cache", help="folder of proposals that are shared (default, or '': none)", **FILE_OR_NONE),
        option("--weights", help="SAM's or SAM 2's weights (default, or '': none)", **FILE_OR_NONE),
    ),
)
TRAIN_REFINER = Command(
    "train-refiner",
    "vss.refine.train:train_refiner",
    "Train the small refinement network.",
    (*DATA, *files("weights", "fingerprint", "work-dir"), *LOG_FILE, SETTINGS),
)
REFINE = Command(
    "refine",
    "vss.refine.run:refine",
    "Refine label maps.",
    (
        *(*files("labels"), *DATA, *OUT, SETTINGS, *SHARD, DEVICE),
        option("--weights", help="of the network (default, or '': none)", **FILE_OR_NONE),
        *files("proposals", "flow", "scores", required=False),
        *files("chosen", required=False, help="result of `vss search-refiner`"),
    ),
)
SEARCH_REFINER = Command(
    "search-refiner",
    "vss.refine.search:search_refiner",
    "Choose the settings of the vote over time on a labelled split.",
    (
        *(*DATA, *OUT, SPLIT, SHARDS, SETTINGS),
        *files("labels", "flow", nargs="+"),
        *files("scores", nargs="+", required=False),
    ),
)
