"""The command line: a table of commands, those for people first.

The functions are imported when called, so that `vss --help` and the light stages never load torch.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from vss import __version__
from vss.core import command_line
from vss.core.command_line import Command, files, json_object, option, path_or_none

WITH_CODE = "vss.workflow.jobs:training_arguments"
JSON = {"type": json_object, "metavar": "JSON"}
SETTINGS = option("--settings", required=True, help="settings: a JSON object, or a file that holds one", **JSON)
MODEL = option("--model", required=True, help="name in the config")
SPLIT = option("--split", required=True, choices=("train", "val", "test"))
SCORED_SPLIT = option("--split", default="val", choices=("train", "val"), help="one with masks (default: val)")
SHARDS = option("--shards", required=True, type=int)
SHARD = (SPLIT, option("--shard", required=True, type=int), SHARDS)
DEVICE = option("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
FILE_OR_NONE = {"type": path_or_none, "metavar": "FILE"}
OUT = files("out")
OUTS = files("out", nargs="+")
DATA = files("index", "card")
LOG_FILE = files("log", dest="log_file")
MODEL_FILES = files("weights", "fingerprint", "config", "audit")
MEMBER_SCORES = option(
    "--scores",
    required=True,
    action="append",
    nargs="+",
    type=Path,
    metavar="FILE",
    help="class scores: once per member, in the settings' order; or once, with as many files for each member",
)
TRAINING = (
    MODEL,
    *files("index", "card", nargs="+"),
    *MODEL_FILES,
    *files("work-dir"),
    *LOG_FILE,
    option("--init", help="weights to start from (default, or '': none)", **FILE_OR_NONE),
    option("--init-card", type=Path, metavar="FILE", help="card of the dataset those weights were trained on"),
    option("--gpus", type=int, default=0),
    option(
        "--retrain-on-code-change", action="store_true", help="train again where the weights were trained by other code"
    ),
    SETTINGS,
    option("--running", default={}, help="settings that change where and how it runs, not what it computes", **JSON),
)

PEOPLE = (
    Command(
        "predict",
        "vss.infer.predict:predict",
        "Predict your own images, folders of images or video files: label maps and overlays.",
        (
            option("inputs", nargs="+", type=Path, metavar="IMAGE_OR_VIDEO_OR_FOLDER"),
            option("--model", required=True, help="a trained model's name, its folder, or ROW:CHECKPOINT"),
            option("--results", default="results", help="the config's results folder (default: results)"),
            option("--out", dest="out_dir", type=Path, default=Path("predicted"), help="folder (default: predicted)"),
            option("--tta", default={}, help='such as {"flip": true}', **JSON),
            option("--probabilities", action="store_true", help="write [C, H, W] float32 of each frame as .npy"),
            option("--page", action="store_true", help="write page.html: images next to overlays, in one file"),
            DEVICE,
        ),
        example="vss predict clip.mp4 --model swin",
    ),
    Command(
        "score",
        "vss.score.folders:print_scores",
        "Score a folder of label maps, of any system, against a dataset.",
        (
            option("predicted", type=Path, metavar="PREDICTED", help="folder, or a path with {video} and {frame}"),
            option("dataset_root", type=Path, metavar="DATASET_FOLDER", help="raw, or results/prepare/NAME"),
            SCORED_SPLIT,
            option("--data", help="the dataset as a row of the config's data (default: VSPW's format)", **JSON),
            option("--layout", help="vspw, dvis, videomt, pmt, mmseg, ... (default: vspw, or our own files)"),
            option("--ids", help="train, raw, or a class table, a CSV file (default: the layout's)"),
            *files("out", required=False, help="write all scores there as JSON"),
        ),
        example="vss score predicted VSPW_480p",
        prints=True,
    ),
    Command(
        "compare",
        "vss.score.compare:print_comparison",
        "Compare two predictions, or two results folders: which differences are more than noise?",
        (
            option("first", type=Path, metavar="A"),
            option("second", type=Path, metavar="B"),
            SCORED_SPLIT,
            *files("out", required=False, help="write the whole comparison there as JSON"),
            *files("page", required=False, help="write it there as an HTML page"),
            option("--json", dest="as_json", action="store_true", help="print JSON instead of a table"),
        ),
        example="vss compare results/score/swin.single results/score/swin.flip",
        prints=True,
    ),
    Command(
        "export-prediction",
        "vss.submit.export:export_prediction",
        "Write a prediction's label maps for other tools: PNG folders, COCO panoptic, the challenge's zip.",
        (
            option("prediction", type=Path, metavar="PREDICTION_FOLDER", help="results/predictions/NAME/SPLIT"),
            option("--format", dest="form", required=True, choices=("png", "coco-panoptic", "submission")),
            *files("out", help="folder to make; the zip of a submission"),
        ),
        example="vss export-prediction results/predictions/swin.single/val --format png --out swin",
    ),
    Command(
        "models",
        "vss.configs.table:print_models",
        "List every model row: parameters, GFLOPs, accepted weights, the paper's mIoU.",
        (option("--json", dest="as_json", action="store_true", help="print JSON instead of a table"),),
        example="vss models",
        prints=True,
    ),
    Command(
        "import-checkpoint",
        "vss.weights.import_checkpoint:import_checkpoint",
        "Turn a published checkpoint into safetensors and print what became of every parameter.",
        (
            option("checkpoint", type=Path),
            *files("weights"),
            *files("fingerprint", "config", "audit", required=False),
            option("--model", help="name written into the fingerprint (default: the row's)"),
            option("--settings", default={}, help="row, cfg_options, init_classes", **JSON),
        ),
        example="vss import-checkpoint published.pth --weights swin.safetensors",
    ),
    Command(
        "export",
        "vss.export.run:export",
        "Write a model as one file that runs without this project, compared with the engine on frames.",
        (
            option("model", help="a trained model's name, its folder, or ROW:CHECKPOINT"),
            option("--format", dest="file_format", required=True, choices=("torch", "onnx")),
            *files("out", required=False, help="(default: the model's name, .pt2 or .onnx)"),
            option("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="of the frames (default: 480 853)"),
            option(
                "--frames", nargs="+", default=(), type=Path, metavar="IMAGE", help="compare on these, not on drawn"
            ),
            option("--results", default="results", help="the config's results folder (default: results)"),
        ),
        example="vss export swin --format onnx --size 480 853",
    ),
    Command(
        "card",
        "vss.weights.card:card",
        "Write a trained model's card (README.md next to its weights) again, with the scores of its predictions.",
        (
            option("model", help="a trained model's name, or its folder"),
            option("--results", default="results", help="the config's results folder (default: results)"),
        ),
        example="vss card swin",
        prints=True,
    ),
    Command(
        "doctor",
        "vss.doctor:doctor",
        "Look at the installation, a config and what it names: what is wrong, and what to do? Status 1 on a problem.",
        (*files("config", dest="config_file", required=False, help="a config (default: config.yaml, if it is there)"),),
        example="vss doctor --config my.yaml",
        prints=True,
    ),
    Command(
        "completion",
        "vss.completion:print_completion",
        "Print a script with which your shell completes commands, options and files.",
        (option("shell", choices=("bash", "zsh", "tcsh")),),
        example="vss completion bash >> ~/.bash_completion",
        prints=True,
    ),
    Command(
        "drop-scores",
        "vss.workflow.drop:drop_scores",
        "Delete stored class scores that no ensemble of the config needs.",
        (
            *files("config", dest="config_file", help="the config file whose ensembles are kept"),
            option("--yes", action="store_true", help="delete; without it only list"),
        ),
        example="vss drop-scores --config my.yaml",
    ),
)
WORKFLOW = (
    Command(
        "prepare",
        "vss.prepare.run:prepare",
        "Check and list a dataset, or draw one.",
        (
            option("--dataset", required=True, help="key of the config's data, such as vspw"),
            *(*DATA, *files("check")),
            option("--workers", type=int, help="processes (default: all cores)"),
            SETTINGS,
        ),
    ),
    Command(
        "check-masks",
        "vss.prepare.recheck:check_masks",
        "Check the files of a split that have changed since the dataset was listed.",
        (*files("index", "card", "out"), SPLIT),
    ),
    *(
        Command(stage, "vss.train.run:train", f"Train a model on {data}.", TRAINING, {"stage": stage}, WITH_CODE)
        for stage, data in (("pretrain", "COCO-Stuff"), ("finetune", "VSPW"))
    ),
    Command(
        "soup",
        "vss.weights.average:soup",
        "Average the weights of models.",
        (MODEL, *files("parts", "configs", nargs="+"), *MODEL_FILES),
    ),
    Command(
        "soup-of-run",
        "vss.train.soup:soup_of_run",
        "Average the last weights of one training.",
        (MODEL, *files("part", "part-config", "work-dir"), *DATA, *MODEL_FILES, SETTINGS, DEVICE),
    ),
    Command(
        "infer",
        "vss.infer.run:infer",
        "Run a model over a shard of videos.",
        (*files("weights", "config"), *DATA, *OUTS, SETTINGS, *SHARD, DEVICE),
    ),
    Command(
        "import-prediction",
        "vss.exchange.run:import_prediction",
        "Import a shard of what another system predicted.",
        (*files("index", "card"), *files("out", nargs="+"), SETTINGS, *SHARD),
    ),
    Command(
        "search",
        "vss.ensemble.search:search",
        "Choose an ensemble's weights and temperatures on val.",
        (*DATA, *OUT, MEMBER_SCORES, SPLIT, SHARDS, SETTINGS),
    ),
    Command(
        "ensemble",
        "vss.ensemble.run:ensemble",
        "Average stored class probabilities of several predictions.",
        (
            *(*files("index"), *OUTS, MEMBER_SCORES, SETTINGS, *SHARD),
            *files("chosen", required=False, help="result of `vss search`"),
        ),
    ),
    Command(
        "propose",
        "vss.refine.propose:propose",
        "Store mask proposals of frames.",
        (
            *(*DATA, *OUT, SETTINGS, *SHARD, DEVICE),
            option("--weights", help="SAM weights (default, or '': none)", **FILE_OR_NONE),
        ),
    ),
    Command(
        "flow",
        "vss.refine.flow:flow",
        "Store optical flow between neighbouring frames.",
        (*DATA, *OUT, option("--method", default="dis", choices=("dis",)), *SHARD),
    ),
    Command(
        "train-refiner",
        "vss.refine.train:train_refiner",
        "Train the small refinement network.",
        (*DATA, *files("weights", "fingerprint", "work-dir"), *LOG_FILE, SETTINGS),
        adapt=WITH_CODE,
    ),
    Command(
        "refine",
        "vss.refine.run:refine",
        "Refine label maps.",
        (
            *(*files("labels"), *DATA, *OUT, SETTINGS, *SHARD, DEVICE),
            option("--weights", help="of the network (default, or '': none)", **FILE_OR_NONE),
            *files("proposals", "flow", "scores", required=False),
        ),
    ),
    Command(
        "pseudo",
        "vss.pseudo.run:pseudo",
        "Make labels to train on of what predictions are sure of.",
        (*DATA, *files("out-index", "out-card", "summary"), MEMBER_SCORES, SETTINGS),
    ),
    Command(
        "score-shard",
        "vss.score.shard:score_shard",
        "Count a shard's agreement with the truth.",
        (
            *(*files("labels"), *DATA, *OUT, *SHARD),
            option(
                "--flow", choices=("dis", "raft"), help="count temporal consistency along this optical flow as well"
            ),
            *files("flow-weights", required=False, help="of torchvision's raft_large, for raft"),
            *files("scores", required=False, help="class scores of the shard: count calibration as well"),
        ),
    ),
    Command(
        "score-split",
        "vss.score.summary:summarise",
        "Sum the counts of a split's shards into scores.",
        (
            *files("counts", nargs="+", dest="shards"),
            *files("card", "scores", "per-class", "per-video"),
            *files("draws", required=False),
        ),
    ),
    Command(
        "submit",
        "vss.submit.run:submit",
        "Zip the test split's label maps for CodaLab.",
        (
            *(*files("labels", nargs="+"), *DATA, *OUT),
            option("--fill", choices=("previous",), help="what stands for listed frames that were left out"),
        ),
    ),
    Command(
        "report",
        "vss.report.run:report",
        "Write the tables, figures and the HTML page.",
        (
            *DATA,
            option("--inputs", required=True, help="input files by kind and name", **JSON),
            option("--out", required=True, help="output files by name", **JSON),
            SETTINGS,
        ),
    ),
    Command(
        "track",
        "vss.report.tracker:track",
        "Pass a written report and its training curves to an experiment tracker.",
        (
            *files("record"),
            *files("pictures", nargs="+"),
            option("--logs", required=True, help="training logs by stage/model", **JSON),
            *files("folder", "out"),
            SETTINGS,
        ),
    ),
    Command(
        "show-table",
        "vss.report.table:print_table",
        "Print a score table in the terminal.",
        files("table", dest="table_csv"),
        prints=True,
    ),
    Command(
        "lease",
        "vss.workflow.lease:lease",
        "Run a command while holding GPUs of this machine.",
        (option("gpus", type=int), option("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")),
    ),
)
GROUPS = {"Commands for people": PEOPLE, "Commands of the workflow": WORKFLOW}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    return command_line.build_parser("vss", __version__, GROUPS)


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 2 after one line on standard error, or a signal's."""
    # mmcv without compiled operators warns at every import that its own deformable attention is missing; ours is used.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    return command_line.run("vss", __version__, GROUPS, sys.argv[1:] if words is None else words)


if __name__ == "__main__":
    raise SystemExit(main())
