"""The size that a frame is resized to for a network: mmcv's `rescale_size` and `ResizeToMultiple`, as arithmetic."""

from __future__ import annotations

Size = tuple[int, int]  # (height, width)


def fitted_into(frame: Size, scale: tuple[float, float]) -> Size:
    """Returns the size that fits a frame into a scale, longer side to longer side, rounded half up."""
    height, width = frame
    factor = min(max(scale) / max(frame), min(scale) / min(frame))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def rounded_up(size: Size, divisor: int | None, least: int = 1) -> Size:
    """Returns the next multiples of `divisor` (None = 1) that are at least the sides and `least`."""
    divisor = divisor or 1
    return tuple(-(-max(side, least) // divisor) * divisor for side in size)
