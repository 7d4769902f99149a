"""Configs: rows, and how a row, a protocol and a user's options resolve to one config.

Listing the rows imports neither torch nor MMEngine.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "rows"


def names() -> list[str]:
    """Returns the names of all rows, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
