"""A package that can be called: `vss.score(...)` is a function, and a room of the same name."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


def make_callable(package: str, function: str) -> None:
    """Makes a call of an imported package call a function, which is imported at the first call.

    Args:
        package: name of the package, in `sys.modules`.
        function: "module:name".
    """
    module, _, name = function.partition(":")

    class CallablePackage(types.ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*arguments, **options)

    sys.modules[package].__class__ = CallablePackage
