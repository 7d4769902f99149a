"""What benchmarks share: where the small real data are, and how rows are written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vss.core.files import write_text


def shared_folder() -> Path:
    """Returns the path of the folder `shared` next to the checkout, which is not part of it and may be absent."""
    return Path(__file__).resolve().parents[2] / "shared"


def write_rows(path: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a benchmark's rows as a JSON list."""
    write_text(path, json.dumps(rows, indent=2, allow_nan=False) + "\n")
