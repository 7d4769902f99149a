"""The check for a machine with a GPU is rehearsed on the CPU: every part runs, and a failing one is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu_check


def test_the_rehearsal_runs_every_part(cpp_kernels: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "gpu_check.json"
    status = gpu_check.main(["--rehearse", "--out", str(out)])
    parts = json.loads(out.read_text())["parts"]
    assert status == 0, [part for part in parts if not part["ok"]]
    assert [part["part"] for part in parts] == [name for name, _ in gpu_check._parts(gpu_check.REHEARSAL, tmp_path)]
    table = out.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert all(f"| {part['part']} | yes |" in table for part in parts)


def test_a_failing_part_is_an_entry_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails() -> dict:
        raise RuntimeError("CUDA error: out of memory\nand more lines")

    parts = [("first", fails), ("second", lambda: {"value": 1})]
    monkeypatch.setattr(gpu_check, "_parts", lambda scale, folder: iter(parts))
    out = tmp_path / "gpu_check.json"
    assert gpu_check.main(["--rehearse", "--out", str(out)]) == 1
    first, second = json.loads(out.read_text())["parts"]
    assert not first["ok"] and first["result"] == {"error": "RuntimeError: CUDA error: out of memory"}
    assert second["ok"] and second["result"] == {"value": 1}


def test_no_part_starts_late(tmp_path: Path):
    out = tmp_path / "gpu_check.json"
    assert gpu_check.main(["--rehearse", "--minutes", "-1", "--out", str(out)]) == 1
    assert all(part["result"] == {"skipped": "no time left"} for part in json.loads(out.read_text())["parts"])
