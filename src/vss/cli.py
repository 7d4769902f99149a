"""The command line: a table of commands, those for people first. It parses, calls one function and returns its status.

The functions are imported when called, so that `vss --help` and the light stages never load torch.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vss import __version__
from vss.core.errors import UserError, did_you_mean
from vss.core.extras import how_to_install
from vss.core.files import read_json

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 and the signal's number, as shells count

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """One argument of a command: what `argparse.ArgumentParser.add_argument` takes."""

    name: str
    settings: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: what is typed after `vss`.
        function: what it calls, "module:name", with the options as keyword arguments.
        help: one sentence.
        options: its arguments.
        fixed: keyword arguments that are not options.
        adapt: changes the keyword arguments before the call.
        example: for people: what to type.
        prints: whether its result is what it prints: it then ends quietly where nobody reads on (`vss models | head`).
    """

    name: str
    function: str
    help: str
    options: tuple[Option, ...]
    fixed: Arguments = field(default_factory=dict)
    adapt: Callable[[Arguments], Arguments] = dict
    example: str = ""
    prints: bool = False


def option(name: str, **settings: Any) -> Option:
    return Option(name, settings)


def files(*names: str, **settings: Any) -> tuple[Option, ...]:
    """Returns required file options."""
    return tuple(
        option(f"--{name}", **{"required": True, "type": Path, "metavar": "FILE", **settings}) for name in names
    )


