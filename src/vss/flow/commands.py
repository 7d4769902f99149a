"""The command of optical flow."""

from __future__ import annotations

from vss.core.command_line import Command, option
from vss.core.options import DATA, DEVICE, FILE_OR_NONE, OUT, SHARD

FLOW = Command(
    "flow",
    "vss.flow.run:flow",
    "Store optical flow between neighbouring frames.",
    (
        *(*DATA, *OUT, option("--method", default="dis", choices=("dis", "raft")), *SHARD, DEVICE),
        option("--weights", help="of torchvision's raft_large, for raft (default, or '': none)", **FILE_OR_NONE),
    ),
)
