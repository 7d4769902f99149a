"""The command line: one subcommand a stage. It parses, calls one function and turns errors into exit codes.

Stages are imported when called, so that `vss --help` and the light stages never load torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vss.core.errors import UserError
from vss.core.extras import how_to_install

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 and the signal's number, as shells count
EXIT_NO_READER = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit status: 0, 2 after one line on standard error, or a signal's."""
    options = _parser().parse_args(arguments)
    # mmcv without compiled operators says at every import that its own deformable attention is missing; ours is used.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    try:
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        print(f"vss {options.command}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        if (remedy := how_to_install(error)) is None:
            raise
        print(f"vss {options.command}: {remedy}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"vss {options.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return EXIT_NO_READER
        if error.errno is None:  # a library's own, not the operating system's word
            raise
        print(f"vss {options.command}: {_told(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def _nobody_reads() -> bool:
    """Tells whether the reader of standard output is gone (`vss models | head`), and if so, ends writing to it."""
    poll = select.poll()
    with contextlib.suppress(OSError), open(os.devnull, "w") as nothing:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            os.dup2(nothing.fileno(), sys.stdout.fileno())  # Python flushes once more when it ends
            return True
    return False


def _told(error: OSError) -> str:
    """Returns one line of an error of the operating system: the file, where it is known, and what is wrong."""
    name = error.filename if error.filename2 is None else error.filename2
    reason = " ".join((error.strerror or str(error)).split())
    return reason if name is None else f"{name}: {reason}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vss", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_prepare,
        _add_training,
        _add_import_checkpoint,
        _add_soup,
        _add_infer,
        _add_search,
        _add_ensemble,
        _add_propose,
        _add_train_refiner,
        _add_refine,
        _add_score,
        _add_submit,
        _add_report,
        _add_predict,
        _add_models,
        _add_drop_scores,
        _add_lease,
    ):
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str, *files: str, lists: Sequence[str] = ()) -> Any:
    """Adds a subcommand whose arguments are required file options; `lists` take several files."""
    parser = commands.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
    for file in files:
        parser.add_argument(f"--{file.replace('_', '-')}", required=True, type=Path, metavar="FILE")
    for files_option in lists:
        parser.add_argument(f"--{files_option}", required=True, nargs="+", type=Path, metavar="FILE")
    parser.set_defaults(run=run)
    return parser


def _settings(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def _path_or_none(text: str) -> Path | None:
    return Path(text) if text else None


def _add_settings(parser: Any) -> None:
    parser.add_argument("--settings", required=True, type=_settings, metavar="JSON", help="settings as a JSON object")


def _add_shard(parser: Any) -> None:
    parser.add_argument("--split", required=True, choices=("train", "val", "test"))
    parser.add_argument("--shard", required=True, type=int)
    parser.add_argument("--shards", required=True, type=int)


def _add_device(parser: Any) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _add_prepare(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.prepare.run import prepare

        prepare(
            dataset=options.dataset,
            settings=options.settings,
            index=options.index,
            card=options.card,
            check=options.check,
            workers=options.workers,
        )

    parser = _command(commands, "prepare", run, "Check and list a dataset, or draw one.", "index", "card", "check")
    parser.add_argument("--dataset", required=True, choices=("vspw", "coco_stuff"))
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    _add_settings(parser)


def _add_training(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.train.run import train
        from vss.workflow.digest import stage_digest

        train(
            stage=options.command,
            model=options.model,
            settings=options.settings,
            index=options.index,
            card=options.card,
            init=options.init,
            init_card=options.init_card,
            weights=options.weights,
            fingerprint=options.fingerprint,
            config=options.config,
            log_file=options.log,
            audit=options.audit,
            work_dir=options.work_dir,
            gpus=options.gpus,
            code=stage_digest(options.command),
            retrain_on_code_change=options.retrain_on_code_change,
        )

    outputs = ("weights", "fingerprint", "config", "log", "audit")
    for stage, dataset in (("pretrain", "COCO-Stuff"), ("finetune", "VSPW")):
        parser = _command(commands, stage, run, f"Train a model on {dataset}.", "index", "card", *outputs, "work_dir")
        parser.add_argument("--model", required=True)
        parser.add_argument("--init", type=_path_or_none, help="weights to start from (default, or '': none)")
        parser.add_argument("--init-card", type=Path, help="card of the dataset those weights were trained on")
        parser.add_argument("--gpus", type=int, default=0)
        help_text = "train again where the weights were trained by other code"
        parser.add_argument("--retrain-on-code-change", action="store_true", help=help_text)
        _add_settings(parser)


def _add_import_checkpoint(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.weights.import_checkpoint import import_checkpoint

        import_checkpoint(
            checkpoint=options.checkpoint,
            model=options.model,
            settings=options.settings,
            weights=options.weights,
            fingerprint=options.fingerprint,
            config=options.config,
            audit=options.audit,
        )

    help_text = "Turn a published checkpoint into safetensors and print what became of every parameter."
    outputs = ("weights", "fingerprint", "config", "audit")
    parser = _command(commands, "import-checkpoint", run, help_text)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", default=None, help="name written into the fingerprint (default: the row's)")
    for output in outputs:
        parser.add_argument(f"--{output}", type=Path, required=output == "weights", metavar="FILE")
    parser.add_argument("--settings", type=_settings, default={}, metavar="JSON", help="row, cfg_options, init_classes")


def _add_soup(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.weights.average import soup

        soup(
            model=options.model,
            parts=options.parts,
            configs=options.configs,
            weights=options.weights,
            fingerprint=options.fingerprint,
            config=options.config,
            audit=options.audit,
        )

    outputs = ("weights", "fingerprint", "config", "audit")
    parser = _command(commands, "soup", run, "Average the weights of models.", *outputs, lists=("parts", "configs"))
    parser.add_argument("--model", required=True)


def _add_infer(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.infer.run import infer

        infer(
            settings=options.settings,
            weights=options.weights,
            config=options.config,
            index=options.index,
            card=options.card,
            split=options.split,
            shard=options.shard,
            shards=options.shards,
            out=options.out,
            device=options.device,
        )

    files = ("weights", "config", "index", "card")
    parser = _command(commands, "infer", run, "Run a model over a shard of videos.", *files, lists=("out",))
    _add_settings(parser)
    _add_shard(parser)
    _add_device(parser)


def _add_search(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.ensemble.search import search

        search(
            settings=options.settings,
            scores=_scores_by_member(options),
            index=options.index,
            card=options.card,
            split=options.split,
            shards=options.shards,
            out=options.out,
        )

    help_text = "Choose an ensemble's weights and temperatures on val."
    parser = _command(commands, "search", run, help_text, "index", "card", "out")
    _add_member_scores(parser)
    parser.add_argument("--split", required=True, choices=("train", "val", "test"))
    parser.add_argument("--shards", required=True, type=int)
    _add_settings(parser)


def _add_ensemble(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.ensemble.run import ensemble

        ensemble(
            settings=options.settings,
            scores=_scores_by_member(options),
            chosen=options.chosen,
            index=options.index,
            split=options.split,
            shard=options.shard,
            shards=options.shards,
            out=options.out,
        )

    help_text = "Average stored class probabilities of several predictions."
    parser = _command(commands, "ensemble", run, help_text, "index", lists=("out",))
    _add_member_scores(parser)
    parser.add_argument("--chosen", type=Path, help="result of `vss search`")
    _add_settings(parser)
    _add_shard(parser)


def _add_member_scores(parser: Any) -> None:
    help_text = "class scores: once a member, in the settings' order; or once, with as many files for each member"
    parser.add_argument(
        "--scores", required=True, action="append", nargs="+", type=Path, metavar="FILE", help=help_text
    )


def _scores_by_member(options: argparse.Namespace) -> list[list[Path]]:
    """Returns the score files grouped by member.

    Members may have any number of files each where --scores is given once for each of them.
    """
    members, given = len(options.settings.get("members", [])), options.scores
    if len(given) == members:
        return given
    if len(given) > 1:
        raise UserError(f"--scores: is given {len(given)} times for {members} members; give it once for each member")
    (files,) = given
    if not members or len(files) % members:
        raise UserError(
            f"--scores: {len(files)} files cannot be shared among {members} members; give it once for each member"
        )
    each = len(files) // members
    return [files[start : start + each] for start in range(0, len(files), each)]


def _add_propose(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.refine.propose import propose

        propose(
            settings=options.settings,
            index=options.index,
            card=options.card,
            split=options.split,
            shard=options.shard,
            shards=options.shards,
            weights=options.weights,
            out=options.out,
            device=options.device,
        )

    parser = _command(commands, "propose", run, "Cache mask proposals of frames.", "index", "card", "out")
    parser.add_argument("--weights", type=_path_or_none, help="SAM weights (default, or '': none)")
    _add_settings(parser)
    _add_shard(parser)
    _add_device(parser)


def _add_train_refiner(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.refine.train import train_refiner
        from vss.workflow.digest import stage_digest

        train_refiner(
            settings=options.settings,
            index=options.index,
            card=options.card,
            weights=options.weights,
            fingerprint=options.fingerprint,
            log_file=options.log,
            work_dir=options.work_dir,
            code=stage_digest("train_refiner"),
        )

    files = ("index", "card", "weights", "fingerprint", "log", "work_dir")
    parser = _command(commands, "train-refiner", run, "Train the small refinement network.", *files)
    _add_settings(parser)


def _add_refine(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.refine.run import refine

        refine(
            settings=options.settings,
            labels=options.labels,
            index=options.index,
            card=options.card,
            split=options.split,
            shard=options.shard,
            shards=options.shards,
            weights=options.weights,
            proposals=options.proposals,
            out=options.out,
            device=options.device,
        )

    parser = _command(commands, "refine", run, "Refine label maps.", "labels", "index", "card", "out")
    parser.add_argument("--weights", type=_path_or_none, help="of the network (default, or '': none)")
    parser.add_argument("--proposals", type=Path)
    _add_settings(parser)
    _add_shard(parser)
    _add_device(parser)


def _add_score(commands: Any) -> None:
    def run_shard(options: argparse.Namespace) -> None:
        from vss.score.shard import score_shard

        score_shard(
            labels=options.labels,
            index=options.index,
            card=options.card,
            split=options.split,
            shard=options.shard,
            shards=options.shards,
            out=options.out,
            flow=options.flow,
        )

    def run(options: argparse.Namespace) -> None:
        from vss.score.summary import summarise

        summarise(
            shards=options.counts,
            card=options.card,
            scores=options.scores,
            per_class=options.per_class,
            per_video=options.per_video,
        )

    files = ("labels", "index", "card", "out")
    parser = _command(commands, "score-shard", run_shard, "Count a shard's agreement with the truth.", *files)
    _add_shard(parser)
    parser.add_argument("--flow", choices=("dis",), help="count temporal consistency along this optical flow as well")
    files = ("card", "scores", "per_class", "per_video")
    _command(commands, "score", run, "Sum the counts of shards into scores.", *files, lists=("counts",))


def _add_submit(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.submit.run import submit

        submit(labels=options.labels, index=options.index, card=options.card, out=options.out)

    help_text = "Zip the test split's label maps for CodaLab."
    _command(commands, "submit", run, help_text, "index", "card", "out", lists=("labels",))


def _add_report(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.report.run import report

        report(
            settings=options.settings, inputs=options.inputs, index=options.index, card=options.card, out=options.out
        )

    parser = _command(commands, "report", run, "Write the tables, figures and the HTML page.", "index", "card")
    parser.add_argument("--inputs", required=True, type=_settings, metavar="JSON", help="input files by kind and name")
    parser.add_argument("--out", required=True, type=_settings, metavar="JSON", help="output files by name")
    _add_settings(parser)

    def run_table(options: argparse.Namespace) -> None:
        from vss.report.table import print_table

        print_table(options.table)

    _command(commands, "show-table", run_table, "Print a score table in the terminal.", "table")


def _add_predict(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.infer.predict import predict

        predict(
            inputs=options.inputs,
            model_dir=Path(options.results) / "finetune" / options.model,
            out_dir=options.out,
            tta=options.tta,
            device=options.device,
        )

    help_text = "Predict your own images, folders of images or video files: label maps and overlays."
    parser = _command(commands, "predict", run, help_text)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IMAGE_OR_VIDEO_OR_FOLDER")
    parser.add_argument("--model", required=True, help="a trained model's name in the config")
    parser.add_argument("--results", default="results", help="the config's results folder (default: results)")
    parser.add_argument("--out", type=Path, default=Path("predicted"), help="output folder (default: predicted)")
    parser.add_argument("--tta", type=_settings, default={}, metavar="JSON", help='such as {"flip": true}')
    _add_device(parser)


def _add_models(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.configs.table import print_models

        print_models(as_json=options.json)

    help_text = "List every model row: parameters, GFLOPs, accepted weights, the paper's mIoU."
    parser = _command(commands, "models", run, help_text)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_drop_scores(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.ensemble.drop import drop_scores

        drop_scores(config_file=options.config, yes=options.yes)

    help_text = "Delete stored class scores that no ensemble of the config needs."
    parser = _command(commands, "drop-scores", run, help_text)
    parser.add_argument("--config", required=True, type=Path, help="the config file whose ensembles are kept")
    parser.add_argument("--yes", action="store_true", help="delete; without it only list")


def _add_lease(commands: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        from vss.workflow.lease import lease

        command = options.words[1:] if options.words[:1] == ["--"] else options.words
        if not command:
            raise UserError("no command given; usage: vss lease GPUS -- COMMAND ...")
        lease(options.gpus, command)

    parser = _command(commands, "lease", run, "Run a command while holding GPUs of this machine.")
    parser.add_argument("gpus", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")


if __name__ == "__main__":
    raise SystemExit(main())
