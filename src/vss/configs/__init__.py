"""Configs: rows, and how a row, a protocol and a user's options resolve to one config.

Listing the rows imports neither torch nor MMEngine.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "rows"
TIMM = "timm:"  # begins a row that has no file: any backbone of timm under UperNet


def names() -> list[str]:
    """Returns the names of all rows, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def is_row(name: str) -> bool:
    """Returns whether a row is listed, or is `timm:NAME`; whether timm has such a backbone shows when it is built."""
    return name in names() or (name.startswith(TIMM) and name != TIMM)
