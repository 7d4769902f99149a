"""Video semantic segmentation: train, run, ensemble, refine and score models.

The public names are those of `__all__`; each is imported when it is first used (PEP 562), so that `import vss` costs
nothing. See docs/library.md.
"""

from __future__ import annotations

import importlib
from typing import Any

from vss.core.openmmlab import keep_out_large_libraries

__version__ = "0.1.0"
__all__ = ["Engine", "Model", "UserError", "__version__", "compare", "load", "models", "score"]

_MODULES = {
    "Engine": "vss.infer.engine",
    "Model": "vss.api",
    "UserError": "vss.core.errors",
    "compare": "vss.score.compare",
    "load": "vss.api",
}
# Packages that can be called, see `vss.core.callable_package`.
_PACKAGES = ("models", "score")

keep_out_large_libraries()


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"vss.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'vss' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
