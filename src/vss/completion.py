"""`vss completion`: a script with which a shell completes commands, options, their values and files (extra `cli`)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from vss import cli
from vss.core.command_line import path_or_none

SHELLS = ("bash", "zsh", "tcsh")


def print_completion(*, shell: str) -> None:
    """Prints the completion script of a shell.

    Args:
        shell: one of `SHELLS`.

    Raises:
        ImportError: shtab is not installed.
    """
    import shtab

    parser = cli.build_parser()
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            action.help = None  # shtab leaves out what help leaves out: the list of commands, which the description has
        elif action.type in (Path, path_or_none):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
    print(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields every argument of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
