"""The rows: one MMEngine config file for every model and dataset it is trained on; the file's name is the row's name.

A row holds named numbers (crop_size, batch_size, optim_wrapper, ...) and the model, inheriting from `_base_`;
`vss.train.config` derives the pipeline and the schedules from them. Listing rows imports neither torch nor MMEngine.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Returns the names of all rows, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def source_files(name: str) -> list[Path]:
    """Returns the row's file and those it inherits from, the row first."""
    files, todo = [], [FOLDER / f"{name}.py"]
    while todo:
        path = todo.pop(0)
        files.append(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_base_":
                bases = ast.literal_eval(node.value)
                todo.extend(path.parent / base for base in ([bases] if isinstance(bases, str) else bases))
    return files


def digest(name: str) -> str:
    """Returns 16 hexadecimal digits that change exactly when a value in the row's files changes, not with comments."""
    trees = [ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in source_files(name)]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]
