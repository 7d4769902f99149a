"""The command line: what ends in one line and which exit status."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import signal
import subprocess
import sys

import pytest

from vss import cli
from vss.core.command_line import EXIT_USER_ERROR, json_object
from vss.core.errors import UserError
from vss.workflow import lease

COMMAND = ["lease", "1", "--", "true"]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("key: wrong"), 2, "vss lease: key: wrong\n"),
        (PermissionError(13, "Permission denied", "/ro/p"), 2, "vss lease: /ro/p: Permission denied\n"),
        (UserError("a\nvss: fine\x1b[2J: wrong"), 2, "vss lease: a\\nvss: fine\\x1b[2J: wrong\n"),
        (OSError(28, "No space left on device"), 2, "vss lease: No space left on device\n"),
        (OSError(18, "Invalid cross-device link", "aside", None, "w"), 2, "vss lease: w: Invalid cross-device link\n"),
        (KeyboardInterrupt(), 130, "vss lease: interrupted\n"),
    ],
)
def test_what_the_system_or_the_user_stops_is_one_line(error, status, said, monkeypatch, capsys) -> None:
    def fail(**_) -> None:
        raise error

    monkeypatch.setattr(lease, "lease", fail)
    assert cli.main(COMMAND) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("b"), OSError("of a library"), BrokenPipeError("c")])
def test_mistakes_of_the_program_are_not_hidden(error, monkeypatch) -> None:
    def fail(**_) -> None:
        raise error

    monkeypatch.setattr(lease, "lease", fail)
    with pytest.raises(type(error)):
        cli.main(COMMAND)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_is_no_error(lines) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "from vss import cli\nfrom vss.report import table\n"
        f"table.print_table = lambda **_: [print('line') for _ in range({lines})]\n"
        "raise SystemExit(cli.main(['show-table', '--table', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")  # 141 in a shell


def test_a_wrong_command_suggests_the_nearest(capsys) -> None:
    assert cli.main(["predcit", "clip.mp4"]) == 2
    assert capsys.readouterr().err == "vss: no command 'predcit' (did you mean 'predict'?); `vss --help` lists them\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["score", "a", "b", "--splt", "val"], "vss score: unknown option '--splt' (did you mean '--split'?);"),
        (["score", "a", "b", "--split", "vall"], "vss score: --split is 'vall' (did you mean 'val'?), must be one of"),
        (["models", "swin"], "vss models: unknown argument 'swin';"),
        (["score", "a"], "vss score: the following arguments are required: DATASET_FOLDER;"),
        (["lease", "one", "--", "true"], "vss lease: argument gpus: invalid int value: 'one';"),
        ([], "vss: the following arguments are required: COMMAND;"),
        (["-x", "models"], "vss: unknown option '-x';"),
        (["--", "models"], "vss: unknown option '--';"),
    ],
)
def test_a_wrong_option_or_value_is_one_line_with_the_nearest(words, line, capsys) -> None:
    assert cli.main(words) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_the_help_lists_the_commands_for_people_first(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert (
        text.index("  predict ")
        < text.index("  models ")
        < text.index("Commands of the workflow")
        < text.index("  infer ")
    )
    assert all(command.example.startswith(f"vss {command.name}") for command in cli.PEOPLE)


@pytest.mark.parametrize("command", cli.COMMANDS.values(), ids=lambda command: command.name)
def test_every_command_calls_a_function_with_the_arguments_that_it_takes(command) -> None:
    module, _, name = command.function.partition(":")
    taken = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    parser = argparse.ArgumentParser()
    given = {parser.add_argument(option.name, **option.settings).dest for option in command.options}
    if "code" in taken:
        given = given - {"running"} | {"code"}  # joined with the settings
    required = {key for key, parameter in taken.items() if parameter.default is parameter.empty}
    assert required <= given | set(command.fixed) <= set(taken)


@pytest.mark.parametrize(("content", "said"), [(b"{", "not valid JSON"), (None, "no such file")])
def test_a_damaged_file_of_settings_is_one_line(content, said, tmp_path, capsys) -> None:
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_bytes(content)
    assert cli.main(["search", "--settings", str(file)]) == EXIT_USER_ERROR
    line = capsys.readouterr().err
    assert line.startswith(f"vss search: {file}: {said}") and line.count("\n") == 1


def test_settings_may_stand_in_a_file(tmp_path) -> None:
    (tmp_path / "settings.json").write_text('{"a": 1}')
    assert json_object(str(tmp_path / "settings.json")) == json_object('{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_completion_script_knows_commands_options_and_their_values(shell, capsys) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in cli.COMMANDS)
    assert "probabilities" in script and "train-refiner" in script


def test_bash_completes_with_it(tmp_path, capsys) -> None:
    assert cli.main(["completion", "bash"]) == 0
    (tmp_path / "vss").write_text(capsys.readouterr().out)
    ask = 'source ./vss; COMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_vss; echo "${{COMPREPLY[@]}}"'
    for words, expected in (("vss pred", "predict"), ("vss score --split v", "val"), ("vss models --j", "--json")):
        done = subprocess.run(
            ["bash", "-c", ask.format(words)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected], words
