"""The command that makes pseudo-labels."""

from __future__ import annotations

from vss.core.command_line import Command, files
from vss.core.options import DATA, MEMBER_SCORES_OR_NONE, SETTINGS

PSEUDO = Command(
    "pseudo",
    "vss.pseudo.run:pseudo",
    "Make pseudo-labels from confident predictions.",
    (*DATA, *files("out-index", "out-card", "summary"), *MEMBER_SCORES_OR_NONE, SETTINGS),
)
