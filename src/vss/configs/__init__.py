"""The rows: one MMEngine config file for every model and dataset it is trained on; the file's name is the row's name.

A row holds named numbers (crop_size, batch_size, optim_wrapper, ...) and the model, inheriting from `_base_`;
`vss.train.config` derives the pipeline and the schedules from them. Listing rows imports neither torch nor MMEngine.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Returns the names of all rows, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
