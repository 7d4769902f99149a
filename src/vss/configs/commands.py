"""The command that lists model rows."""

from __future__ import annotations

from vss.core.command_line import Command
from vss.core.options import AS_JSON

MODEL_ROWS = Command(
    "models",
    "vss.configs.table:print_models",
    "List every model row: parameters, GFLOPs, accepted weights, the paper's mIoU.",
    (AS_JSON,),
    example="vss models",
    prints=True,
)
