"""Settings of the refine stage: defaults, and one-line refusals of unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vss.core.errors import UserError


def with_defaults(settings: Mapping[str, Any], defaults: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Returns `defaults` updated by `settings`.

    Raises:
        UserError: a key that `defaults` does not have.
    """
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise UserError(f"{where}: unknown setting {unknown[0]!r}, allowed: {', '.join(sorted(defaults))}")
    return {**defaults, **settings}


def one_of(value: Any, allowed: Mapping[str, Any] | tuple[str, ...], *, where: str) -> Any:
    """Returns `value` if it is among `allowed`.

    Raises:
        UserError: it is not.
    """
    if value not in allowed:
        raise UserError(f"{where}: {value!r}, allowed: {', '.join(allowed)}")
    return value
