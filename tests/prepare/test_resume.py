"""A check of a dataset that was killed goes on after the files that it had checked."""

from __future__ import annotations

import pytest

from tests.raw_dataset import FRAMES, RawVspw, save_mask
from vss.core import unfinished
from vss.prepare import checks, resume


class KilledError(Exception):
    """Stands for the signal."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were checked; `stop` among them ends the job."""
    seen: list[str] = []
    check = checks.check_frame

    def noted(frame, **options):
        if "stop" in seen and len(seen) > 5:
            raise KilledError
        seen.append(frame.image)
        return check(frame, **options)

    monkeypatch.setattr(unfinished, "KEPT_EVERY", 0)
    monkeypatch.setattr(resume, "_AT_ONCE", 2)
    monkeypatch.setattr(checks, "check_frame", noted)
    return seen


def test_no_file_is_checked_twice(vspw: RawVspw, run_prepare, outputs, seen: list[str], capsys) -> None:
    save_mask(vspw.mask("v0", FRAMES[0]), 200)  # no label

    def run() -> dict[str, bytes]:
        run_prepare(vspw.root, on_problem="skip")
        return {path.name: path.read_bytes() for path in outputs.folder.iterdir()}

    undisturbed, whole = run(), list(seen)
    seen[:] = ["stop"]
    with pytest.raises(KilledError):
        run()
    before = seen[1:]
    seen.clear()
    assert run() == undisturbed
    kept = len(whole) - len(seen)
    assert kept == len(before) // 2 * 2 > 0
    assert before[:kept] + seen == whole
    assert f"{kept} files were checked by a run that was stopped" in capsys.readouterr().err


def test_files_that_changed_are_checked_again(vspw: RawVspw, run_prepare, outputs, seen: list[str]) -> None:
    seen[:] = ["stop"]
    with pytest.raises(KilledError):
        run_prepare(vspw.root)
    seen.clear()
    save_mask(vspw.mask("v0", FRAMES[0]), 3)
    run_prepare(vspw.root)
    assert len(seen) == 12
    assert not list(outputs.folder.glob(".*"))
