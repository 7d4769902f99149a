"""How many frames go through the network at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_SHARE_OF_FREE_MEMORY = 0.8


class ForwardBudget:
    """Learns from past forwards what memory a network needs, and bounds the next one by it.

    A forward takes a fixed amount (under autocast a copy of the weights: 2.2 GB of InternImage-H) and an amount per
    pixel. Before forwards of two sizes have run, all of it counts as the latter. On a CPU the answer is always one
    frame, see `vss.infer.engine`.

    Args:
        device: where the network runs.
        limit: bytes a forward may use; None = most of what is free at the first forward.
    """

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        self._device, self._limit = device, limit
        self._used: dict[int, int] = {}  # pixels of a forward: bytes, the most that one took

    def frames_at_once(self, pixels: int, frames: int) -> int:
        """Returns how many of `frames` frames, `pixels` network input pixels each, one forward may hold; at least 1."""
        if self._device.type == "cpu" or not self._used:
            return 1
        fixed, per_pixel = self._line()
        return max(1, min(frames, int((self._available() - fixed) // (per_pixel * pixels))))

    def _line(self) -> tuple[float, float]:
        """Returns bytes of any forward and bytes per pixel: a line that no forward so far exceeded."""
        (fewest, least), (most, largest) = min(self._used.items()), max(self._used.items())
        if largest <= least or most < 1.5 * fewest:  # no line through two sizes that are nearly one
            return 0.0, max(used / pixels for pixels, used in self._used.items())
        slope = (largest - least) / (most - fewest)
        return max(0.0, *(used - slope * pixels for pixels, used in self._used.items())), slope

    @contextlib.contextmanager
    def measured(self, pixels: int) -> Iterator[None]:
        """Measures the peak memory of the forward inside the block."""
        if self._device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        yield
        self.observe(torch.cuda.max_memory_allocated(self._device) - before, pixels)

    def observe(self, used: int, pixels: int) -> None:
        """Records a forward over `pixels` pixels that used `used` bytes."""
        self._used[pixels] = max(self._used.get(pixels, 0), used)

    def shrink(self) -> None:
        """Halves the budget after a forward that did not fit."""
        self._limit = self._available() // 2

    def _available(self) -> int:
        if self._limit is None:
            free, _ = torch.cuda.mem_get_info(self._device)
            cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            self._limit = int(_SHARE_OF_FREE_MEMORY * (free + cached))
        return self._limit
