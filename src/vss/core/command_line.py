"""A command line from a table of commands: parse, call one function, and end in one line and a status.

Every job and every `--help` starts with this module, so that it imports little, and what few need where they need it:
named tuples take 30 ms less than dataclasses.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeAlias

from vss.core.errors import UserError, did_you_mean
from vss.core.extras import how_to_install
from vss.core.log import log

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 and the signal's number, as shells count

_WRONG_CHOICE = r"argument (?P<name>[^:]+): invalid choice: '?(?P<value>.*?)'? \(choose from"

Arguments: TypeAlias = dict[str, Any]


class Option(NamedTuple):
    """One argument of a command: what `argparse.ArgumentParser.add_argument` takes."""

    name: str
    settings: Arguments


class Command(NamedTuple):
    """One command.

    Attributes:
        name: what is typed after the program's name.
        function: what it calls, "module:name", with the options as keyword arguments.
        help: one sentence.
        options: its arguments.
        fixed: keyword arguments that are not options.
        adapt: "module:name" of what maps the command's name and the keyword arguments to those of the call.
        example: for people: what to type.
        prints: whether its result is what it prints: it then ends quietly where nobody reads on (`vss models | head`).
    """

    name: str
    function: str
    help: str
    options: tuple[Option, ...]
    fixed: Mapping[str, Any] = MappingProxyType({})
    adapt: str = ""
    example: str = ""
    prints: bool = False


Groups: TypeAlias = Mapping[str, Sequence[Command]]
"""Commands by the title that they stand under in the help."""


def option(name: str, **settings: Any) -> Option:
    """Returns an argument of a command, with what `add_argument` takes."""
    return Option(name, settings)


def files(*names: str, **settings: Any) -> tuple[Option, ...]:
    """Returns file options, required unless `settings` say otherwise."""
    return tuple(
        option(f"--{name}", **{"required": True, "type": Path, "metavar": "FILE", **settings}) for name in names
    )


def json_object(text: str) -> Arguments:
    """Returns a JSON object from the command line, or from the file that it names."""
    import json

    try:
        value = json.loads(text) if text.lstrip().startswith("{") else _read_json(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


def _read_json(file: str) -> Any:
    from vss.core.files import read_json

    return read_json(file)


def path_or_none(text: str) -> Path | None:
    """Returns the path of an optional file; a job's empty word stands for none."""
    return Path(text) if text else None


