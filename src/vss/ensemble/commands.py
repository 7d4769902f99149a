"""The commands of ensembles."""

from __future__ import annotations

from vss.core.command_line import Command, files
from vss.core.options import DATA, MEMBER_SCORES, OUT, OUTS, SETTINGS, SHARD, SHARDS, SPLIT

SEARCH = Command(
    "search",
    "vss.ensemble.search:search",
    "Choose an ensemble's weights and temperatures on val.",
    (*DATA, *OUT, *MEMBER_SCORES, SPLIT, SHARDS, SETTINGS),
)
ENSEMBLE = Command(
    "ensemble",
    "vss.ensemble.run:ensemble",
    "Average stored class probabilities of several predictions.",
    (
        *(*files("index"), *OUTS, *MEMBER_SCORES, SETTINGS, *SHARD),
        *files("chosen", required=False, help="result of `vss search`"),
    ),
)
