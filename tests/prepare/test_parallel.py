"""How many processes are started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vss.prepare.parallel import usable_cores


@pytest.mark.parametrize(
    ("written", "cores"),
    [("max 100000\n", 8), ("150000 100000\n", 2), ("50000 100000\n", 1), ("9900000 100000\n", 8), ("", 8), (None, 8)],
)
def test_a_quota_counts_where_it_is_less_than_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    if written is not None:
        (tmp_path / "cpu.max").write_text(written)
    assert usable_cores(tmp_path / "cpu.max") == cores
