"""How many items a device works on at once: fewer after they did not fit into its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vss.core.log import log

Result = TypeVar("Result")


class BatchSize:
    """The most items that go to a device at once: no bound at first, halved whenever its memory is full.

    Args:
        what: starts the line that is logged then.
        unit: plural noun of the items.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self.limit: int | None = None

    def run(self, work: Callable[[int], Result], size: int) -> Result:
        """Returns `work(size)`, or of half as many, again and again, where the GPU's memory is full.

        Args:
            work: is given how many items to work on at once; may be called several times.
            size: the most items that are requested.

        Raises:
            torch.OutOfMemoryError: not even one fits.
        """
        import torch  # here, so that what needs no GPU can import this module

        size = min(size, self.limit or size)
        while True:
            try:
                return work(size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            # Out here, where the error no longer holds the tensors of the call that failed.
            torch.cuda.empty_cache()
            size = self.limit = size // 2
            log(f"{self._what}: the GPU's memory is full; {self._unit} at once from here on: {size}")
