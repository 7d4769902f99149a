"""The command that imports predictions."""

from __future__ import annotations

from vss.core.command_line import Command
from vss.core.options import DATA, OUTS, SETTINGS, SHARD

IMPORT_PREDICTION = Command(
    "import-prediction",
    "vss.exchange.run:import_prediction",
    "Import a shard of what another system predicted.",
    (*DATA, *OUTS, SETTINGS, *SHARD),
)
