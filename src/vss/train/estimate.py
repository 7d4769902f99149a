"""What a training or an inference will need, before it starts: memory by kind, and time.

The model is built on the meta device, where tensors have shapes but no data, and one micro-batch goes forward and
backward through it; a dispatch mode adds up the storages that are alive. So gradient checkpointing, autocast and the
backward pass are counted as they happen, for any model, in seconds and without memory. Not counted: workspaces of
kernels and the allocator's fragmentation, for which `HEADROOM` stands.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vss.errors import UserError
from vss.models.build import build_segmentor
from vss.progress import say

HEADROOM = 1.15  # factor on activations
CONTEXT_BYTES = 600 * 2**20  # what CUDA takes for itself
# Share of the speed of a large matrix product that these models reach; for the estimate of time only.
_EFFICIENCY = 0.35
_GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """Bytes by kind, and floating-point operations.

    Attributes:
        parameters, gradients, optimizer: bytes held throughout.
        activations: peak of everything else alive during one step.
        count: number of parameters.
        flops: of one image, forward (and backward, where there is one).
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    count: int
    flops: float

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        return self.parameters + self.gradients + self.optimizer + round(self.activations * HEADROOM)


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of storages made inside the block; `peak` is the most alive at one time.

    Storages that exist already (the parameters) are not counted.
    """

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
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


def training(config: Mapping[str, Any], *, images: int) -> Estimate:
    """Estimates one process of a training that holds `images` images at once.

    Args:
        config: as `published_settings` returns it.
    """
    training, crop_size = config["training"], config["training"]["crop_size"]
    with torch.device("meta"):
        model = build_segmentor(config["model"]).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    gradients = sum(parameter.nbytes for parameter in parameters)
    averaged = held if training["ema"] else 0
    with FlopCounterMode(display=False) as flops, _autocast(training["precision"]):
        live = LiveBytes(iter([*model.parameters(), *model.buffers()]))
        with live:
            _scores(model, torch.empty(images, 3, *crop_size, device="meta")).backward()
    return Estimate(
        parameters=held + averaged,
        gradients=gradients,
        optimizer=2 * gradients,  # AdamW's two moments
        activations=max(live.peak - gradients, 0),
        count=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops.get_total_flops() / images,
    )


def inference(config: Mapping[str, Any], *, height: int, width: int, images: int, precision: str) -> Estimate:
    """Estimates inference on `images` views of height x width at once, scores at that size included."""
    with torch.device("meta"):
        model = build_segmentor(config["model"]).eval()
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    live = LiveBytes(iter([*model.parameters(), *model.buffers()]))
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _autocast(precision), live:
        logits = model.class_logits(torch.empty(images, 3, height, width, device="meta"))
        nn.functional.interpolate(logits.float(), size=(height, width), mode="bilinear")
    return Estimate(
        parameters=held,
        gradients=0,
        optimizer=0,
        activations=live.peak,
        count=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops.get_total_flops() / images,
    )


def _scores(model: nn.Module, images: Tensor) -> Tensor:
    """Returns a scalar that depends on everything the loss depends on; losses themselves ask for values."""
    features = model.extract_feat(images)
    outputs = model.decode_head(features)
    logits = [tensor for tensor in tree_leaves(outputs) if isinstance(tensor, Tensor)]
    if model.with_auxiliary_head:
        logits.append(model.auxiliary_head(features))
    if hasattr(model.decode_head, "probabilities"):
        return sum(tensor.float().sum() for tensor in logits)  # the loss is taken at sampled points
    size = images.shape[-2:]
    resized = [nn.functional.interpolate(tensor, size=size, mode="bilinear") for tensor in logits]
    return sum(tensor.float().log_softmax(1).sum() for tensor in resized)


@contextmanager
def _autocast(precision: str) -> Iterator[None]:
    if precision == "float32":
        yield
    else:
        # What autocast would do on a GPU, applied to meta tensors.
        with torch.autocast("meta", dtype=getattr(torch, precision)):
            yield


def check_training(config: Mapping[str, Any], *, gpus: int, what: str) -> None:
    """Prints the estimate of a training and stops where it cannot fit.

    Raises:
        UserError: it needs more memory than the device, or the machine, has.
    """
    settings = config["training"]
    share = -(-settings["batch_size"] // max(gpus, 1))
    images = min(settings["micro_batch"] or share, share)
    found = training(config, images=images)
    needed = found.total + (CONTEXT_BYTES if gpus else 0)
    device, room = _device(gpus)
    rows = [("parameters", found.parameters), ("gradients", found.gradients), ("optimizer", found.optimizer)]
    rows.append((f"activations of {images} images", round(found.activations * HEADROOM)))
    height, width = settings["crop_size"]
    say(
        f"{what}: {found.count / 1e6:.1f} M parameters, {settings['max_iters']} iterations of {settings['batch_size']} "
        f"images of {height}x{width}, {settings['precision']}, on {device}"
    )
    for name, size in rows:
        say(f"  {name:<28}{size / _GIB:8.2f} GiB")
    say(f"  {'needed':<28}{needed / _GIB:8.2f} GiB of {room / _GIB:.2f}")
    say(f"  time, very roughly          {_clock(_seconds(found, settings, gpus))}")
    if needed > room:
        raise UserError(
            f"{what}: needs about {needed / _GIB:.1f} GiB on {device}, which has {room / _GIB:.1f}; lower micro_batch "
            f"(now {images}) or crop_size, set grad_checkpoint, or use precision bfloat16"
        )


def _device(gpus: int) -> tuple[str, int]:
    """Returns a device's name and the bytes it has (free memory of the machine, without a GPU)."""
    if gpus:
        properties = torch.cuda.get_device_properties(0)
        return f"{gpus} x {properties.name}", properties.total_memory
    return f"CPU ({torch.get_num_threads()} threads)", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _seconds(found: Estimate, settings: Mapping[str, Any], gpus: int) -> float:
    images = settings["max_iters"] * settings["batch_size"]
    return images * found.flops / (_speed(gpus, settings["precision"]) * _EFFICIENCY * max(gpus, 1))


def _speed(gpus: int, precision: str) -> float:
    """Returns the floating-point operations a second of a matrix product, measured in some milliseconds."""
    device = "cuda" if gpus else "cpu"
    side = 4096 if gpus else 512
    a = torch.rand(side, side, device=device, dtype=getattr(torch, precision) if gpus else torch.float32)
    a @ a
    start = time.perf_counter()
    for _ in range(3):
        product = a @ a
    float(product[0, 0])  # waits for the device
    return 3 * 2 * side**3 / (time.perf_counter() - start)


def _clock(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
