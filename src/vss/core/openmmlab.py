"""Keeps OpenMMLab's libraries, where this package imports them, from importing two large ones that it never uses so.

Where they are installed, MMEngine imports transformers for one optimizer and MMSegmentation timm for one backbone:
seconds at the start of every process that touches a model. Imports of OpenMMLab's libraries by others bring them along.
"""

from __future__ import annotations

import sys
from types import FrameType

_KEPT_OUT = ("timm", "transformers")
_OPENMMLAB = ("mmcv", "mmengine", "mmseg")


class _Absent:
    """A finder (`sys.meta_path`) that answers as if the libraries were not installed, where `_is_ours` holds."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        if fullname in _KEPT_OUT and _is_ours(sys._getframe(1)):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _is_ours(frame: FrameType | None) -> bool:
    """Returns whether an import is OpenMMLab's, during one of OpenMMLab's libraries by a module of this package.

    Args:
        frame: the innermost one of the import.
    """
    importing = []  # packages whose import statements are being executed, innermost first
    while frame is not None and (not importing or importing[-1] in _OPENMMLAB):
        package = str(frame.f_globals.get("__package__") or frame.f_globals.get("__name__")).partition(".")[0]
        if package != "importlib":
            importing.append(package)
        frame = frame.f_back
    return len(importing) > 1 and importing[-1] == "vss"


def keep_out_large_libraries() -> None:
    """Installs the finder."""
    if _Absent not in sys.meta_path:
        sys.meta_path.insert(0, _Absent)  # type: ignore[arg-type]  # a class with the method is a finder
