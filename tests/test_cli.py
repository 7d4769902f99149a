"""The command line: what ends in one line and which exit status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vss import cli
from vss.core.errors import UserError
from vss.workflow import lease

COMMAND = ["lease", "1", "--", "true"]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("key: wrong"), 2, "vss lease: key: wrong\n"),
        (PermissionError(13, "Permission denied", "/ro/p"), 2, "vss lease: /ro/p: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "vss lease: No space left on device\n"),
        (OSError(18, "Invalid cross-device link", "aside", None, "w"), 2, "vss lease: w: Invalid cross-device link\n"),
        (KeyboardInterrupt(), 130, "vss lease: interrupted\n"),
    ],
)
def test_what_the_system_or_the_user_stops_is_one_line(error, status, said, monkeypatch, capsys) -> None:
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr(lease, "lease", fail)
    assert cli.main(COMMAND) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("b"), OSError("of a library"), BrokenPipeError("c")])
def test_mistakes_of_the_program_are_not_hidden(error, monkeypatch) -> None:
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr(lease, "lease", fail)
    with pytest.raises(type(error)):
        cli.main(COMMAND)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_is_no_error(lines) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "from vss import cli\nfrom vss.workflow import lease\n"
        f"lease.lease = lambda *_: [print('line') for _ in range({lines})]\n"
        f"raise SystemExit(cli.main({COMMAND}))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
