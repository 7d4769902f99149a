"""What a training or an inference will need, before it starts: memory by kind, and time.

The model is built of fake tensors, which have shapes but no data, and one micro-batch goes forward and backward through
it; a dispatch mode adds up the storages that are alive. So gradient checkpointing, autocast and the backward pass are
counted as they happen, for any model, in seconds and without memory. Not counted: workspaces of
kernels and the allocator's fragmentation, for which `HEADROOM` stands.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vss.errors import UserError
from vss.models.build import build_on_meta
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
        flops: of one image, forward.
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


def training(config: Mapping[str, Any], *, images: int) -> Estimate:
    """Estimates one process of a training that holds `images` images at once.

    Args:
        config: as `published_settings` returns it.
    """
    training, crop_size = config["training"], config["training"]["crop_size"]
    model = build_on_meta(config["model"]).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # takes one image too, and as much memory
    held, meter = _step(model, (images, 3, *crop_size), training["precision"], _loss_like)
    gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    averaged = held if training["ema"] else 0
    return Estimate(
        parameters=held + averaged,
        gradients=gradients,
        optimizer=2 * gradients,  # AdamW's two moments
        activations=max(meter.peak - gradients, 0),
        count=sum(parameter.numel() for parameter in model.parameters()),
        flops=meter.flops / images,
    )


def inference(config: Mapping[str, Any], *, height: int, width: int, images: int, precision: str) -> Estimate:
    """Estimates inference on `images` views of height x width at once, scores at that size included."""
    model = build_on_meta(config["model"]).eval()
    with torch.no_grad():
        held, meter = _step(model, (images, 3, height, width), precision, _resized)
    return Estimate(
        parameters=held,
        gradients=0,
        optimizer=0,
        activations=meter.peak,
        count=sum(parameter.numel() for parameter in model.parameters()),
        flops=meter.flops / images,
    )


def _step(
    model: nn.Module, shape: tuple[int, ...], precision: str, function: Callable[[nn.Module, Tensor], Tensor]
) -> tuple[int, Meter]:
    """Runs `function` on fake tensors, and backward if it gives a gradient.

    Returns the bytes of the model, and what the step took.
    """
    autocast = torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32")
    with FakeTensorMode() as fake:
        fake.allow_non_fake_inputs = True  # constants that modules keep as plain tensors
        model._uses_ops = False  # the ops' check of themselves computes numbers
        model = model.to_empty(device="cpu")
        weights = [*model.parameters(), *model.buffers()]
        images = torch.empty(shape)
        with Meter(weights) as meter, autocast:
            result = function(model, images)
            forward = meter.flops
            if result.requires_grad:
                result.backward()
    # The formulas overcount the backward pass of grouped convolutions.
    meter.flops = forward
    return sum(tensor.nbytes for tensor in weights), meter


def _loss_like(model: nn.Module, images: Tensor) -> Tensor:
    """Returns a scalar that depends on everything the loss depends on; losses themselves ask for values."""
    features = model.extract_feat(images)
    logits = [tensor for tensor in tree_leaves(model.decode_head(features)) if isinstance(tensor, Tensor)]
    if model.with_auxiliary_head:
        logits.append(model.auxiliary_head(features))
    if hasattr(model.decode_head, "probabilities"):
        return sum(tensor.float().sum() for tensor in logits)  # that loss is taken at sampled points
    size = images.shape[-2:]
    resized = [nn.functional.interpolate(tensor, size=size, mode="bilinear") for tensor in logits]
    return sum(tensor.float().log_softmax(1).sum() for tensor in resized)


def _resized(model: nn.Module, images: Tensor) -> Tensor:
    return nn.functional.interpolate(model.class_logits(images).float(), size=images.shape[-2:], mode="bilinear")


def check_training(config: Mapping[str, Any], *, gpus: int, what: str) -> int:
    """Prints the estimate of a training and returns how many images a process should hold at once.

    That is `micro_batch` where it is set; else a GPU's whole share of the batch, or the largest part of it that fits.

    Raises:
        UserError: it needs more memory than the device, or the machine, has; or batch norm would see a single image.
    """
    settings = config["training"]
    device, room = _device(gpus)
    share = -(-settings["batch_size"] // max(gpus, 1))
    images = min(settings["micro_batch"] or share, share)
    if images < _fewest(config, gpus):
        raise UserError(
            f"{what}: batch norm alone on one device cannot train on 1 image at once; raise batch_size and micro_batch "
            f"to 2 or more, or set norm_cfg of the heads to {{type: GN, num_groups: 32}}"
        )
    found = training(config, images=images)
    if settings["micro_batch"] is None and _needed(found, gpus) > room:
        images = _largest_part(found, images, _fewest(config, gpus), gpus, room)
        found = training(config, images=images)
    _print_table(found, config, images, share, gpus, what)
    if _needed(found, gpus) > room:
        raise UserError(
            f"{what}: needs about {_needed(found, gpus) / _GIB:.1f} GiB on {device}, which has {room / _GIB:.1f}, with "
            f"{images} images at once; lower micro_batch or crop_size, set grad_checkpoint, or use precision bfloat16"
        )
    return images


def _fewest(config: Mapping[str, Any], gpus: int) -> int:
    """Returns the fewest images a step can take: UperNet's norms after pooling to one pixel need two on one device."""
    return 2 if gpus <= 1 and _has_batch_norm(config["model"]) else 1


