"""The commands of scoring."""

from __future__ import annotations

from pathlib import Path

from vss.core.command_line import Command, files, option
from vss.core.options import AS_JSON, DATA, JSON_VALUE, OUT, SCORED_SPLIT, SHARD

SCORE = Command(
    "score",
    "vss.score.folders:print_scores",
    "Score a folder of label maps, of any system, against a dataset.",
    (
        option("predicted", type=Path, metavar="PREDICTED", help="folder, or a path with {video} and {frame}"),
        option("dataset_root", type=Path, metavar="DATASET_FOLDER", help="raw, or results/prepare/NAME"),
        SCORED_SPLIT,
        option("--data", help="the dataset as a row of the config's data (default: VSPW's format)", **JSON_VALUE),
        option("--layout", help="vspw, dvis, videomt, pmt, mmseg, ... (default: vspw, or our own files)"),
        option("--ids", help="train, raw, or a class table, a CSV file (default: the layout's)"),
        *files("out", required=False, help="write all scores there as JSON"),
    ),
    example="vss score predicted VSPW_480p",
    prints=True,
)
COMPARE = Command(
    "compare",
    "vss.score.compare:print_comparison",
    "Compare two predictions, or two results folders: which differences are more than noise?",
    (
        option("first", type=Path, metavar="A"),
        option("second", type=Path, metavar="B"),
        SCORED_SPLIT,
        *files("out", required=False, help="write the whole comparison there as JSON"),
        *files("page", required=False, help="write it there as an HTML page"),
        AS_JSON,
    ),
    example="vss compare results/score/swin.single results/score/convnext.single",
    prints=True,
)
SCORE_SHARD = Command(
    "score-shard",
    "vss.score.shard:score_shard",
    "Count a shard's agreement with the truth.",
    (
        *(*files("labels"), *DATA, *OUT, *SHARD),
        option("--flow", choices=("dis", "raft"), help="count temporal consistency along this optical flow as well"),
        *files("flow-weights", required=False, help="of torchvision's raft_large, for raft"),
        *files("scores", required=False, help="class scores of the shard: count calibration as well"),
        *files("refines", required=False, help="label maps that these refine: count which pixels that changed as well"),
    ),
)
SCORE_SPLIT = Command(
    "score-split",
    "vss.score.summary:summarise",
    "Sum the counts of a split's shards into scores.",
    (
        *files("counts", nargs="+", dest="shards"),
        *files("card", "scores", "per-class", "per-video"),
        *files("draws", required=False),
    ),
)
