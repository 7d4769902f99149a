"""The command line: which commands there are, those for people first.

Every room declares its own commands in its `commands.py`. Their functions are imported when called, so that
`vss --help` and the light stages never load torch.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from vss import __version__
from vss.configs.commands import MODEL_ROWS
from vss.core import command_line
from vss.core.allocator import collect_garbage_less_often, keep_freed_memory
from vss.core.command_line import Command, files, option
from vss.ensemble.commands import ENSEMBLE, SEARCH
from vss.exchange.commands import IMPORT_PREDICTION
from vss.export.commands import EXPORT
from vss.flow.commands import FLOW
from vss.infer.commands import INFER, PREDICT
from vss.prepare.commands import CHECK_MASKS, PREPARE
from vss.pseudo.commands import PSEUDO
from vss.refine.commands import PROPOSE, REFINE, SEARCH_REFINER, TRAIN_REFINER
from vss.report.commands import REPORT, SHOW_TABLE, TRACK
from vss.score.commands import COMPARE, SCORE, SCORE_SHARD, SCORE_SPLIT
from vss.submit.commands import CHECK_SUBMISSION, EXPORT_PREDICTION, SUBMIT
from vss.train.commands import FINETUNE, PRETRAIN, SOUP_OF_RUN
from vss.weights.commands import IMPORT_CHECKPOINT, MODEL_CARD, SOUP
from vss.workflow.commands import DROP_SCORES, LEASE

DOCTOR = Command(
    "doctor",
    "vss.doctor:doctor",
    "Look at the installation, a config and what it names: what is wrong, and what to do? Status 1 on a problem.",
    files("config", dest="config_file", required=False, help="a config (default: config.yaml, if it is there)"),
    example="vss doctor --config my.yaml",
    prints=True,
)
COMPLETION = Command(
    "completion",
    "vss.completion:print_completion",
    "Print a script with which your shell completes commands, options and files.",
    (option("shell", choices=("bash", "zsh", "tcsh")),),
    example="vss completion bash >> ~/.bash_completion",
    prints=True,
)

PEOPLE = (
    *(PREDICT, SCORE, COMPARE, EXPORT_PREDICTION, CHECK_SUBMISSION, MODEL_ROWS, IMPORT_CHECKPOINT, EXPORT, MODEL_CARD),
    *(DOCTOR, COMPLETION, DROP_SCORES),
)


def _with_code(training: Command) -> Command:
    """Returns a training's command that is given the digest of its code, which `vss.workflow` takes."""
    return training._replace(adapt="vss.workflow.jobs:training_arguments")


WORKFLOW = (
    *(PREPARE, CHECK_MASKS, _with_code(PRETRAIN), _with_code(FINETUNE), SOUP, SOUP_OF_RUN, INFER, IMPORT_PREDICTION),
    *(SEARCH, ENSEMBLE, PROPOSE, FLOW, _with_code(TRAIN_REFINER), SEARCH_REFINER, REFINE, PSEUDO),
    *(SCORE_SHARD, SCORE_SPLIT, SUBMIT, REPORT, TRACK, SHOW_TABLE, LEASE),
)
GROUPS = {"Commands for people": PEOPLE, "Commands of the workflow": WORKFLOW}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    return command_line.build_parser("vss", __version__, GROUPS)


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 2 after one line on standard error, or a signal's."""
    return command_line.run("vss", __version__, GROUPS, sys.argv[1:] if words is None else words, _set_up)


def _set_up() -> None:
    """Sets up this process for a command: its warnings and its memory."""
    # mmcv without compiled operators warns at every import that its own deformable attention is missing; ours is used.
    warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
    keep_freed_memory()
    collect_garbage_less_often()


if __name__ == "__main__":
    raise SystemExit(main())
