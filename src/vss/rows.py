"""The rows of src/vss/configs as the workflow sees them: their names, and what they resolve to.

Free of torch: a dry run asks for every row it trains.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from vss.errors import UserError
from vss.formats import canonical_json

_CONFIGS = Path(__file__).parent / "configs"


def row_names() -> list[str]:
    """Returns the names of all rows: the config files outside `_base_`."""
    return sorted(path.stem for path in _CONFIGS.glob("*.py") if not path.stem.startswith("_"))


def row_file(name: str) -> Path:
    """Returns the config file of a row.

    Raises:
        UserError: there is no such row.
    """
    if name not in row_names():
        raise UserError(f"config row {name!r}: no such row; allowed: {', '.join(row_names())}")
    return _CONFIGS / f"{name}.py"


@functools.cache
def row_digest(name: str) -> str:
    """Returns 16 hexadecimal digits that change exactly when a value of the row, its bases included, changes."""
    from mmengine.config import Config

    config: dict[str, Any] = Config.fromfile(row_file(name), lazy_import=False).to_dict()
    return hashlib.sha256(canonical_json(_plain(config)).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