def json_object(text: str) -> Arguments:
    """Returns a JSON object from the command line, or from the file that it names."""
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else read_json(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def path_or_none(text: str) -> Path | None:
    return Path(text) if text else None


def with_code(stage: str) -> Callable[[Arguments], Arguments]:
    """Returns an adapter that joins a training's settings and adds the digest of its code, for the fingerprint."""

    def adapt(arguments: Arguments) -> Arguments:
        from vss.workflow.digest import stage_digest
        from vss.workflow.jobs import settings_of

        settings, running = settings_of(arguments["settings"]), arguments.pop("running", None)
        if running is not None and (running or settings is not arguments["settings"]):
            from vss.configs.result_settings import joined_settings

            settings = joined_settings(settings, running)
        return {**arguments, "settings": settings, "code": stage_digest(stage)}

    return adapt


def with_scores_by_member(arguments: Arguments) -> Arguments:
    from vss.ensemble.members import scores_by_member

    return {**arguments, "scores": scores_by_member(arguments["settings"], arguments["scores"])}


def without_separator(arguments: Arguments) -> Arguments:
    words = arguments["command"]
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise UserError("no command given; usage: vss lease GPUS -- COMMAND ...")
    return {**arguments, "command": words}


JSON = {"type": json_object, "metavar": "JSON"}
SETTINGS = option("--settings", required=True, help="settings: a JSON object, or a file that holds one", **JSON)
SPLIT = option("--split", required=True, choices=("train", "val", "test"))
SHARDS = option("--shards", required=True, type=int)
SHARD = (SPLIT, option("--shard", required=True, type=int), SHARDS)
DEVICE = option("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
FILE_OR_NONE = {"type": path_or_none, "metavar": "FILE"}
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
    option("--model", required=True),
    *files("index", "card", "weights", "fingerprint", "config", "audit", "work-dir"),
    *files("log", dest="log_file"),
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
            DEVICE,
        ),
        example="vss predict clip.mp4 --model swin",
    ),
    Command(
        "score",
        "vss.score.folders:print_scores",
        "Score a folder of label maps (PNG of train ids, or our files) against a dataset of VSPW's layout.",
        (
            option("predicted", type=Path, metavar="PREDICTED_FOLDER"),
            option("dataset_root", type=Path, metavar="DATASET_FOLDER"),
            option("--split", default="val", choices=("train", "val")),
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
            option("--split", default="val", choices=("train", "val")),
            *files("out", required=False, help="write the whole comparison there as JSON"),
        ),
        example="vss compare results/score/swin.single results/score/swin.flip",
        prints=True,
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
            option("--dataset", required=True, choices=("vspw", "coco_stuff")),
            *files("index", "card", "check"),
            option("--workers", type=int, help="processes (default: all cores)"),
            SETTINGS,
        ),
    ),
    *(
        Command(stage, "vss.train.run:train", f"Train a model on {data}.", TRAINING, {"stage": stage}, with_code(stage))
        for stage, data in (("pretrain", "COCO-Stuff"), ("finetune", "VSPW"))
    ),
    Command(
        "soup",
        "vss.weights.average:soup",
        "Average the weights of models.",
        (
            option("--model", required=True),
            *files("parts", "configs", nargs="+"),
            *files("weights", "fingerprint", "config", "audit"),
        ),
    ),
    Command(
        "infer",
        "vss.infer.run:infer",
        "Run a model over a shard of videos.",
        (*files("weights", "config", "index", "card"), *files("out", nargs="+"), SETTINGS, *SHARD, DEVICE),
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
        (*files("index", "card", "out"), MEMBER_SCORES, SPLIT, SHARDS, SETTINGS),
        adapt=with_scores_by_member,
    ),
    Command(
        "ensemble",
        "vss.ensemble.run:ensemble",
        "Average stored class probabilities of several predictions.",
        (
            *files("index"),
            *files("out", nargs="+"),
            MEMBER_SCORES,
            option("--chosen", type=Path, metavar="FILE", help="result of `vss search`"),
            SETTINGS,
            *SHARD,
        ),
        adapt=with_scores_by_member,
    ),
    Command(
        "propose",
        "vss.refine.propose:propose",
        "Store mask proposals of frames.",
        (
            *files("index", "card", "out"),
            option("--weights", help="SAM weights (default, or '': none)", **FILE_OR_NONE),
            SETTINGS,
            *SHARD,
            DEVICE,
        ),
    ),
    Command(
        "flow",
        "vss.refine.flow:flow",
        "Store optical flow between neighbouring frames.",
        (*files("index", "card", "out"), option("--method", default="dis", choices=("dis",)), *SHARD),
    ),
    Command(
        "train-refiner",
        "vss.refine.train:train_refiner",
        "Train the small refinement network.",
        (*files("index", "card", "weights", "fingerprint", "work-dir"), *files("log", dest="log_file"), SETTINGS),
        adapt=with_code("train_refiner"),
    ),
    Command(
        "refine",
        "vss.refine.run:refine",
        "Refine label maps.",
        (
            *files("labels", "index", "card", "out"),
            option("--weights", help="of the network (default, or '': none)", **FILE_OR_NONE),
            *files("proposals", "flow", required=False),
            SETTINGS,
            *SHARD,
            DEVICE,
        ),
    ),
    Command(
        "score-shard",
        "vss.score.shard:score_shard",
        "Count a shard's agreement with the truth.",
        (
            *files("labels", "index", "card", "out"),
            *SHARD,
            option("--flow", choices=("dis",), help="count temporal consistency along this optical flow as well"),
        ),
    ),
    Command(
        "score-split",
        "vss.score.summary:summarise",
        "Sum the counts of a split's shards into scores.",
        (*files("counts", nargs="+", dest="shards"), *files("card", "scores", "per-class", "per-video")),
    ),
    Command(
        "submit",
        "vss.submit.run:submit",
        "Zip the test split's label maps for CodaLab.",
        (
            *files("labels", nargs="+"),
            *files("index", "card", "out"),
            option("--fill", choices=("previous",), help="what stands for listed frames that were left out"),
        ),
    ),
    Command(
        "report",
        "vss.report.run:report",
        "Write the tables, figures and the HTML page.",
        (
            *files("index", "card"),
            option("--inputs", required=True, help="input files by kind and name", **JSON),
            option("--out", required=True, help="output files by name", **JSON),
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
        adapt=without_separator,
    ),
)
COMMANDS = {command.name: command for command in (*PEOPLE, *WORKFLOW)}


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 2 after one line on standard error, or a signal's."""
    words = list(sys.argv[1:] if words is None else words)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        print(
            f"vss: no command {words[0]!r}{did_you_mean(words[0], COMMANDS)}; `vss --help` lists them", file=sys.stderr
        )
        return EXIT_USER_ERROR
    try:
        arguments = vars(build_parser().parse_args(words))
    except UserError as error:  # of a file that stands for its content
        print(f"vss {words[0]}: {error}; fix it, or delete it and rerun", file=sys.stderr)
        return EXIT_USER_ERROR
    command = COMMANDS[arguments.pop("_name")]
    # mmcv without compiled operators warns at every import that its own deformable attention is missing; ours is used.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    if command.prints:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        module, _, name = command.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        function(**command.adapt({**arguments, **command.fixed}))
    except UserError as error:
        return _refused(command, str(error))
    except ModuleNotFoundError as error:
        if (remedy := how_to_install(error)) is None:
            raise
        return _refused(command, remedy)
    except KeyboardInterrupt:
        _refused(command, "interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno is None:  # a library's own, not the operating system's word
            raise
        return _refused(command, _one_line(error))
    return 0


def _refused(command: Command, message: str) -> int:
    print(f"vss {command.name}: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def _one_line(error: OSError) -> str:
    """Returns one line of an error of the operating system: the file, where it is known, and what is wrong."""
    name = error.filename if error.filename2 is None else error.filename2
    reason = " ".join((error.strerror or str(error)).split())
    return reason if name is None else f"{name}: {reason}"


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="vss",
        usage="vss [-h] [--version] COMMAND ...",
        description=f"{_listed('Commands for people', PEOPLE)}\n\n{_listed('Commands of the workflow', WORKFLOW)}",
        epilog="`vss COMMAND --help` describes one command. `snakemake` runs the workflow.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(dest="_name", required=True, prog="vss", metavar="COMMAND", help=argparse.SUPPRESS)
    for command in COMMANDS.values():
        example = f"example: {command.example}" if command.example else None
        added = parsers.add_parser(
            command.name, help=command.help, description=command.help, epilog=example, allow_abbrev=False
        )
        for argument in command.options:
            added.add_argument(argument.name, **argument.settings)
    return parser


def _listed(title: str, commands: Sequence[Command]) -> str:
    return "\n".join([f"{title}:", *(f"  {command.name:<18} {command.help}" for command in commands)])


if __name__ == "__main__":
    raise SystemExit(main())
