"""The commands that read, average and describe files of weights."""

from __future__ import annotations

from pathlib import Path

from vss.core.command_line import Command, files, option
from vss.core.options import JSON_VALUE, MODEL, MODEL_FILES, RESULTS

IMPORT_CHECKPOINT = Command(
    "import-checkpoint",
    "vss.weights.import_checkpoint:import_checkpoint",
    "Turn a published checkpoint into safetensors and print what became of every parameter.",
    (
        option("checkpoint", type=Path),
        *files("weights"),
        *files("fingerprint", "config", "audit", required=False),
        option("--model", help="name written into the fingerprint (default: the row's)"),
        option("--settings", default={}, help="row, cfg_options, init_classes", **JSON_VALUE),
    ),
    example="vss import-checkpoint published.pth --weights swin.safetensors",
)
MODEL_CARD = Command(
    "card",
    "vss.weights.card:card",
    "Write a trained model's card (README.md next to its weights) again, with the scores of its predictions.",
    (option("model", help="a trained model's name, or its folder"), RESULTS),
    example="vss card swin",
    prints=True,
)
SOUP = Command(
    "soup",
    "vss.weights.average:soup",
    "Average the weights of models.",
    (MODEL, *files("parts", "configs", nargs="+"), *MODEL_FILES),
)
