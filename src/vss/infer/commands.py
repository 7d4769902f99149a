"""The commands of inference."""

from __future__ import annotations

from pathlib import Path

from vss.core.command_line import Command, files, option
from vss.core.options import DATA, DEVICE, JSON_VALUE, OUTS, RESULTS, SETTINGS, SHARD

PREDICT = Command(
    "predict",
    "vss.infer.predict:predict",
    "Predict your own images, folders of images or video files: label maps and overlays.",
    (
        option("inputs", nargs="+", type=Path, metavar="IMAGE_OR_VIDEO_OR_FOLDER"),
        option("--model", required=True, help="a trained model's name, its folder, or ROW:CHECKPOINT"),
        RESULTS,
        option("--out", dest="out_dir", type=Path, default=Path("predicted"), help="folder (default: predicted)"),
        option("--tta", default={}, help='such as {"flip": true}', **JSON_VALUE),
        option("--probabilities", action="store_true", help="write [C, H, W] float32 of each frame as .npy"),
        option("--page", action="store_true", help="write page.html: images next to overlays, in one file"),
        DEVICE,
    ),
    example="vss predict clip.mp4 --model swin",
)
INFER = Command(
    "infer",
    "vss.infer.run:infer",
    "Run a model over a shard of videos.",
    (*files("weights", "config"), *DATA, *OUTS, SETTINGS, *SHARD, DEVICE),
)
