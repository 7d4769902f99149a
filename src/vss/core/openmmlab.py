"""Keeps OpenMMLab's libraries from importing two large ones that this project never uses through them.

Where they are installed, MMEngine imports transformers for one optimizer and MMSegmentation timm for one backbone:
seconds at the start of every process that touches a model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

_KEPT_OUT = ("timm", "transformers")
_OPENMMLAB = ("mmengine", "mmseg")


class _Absent(MetaPathFinder):
    """Answers OpenMMLab's imports of the libraries as if they were not installed, and nobody else's."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if fullname in _KEPT_OUT and _importing_module().partition(".")[0] in _OPENMMLAB:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _importing_module() -> str:
    """Returns the name of the module whose import statement is being executed."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "importlib._bootstrap"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


def keep_out_large_libraries() -> None:
    """Installs the rule for the rest of the process."""
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Absent())
