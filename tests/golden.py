"""Golden cases: what a case stores is compared, and a case that stores nothing to compare fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def stored_results(found: Mapping[str, T], stored: Mapping[str, Any], *, case: object) -> list[tuple[str, T, Any]]:
    """Returns (name, found, stored) of the results that a case stores; inputs of the case are not among `found`.

    Raises:
        AssertionError: the case stores none of them.
    """
    names = [name for name in found if name in stored]
    assert names, f"{case}: stores none of {', '.join(found)}"
    return [(name, found[name], stored[name]) for name in names]
