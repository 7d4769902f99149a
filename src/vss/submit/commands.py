"""The commands that write predictions for others."""

from __future__ import annotations

from pathlib import Path

from vss.core.command_line import Command, files, option
from vss.core.options import DATA, OUT

EXPORT_PREDICTION = Command(
    "export-prediction",
    "vss.submit.export:export_prediction",
    "Write a prediction's label maps for other tools: PNG folders, COCO panoptic, the challenge's zip.",
    (
        option("prediction", type=Path, metavar="PREDICTION_FOLDER", help="results/predictions/NAME/SPLIT"),
        option("--format", dest="form", required=True, choices=("png", "masks", "coco-panoptic", "submission")),
        *files("out", help="folder to make; the zip of a submission"),
    ),
    example="vss export-prediction results/predictions/swin.single/val --format png --out swin",
)
SUBMIT = Command(
    "submit",
    "vss.submit.run:submit",
    "Zip the test split's label maps for CodaLab.",
    (
        *(*files("labels", nargs="+"), *DATA, *OUT),
        option("--pngs", choices=("masks",), help="as the dataset's own masks, not train ids with a palette"),
        option("--fill", choices=("previous",), help="what stands for listed frames that were left out"),
    ),
)
CHECK_SUBMISSION = Command(
    "check-submission",
    "vss.submit.run:check_submission",
    "Check a challenge's zip, of any system, by reading every frame back.",
    (
        option("path", type=Path, metavar="ZIP"),
        option("against", type=Path, metavar="DATASET", help="folder in VSPW_480p's layout, or a prepared index.csv"),
        option("--split", default="test", choices=("train", "val", "test"), help="which frames it has (default: test)"),
    ),
    example="vss check-submission submission.zip VSPW_480p",
)
