"""The command that exports a model."""

from __future__ import annotations

from pathlib import Path

from vss.core.command_line import Command, files, option
from vss.core.options import RESULTS

EXPORT = Command(
    "export",
    "vss.export.run:export",
    "Write a model as one file that runs without this project, compared with the engine on frames.",
    (
        option("model", help="a trained model's name, its folder, or ROW:CHECKPOINT"),
        option("--format", dest="file_format", required=True, choices=("torch", "onnx")),
        *files("out", required=False, help="(default: the model's name, .pt2 or .onnx)"),
        option("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of the frames (default: 480 853)"),
        option("--frames", nargs="+", default=(), type=Path, metavar="IMAGE", help="compare on these, not on drawn"),
        RESULTS,
    ),
    example="vss export swin --format onnx --size 480 853",
)
