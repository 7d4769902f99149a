"""A cache that is bounded by the bytes it holds, where `functools.lru_cache` counts entries."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

Result = TypeVar("Result")
_ENTRY = 256  # bytes that an entry takes by itself, so that empty results count too


def cached_up_to(
    limit: int, nbytes: Callable[[Result], int]
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Decorates a function of hashable arguments to keep results up to `limit` bytes; the least recently used go first.

    Args:
        limit: bytes held at most. A result larger than that is returned and not kept.
        nbytes: bytes of a result.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        kept: OrderedDict[Hashable, Result] = OrderedDict()
        lock = threading.Lock()
        held = 0

        @functools.wraps(function)
        def cached(*arguments: Hashable) -> Result:
            nonlocal held
            with lock:
                if arguments in kept:
                    kept.move_to_end(arguments)
                    return kept[arguments]
            result = function(*arguments)  # unlocked: threads that miss at once compute the same
            size = nbytes(result) + _ENTRY
            with lock:
                if arguments not in kept and size <= limit:
                    kept[arguments] = result
                    held += size
                while held > limit:
                    held -= nbytes(kept.popitem(last=False)[1]) + _ENTRY
            return result

        return cached

    return decorate
