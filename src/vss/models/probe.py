"""What a step of a model takes, found without taking it: bytes, operations, and what a device has.

The model is made of meta or fake tensors, which have shapes but no data, and one micro-batch goes through it, forward
and, for a training, backward; a dispatch mode adds up the storages that are alive. So gradient checkpointing, autocast
and the backward pass are counted as they happen, for any model, in seconds and without memory. Not counted: workspaces
of kernels and the allocator's fragmentation, for which `HEADROOM` stands.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

HEADROOM = 1.15  # factor on activations
CONTEXT_BYTES = 600 * 2**20  # what CUDA takes for itself
# Share of the speed of a large matrix product that these models reach; for the estimate of time only.
_EFFICIENCY = 0.35
_GIB = 2**30


@dataclass(frozen=True)
class Step:
    """What a step takes.

    Attributes:
        model: bytes of parameters and buffers.
        peak: most bytes alive at one time besides them.
        flops: of the forward pass.
        shape: of the result.
    """

    model: int
    peak: int
    flops: float
    shape: tuple[int, ...]


class Meter(TorchDispatchMode):
    """Counts what runs inside the block.

    Attributes:
        peak: most bytes alive at one time, of storages made inside; those of `known` tensors are not counted.
        flops: floating-point operations of matrix products and convolutions (torch.utils.flop_counter's formulas).
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = 0
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        self._alive.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def probe(
    model: nn.Module, shape: tuple[int, ...], precision: str, function: Callable[[nn.Module, Tensor], Tensor]
) -> Step:
    """Runs `function(model, images)` on fake tensors, and backward if it gives a gradient.

    Args:
        model: on the meta device (`build_on_meta`), in the mode it is to run in; of no use afterwards.
        shape: of the images, [N, 3, H, W].
        precision: "float32", or the dtype of autocast.
        function: what a step computes.
    """
    vars(model)["_uses_ops"] = False  # `Segmentor`'s cached answer: the ops' check of themselves computes numbers
    with contextlib.ExitStack() as stack:
        recomputes = torch.is_grad_enabled() and any(getattr(part, "with_cp", False) for part in model.modules())
        if precision == "float32" and not recomputes:
            images = torch.empty(shape, device="meta")  # a fifth of the time of fake tensors
        else:  # autocast and gradient checkpointing ask which device it is
            fake = stack.enter_context(FakeTensorMode())
            fake.allow_non_fake_inputs = True  # constants that modules keep as plain tensors
            model, images = model.to_empty(device="cpu"), torch.empty(shape)
            stack.enter_context(torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"))
        weights = [*model.parameters(), *model.buffers()]
        with Meter(weights) as meter:
            result = function(model, images)
            forward = meter.flops  # the formulas overcount the backward pass of grouped convolutions
            if result.requires_grad:
                result.backward()
    return Step(sum(tensor.nbytes for tensor in weights), meter.peak, forward, tuple(result.shape))


def memory_of(device: torch.device) -> int:
    """Returns the bytes a GPU has, or the machine for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def seconds_for(flops: float, device: torch.device, precision: str) -> float:
    """Returns roughly how long a device takes for a model's operations; measures it for some milliseconds."""
    on_gpu = device.type == "cuda"
    side = 4096 if on_gpu else 512
    a = torch.rand(side, side, device=device, dtype=getattr(torch, precision) if on_gpu else torch.float32)
    float((a @ a)[0, 0])  # waits for the device
    start = time.perf_counter()
    for _ in range(3):
        product = a @ a
    float(product[0, 0])
    speed = 3 * 2 * side**3 / (time.perf_counter() - start)
    return flops / (speed * _EFFICIENCY)


def readable_bytes(size: float) -> str:
    """Returns a number of bytes in MiB or GiB."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / 2**20:.0f} MiB"


def readable_time(seconds: float) -> str:
    """Returns a duration in the unit that suits it."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