class UsageError(UserError):
    """Words that a command does not take."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose refusals are one line that suggests the nearest option or value."""

    def error(self, message: str) -> NoReturn:
        """Refuses the command line.

        Raises:
            UsageError: argparse's message, or what was probably meant.
        """
        if found := re.match(_WRONG_CHOICE, message):
            name = found["name"].split("/")[-1]
            action = next(action for action in self._actions if name in (*action.option_strings, action.dest))
            choices = [str(choice) for choice in action.choices or ()]
            near = did_you_mean(found["value"], choices)
            message = f"{name} is {found['value']!r}{near}, must be one of {', '.join(choices)}"
        raise UsageError(message)

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Refuses words that no argument takes.

        Raises:
            UsageError: the first of them, and the option that was probably meant.
        """
        word = words[0].partition("=")[0]
        kind = "option" if word.startswith("-") else "argument"
        raise UsageError(f"unknown {kind} {word!r}{did_you_mean(word, self._option_string_actions)}")


def build_parser(program: str, version: str, groups: Groups) -> OneLineParser:
    """Returns the parser of all commands, whose help lists them by group."""
    parser = _program_parser(program, version, groups)
    parsers = parser.add_subparsers(required=True, prog=program, metavar="COMMAND", help=argparse.SUPPRESS)
    for command in _by_name(groups).values():
        added = parsers.add_parser(command.name, help=command.help, **_about(command))
        _add_options(added, command)
    return parser


def _program_parser(program: str, version: str, groups: Groups) -> OneLineParser:
    """Returns the parser of what stands before a command: `--help`, which lists the commands, and `--version`."""
    width = max(map(len, _by_name(groups)))
    listed = (
        "\n".join([f"{title}:", *(f"  {command.name:<{width}}  {command.help}" for command in group)])
        for title, group in groups.items()
    )
    parser = OneLineParser(
        prog=program,
        usage=f"{program} [-h] [--version] COMMAND ...",
        description="\n\n".join(listed),
        epilog=f"`{program} COMMAND --help` describes one command. `snakemake` runs the workflow.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version)
    return parser


def _command_parser(program: str, command: Command) -> OneLineParser:
    """Returns the parser of one command: 20 times faster to build than that of all."""
    parser = OneLineParser(prog=f"{program} {command.name}", **_about(command))
    _add_options(parser, command)
    return parser


def _about(command: Command) -> Arguments:
    example = f"example: {command.example}" if command.example else None
    return {"description": command.help, "epilog": example, "allow_abbrev": False}


def _add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    for argument in command.options:
        parser.add_argument(argument.name, **argument.settings)


def _by_name(groups: Groups) -> dict[str, Command]:
    return {command.name: command for group in groups.values() for command in group}


def run(program: str, version: str, groups: Groups, words: Sequence[str], set_up: Callable[[], None]) -> int:
    """Runs one command and returns its exit status: 0, 2 after one line on standard error, or a signal's.

    Args:
        program: what is typed first.
        version: what `--version` prints.
        groups: all commands.
        words: what is typed after the program's name.
        set_up: is called before the command's function is imported, and not where only help is printed.
    """
    commands = _by_name(groups)
    command = commands.get(words[0]) if words else None
    if command is None and words and not words[0].startswith("-"):
        near = did_you_mean(words[0], commands)
        return _refused(program, f"no command {words[0]!r}{near}; `{program} --help` lists them")
    name = f"{program} {command.name}" if command else program

    # Parse, by the parser of the one command where it is named; a file may stand for its content, and be damaged.
    try:
        if command is None:
            _refuse_without_command(_program_parser(program, version, groups), words)
        parser = _command_parser(program, command)
        parsed, unknown = parser.parse_known_args(words[1:])
        if unknown:
            parser.refuse_unknown(unknown)
    except UsageError as error:
        return _refused(name, f"{error}; `{name} --help` lists what it takes")
    except UserError as error:
        return _refused(name, f"{error}; fix it, or delete it and rerun")

    # Call; what the user or the system stops is one line, a mistake of the program is not hidden.
    if command.prints:
        _end_with_the_reader()
    set_up()
    try:
        arguments = vars(parsed) | command.fixed
        if command.adapt:
            arguments = _imported(command.adapt)(command.name, arguments)
        _imported(command.function)(**arguments)
    except UserError as error:
        return _refused(name, str(error))
    except ModuleNotFoundError as error:
        if (remedy := how_to_install(error)) is None:
            raise
        return _refused(name, remedy)
    except KeyboardInterrupt:
        _refused(name, "interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno is None:  # a library's own, not the operating system's word
            raise
        return _refused(name, _one_line(error))
    return 0


def _refuse_without_command(parser: OneLineParser, words: Sequence[str]) -> NoReturn:
    """Prints the help or the version and exits, or refuses words that name no command.

    Raises:
        UsageError: a command is required, or an option is unknown.
    """
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    _, unknown = parser.parse_known_args(words)
    parser.refuse_unknown(unknown or words)


def _end_with_the_reader() -> None:
    """Makes this process end quietly where nobody reads its output any more."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _imported(function: str) -> Callable[..., Any]:
    """Returns the function that "module:name" stands for."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _refused(name: str, message: str) -> int:
    log(f"{name}: {message}")
    return EXIT_USER_ERROR


def _one_line(error: OSError) -> str:
    """Returns one line of an error of the operating system: the file, where it is known, and what is wrong."""
    name = error.filename if error.filename2 is None else error.filename2
    reason = " ".join((error.strerror or str(error)).split())
    return reason if name is None else f"{name}: {reason}"
