"""Random arguments for the two ops, and the one way the tests run and compare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import vss_ops
from torch import Tensor
from vss_ops import reference
from vss_ops.geometry import Window


@dataclass(frozen=True)
class Dcn:
    """Arguments of a `dcnv3` call, drawn from `seed`."""

    N: int
    H: int
    W: int
    window: Window
    softmax: bool = False
    reach: float = 1.5  # standard deviation of the offsets, in pixels
    seed: int = 0

    def tensors(self, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
        draw = _Draw(self.seed, dtype, device)
        Ho, Wo = self.window.output_size(self.H, self.W)
        channels, points = self.window.group * self.window.group_channels, self.window.group * self.window.points
        return [
            draw.normal(self.N, self.H, self.W, channels),
            draw.normal(self.N, Ho, Wo, points * 2) * self.reach,
            draw.normal(self.N, Ho, Wo, points),
        ]

    def run(self, *tensors: Tensor) -> Tensor:
        return vss_ops.dcnv3(*tensors, **self.window._asdict(), softmax=self.softmax)

    def exact(self, *tensors: Tensor) -> Tensor:
        return reference.dcnv3(*tensors, self.window, self.softmax)


@dataclass(frozen=True)
class Attention:
    """Arguments of a `ms_deform_attn` call, drawn from `seed`."""

    N: int
    Q: int
    M: int
    D: int
    P: int
    shapes: tuple[tuple[int, int], ...]
    softmax: bool = False
    spread: float = 1.6  # locations are uniform in a range this wide around 0.5
    seed: int = 0

    def tensors(self, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
        draw = _Draw(self.seed, dtype, device)
        levels = len(self.shapes)
        locations = draw.uniform(self.N, self.Q, self.M, levels, self.P, 2)
        return [
            draw.normal(self.N, sum(h * w for h, w in self.shapes), self.M, self.D),
            0.5 + (locations - 0.5) * self.spread,
            draw.normal(self.N, self.Q, self.M, levels, self.P),
        ]

    def levels(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        shapes = torch.tensor(self.shapes, device=device)
        areas = shapes.prod(1)
        return shapes, areas.cumsum(0) - areas

    def run(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        levels = self.levels(value.device.type)
        return vss_ops.ms_deform_attn(value, *levels, locations, weights, softmax=self.softmax)

    def exact(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return reference.ms_deform_attn(value, *self.levels(value.device.type), locations, weights, self.softmax)


class _Draw:
    def __init__(self, seed: int, dtype: torch.dtype, device: str) -> None:
        self.generator, self.dtype, self.device = torch.Generator().manual_seed(seed), dtype, device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)


def with_gradients(
    run: Callable[..., Tensor], tensors: list[Tensor], rounded: torch.dtype | None = None
) -> list[Tensor]:
    """Returns the output and the gradients of a fixed weighted sum of it, of weights in `rounded`, for all tensors."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = run(*leaves)
    return [out.detach(), *torch.autograd.grad((out * seed_of(out, rounded or out.dtype).to(out)).sum(), leaves)]


def seed_of(out: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the weights of that sum, on the CPU."""
    return torch.linspace(-1, 1, max(1, out.numel()), dtype=torch.float64)[: out.numel()].reshape(out.shape).to(dtype)


def assert_close(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compares within `tolerance` of the largest expected value, tensor by tensor."""
    for number, (result, exact) in enumerate(zip(results, expected, strict=True)):
        assert result.shape == exact.shape
        scale = exact.abs().max().item() if exact.numel() else 1.0
        torch.testing.assert_close(
            result.double().cpu(),
            exact.double().cpu(),
            rtol=0,
            atol=tolerance * max(scale, 1e-6),
            msg=lambda m, n=number: f"tensor {n} (0 is the output): {m}",
        )


def window(
    kernel: int | tuple[int, int] = 3,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    group: int = 2,
    group_channels: int = 8,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Window:
    """Returns the usual 3 x 3 window, changed where named."""
    pairs = (v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, padding, dilation))
    return Window(*pairs, group, group_channels, offset_scale, remove_center)