def _has_batch_norm(value: Any) -> bool:
    if isinstance(value, Mapping):
        return value.get("type") in ("BN", "SyncBN") or any(map(_has_batch_norm, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_batch_norm, value))


def _largest_part(found: Estimate, images: int, fewest: int, gpus: int, room: int) -> int:
    """Returns the largest divisor of `images`, at least `fewest`, whose activations fit; else the smallest."""
    fixed = _needed(found, gpus) - found.activations * HEADROOM
    parts = [part for part in range(images, fewest - 1, -1) if images % part == 0]
    fitting = (part for part in parts if fixed + found.activations * HEADROOM * part / images < 0.97 * room)
    return next(fitting, parts[-1])


def _needed(found: Estimate, gpus: int) -> int:
    return found.total + _buckets(found, gpus) + (CONTEXT_BYTES if gpus else 0)


def _buckets(found: Estimate, gpus: int) -> int:
    return found.gradients if gpus > 1 else 0  # DistributedDataParallel exchanges copies of the gradients


def _print_table(found: Estimate, config: Mapping[str, Any], images: int, share: int, gpus: int, what: str) -> None:
    settings, (device, room) = config["training"], _device(gpus)
    height, width = settings["crop_size"]
    pieces = f" in pieces of {images}" if images < share else ""
    say(
        f"{what}: {found.count / 1e6:.1f} M parameters, {settings['max_iters']} iterations of {settings['batch_size']} "
        f"images of {height}x{width}{pieces}, {settings['precision']}, on {device}"
    )
    rows = {
        "parameters": found.parameters,
        "gradients": found.gradients + _buckets(found, gpus),
        "optimizer": found.optimizer,
        f"activations of {images} images": round(found.activations * HEADROOM),
        "needed": _needed(found, gpus),
        "there are": room,
    }
    for name, size in rows.items():
        say(f"  {name:<28}{size / _GIB:8.2f} GiB")
    say(f"  {'time, very roughly':<28}{_clock(_seconds(found, settings, gpus)):>8}")


def _device(gpus: int) -> tuple[str, int]:
    """Returns a device's name and the bytes it has (the machine's memory, without a GPU)."""
    if gpus:
        properties = torch.cuda.get_device_properties(0)
        return f"{gpus} x {properties.name}", properties.total_memory
    return f"CPU ({torch.get_num_threads()} threads)", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _seconds(found: Estimate, settings: Mapping[str, Any], gpus: int) -> float:
    passes = 4 if settings["grad_checkpoint"] else 3  # a backward pass costs two forward passes
    images = settings["max_iters"] * settings["batch_size"]
    return passes * images * found.flops / (_speed(gpus, settings["precision"]) * _EFFICIENCY * max(gpus, 1))


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
