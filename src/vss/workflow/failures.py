"""Why a run failed, in one line per job; Snakemake's own last line says only that something failed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vss.core.log import printable


def failure_lines(snakemake_logs: Iterable[str | Path]) -> list[str]:
    """Returns a line for every job that failed in a run: its log, and the log's last line.

    Args:
        snakemake_logs: Snakemake's own logs of the run.
    """
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") for path in snakemake_logs if Path(path).exists()]
    found = re.findall(r"^ *log: (.+) \(check log file\(s\)", "\n".join(texts), re.MULTILINE)
    return [printable(f"failed: {log}: {last_line(log)}") for log in dict.fromkeys(found)]


def last_line(log: str | Path) -> str:
    """Returns the last line of a log that is not blank, "empty" where there is none."""
    path = Path(log)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return next(filter(None, map(str.strip, reversed(text.splitlines()))), "empty")
