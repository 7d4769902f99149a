"""How many frames go through the network at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_SHARE_OF_FREE_MEMORY = 0.8


class ForwardBudget:
    """Learns a network's memory a pixel from the forwards that ran, and bounds the next one by it.

    On a CPU the answer is always one frame, see `vss.infer.engine`.

    Args:
        device: where the network runs.
        limit: bytes a forward may use; None = most of what is free when first asked.
    """

    def __init__(self, device: torch.device, limit: int | None = None) -> None:
        self._device, self._limit = device, limit
        self.bytes_per_pixel: float | None = None

    def frames_at_once(self, pixels: int, frames: int) -> int:
        """Returns how many of `frames` frames, `pixels` network input pixels each, one forward may hold; at least 1."""
        if self._device.type == "cpu" or self.bytes_per_pixel is None:
            return 1
        return max(1, min(frames, int(self._available() // (self.bytes_per_pixel * pixels))))

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
        """Takes note of a forward over `pixels` pixels that used `used` bytes."""
        self.bytes_per_pixel = max(self.bytes_per_pixel or 0.0, used / pixels)

    def shrink(self) -> None:
        """Halves the budget after a forward that did not fit."""
        self._limit = self._available() // 2

    def _available(self) -> int:
        if self._limit is None:
            free, _ = torch.cuda.mem_get_info(self._device)
            cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            self._limit = int(_SHARE_OF_FREE_MEMORY * (free + cached))
        return self._limit
