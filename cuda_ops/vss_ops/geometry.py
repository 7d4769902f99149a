"""The geometry of a DCNv3 kernel: one description that every implementation reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """Kernel geometry of one DCNv3 call; pairs are (height, width)."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    group: int
    group_channels: int
    offset_scale: float
    remove_center: bool

    @property
    def points(self) -> int:
        """Number of sampling points of a group."""
        return self.kernel_size[0] * self.kernel_size[1] - int(self.remove_center)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (Ho, Wo) for an input of (height, width), as a convolution does."""
        sizes = zip((height, width), self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        Ho, Wo = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)
        return Ho, Wo

    def half(self) -> tuple[int, int]:
        """Returns the distance (y, x) from the first kernel point to the centre, in input pixels."""
        y, x = ((d * (k - 1)) // 2 for k, d in zip(self.kernel_size, self.dilation, strict=True))
        return y, x

    def first_centre(self) -> tuple[int, int]:
        """Returns (x, y) of the kernel centre of output pixel (0, 0), in input pixels."""
        half_y, half_x = self.half()
        return half_x - self.padding[1], half_y - self.padding[0]


def pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Returns (height, width) of an int or a pair; ValueError names the argument otherwise."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise ValueError(f"vss_ops: {name} must be an int or a (height, width) pair of ints, got {value!r}")
