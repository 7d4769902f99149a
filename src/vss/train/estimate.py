"""What a training will need, before it starts: memory by kind, and time; found by `vss.models.probe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vss.configs.resolve import with_checkpointing
from vss.configs.resolved import TrainingConfig, TrainingSettings
from vss.core.errors import UserError
from vss.core.log import log
from vss.models.build import build_on_meta
from vss.models.probe import CONTEXT_BYTES, HEADROOM, memory_of, probe, readable_time, seconds_for

_GIB = 2**30
# Activations are counted under the CPU's autocast, which keeps normalisations and softmax in the short type; CUDA's
# runs them in float32. With the casts of CUDA: Swin-L +6%, InternImage-B +11%, InternImage-H +21%.
_AUTOCAST = 1.2
_FILLED = 0.97  # share of the memory that what can be chosen may fill


@dataclass(frozen=True)
class TrainingEstimate:
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

    def sharded(self, ranks: int) -> TrainingEstimate:
        """Returns the estimate of one rank of a sharded training, which gathers at most all parameters once."""
        gathered = self.parameters if ranks > 1 else 0
        return replace(
            self,
            parameters=self.parameters // ranks + gathered,
            gradients=self.gradients // ranks,
            optimizer=self.optimizer // ranks,
        )


def estimate_training(config: TrainingConfig, *, images: int, gpus: int = 0) -> TrainingEstimate:
    """Estimates one process of a training that holds `images` images at once."""
    training = config.training
    model = build_on_meta(config.model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # takes one image too, and as much memory
    step = probe(model, (images, 3, *training.crop_size), training.precision, _loss_like)
    gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    averaged, autocast = step.model if training.ema else 0, training.precision != "float32"
    found = TrainingEstimate(
        parameters=step.model + averaged,
        gradients=gradients,
        optimizer=2 * gradients,  # AdamW's two moments
        activations=round(max(step.peak - gradients, 0) * (_AUTOCAST if gpus and autocast else 1)),
        count=sum(parameter.numel() for parameter in model.parameters()),
        flops=step.flops / images,
    )
    return found.sharded(max(gpus, 1)) if training.fsdp else found


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


def check_training(config: TrainingConfig, *, gpus: int, what: str) -> TrainingConfig:
    """Prints the estimate of a training and returns the config with `micro_batch` and `grad_checkpoint` filled in.

    Where they are not set: a GPU's whole share of the batch at once; if that does not fit, with activations recomputed
    (a third more time); if that does not, its largest part that fits.

    Raises:
        UserError: it needs more memory than the device, or the machine, has; or batch norm would see a single image.
    """
    settings = config.training
    device, room = _device(gpus)
    share = -(-settings.batch_size // max(gpus, 1))
    images, fewest = min(settings.micro_batch or share, share), _fewest(config, gpus)
    if images < fewest:
        raise UserError(
            f"{what}: batch norm alone on one device cannot train on 1 image at once; raise batch_size and micro_batch "
            f"to 2 or more, or set norm_cfg of the heads to {{type: GN, num_groups: 32}}"
        )

    # Keep the activations, or else recompute them, or else cut the batch into the largest parts that fit.
    for saving in (False, True) if settings.grad_checkpoint is None else (settings.grad_checkpoint,):
        chosen = _chosen(config, images, saving)
        found = estimate_training(chosen, images=images, gpus=gpus)
        if _needed(found, gpus, accumulates=images < share) < _FILLED * room:
            break
    else:
        if settings.micro_batch is None:
            images = _largest_part(found, images, fewest, gpus, room)
            chosen = _chosen(config, images, saving)
            found = estimate_training(chosen, images=images, gpus=gpus)

    # Log what it will take, and refuse what does not fit.
    needed = _needed(found, gpus, accumulates=images < share)
    _print_table(found, chosen.training, share, gpus, what)
    if needed > room:
        raise UserError(
            f"{what}: needs about {needed / _GIB:.1f} GiB on {device}, which has {room / _GIB:.1f}, with "
            f"{images} images at once; lower micro_batch or crop_size, set grad_checkpoint, or use precision bfloat16"
        )
    return chosen


def _chosen(config: TrainingConfig, images: int, grad_checkpoint: bool) -> TrainingConfig:
    """Returns the config as it is to run."""
    training = replace(config.training, micro_batch=images, grad_checkpoint=grad_checkpoint)
    return replace(config, model=with_checkpointing(config.model, grad_checkpoint), training=training)


def _fewest(config: TrainingConfig, gpus: int) -> int:
    """Returns the fewest images a step can take: UperNet's norms after pooling to one pixel need two on one device."""
    return 2 if gpus <= 1 and _has_batch_norm(config.model) else 1


def _has_batch_norm(value: Any) -> bool:
    return _has_type(value, "BN", "SyncBN")


def _has_type(value: Any, *types: str) -> bool:
    """Returns whether a config holds a part of one of some types."""
    if isinstance(value, Mapping):
        return value.get("type") in types or any(_has_type(part, *types) for part in value.values())
    return isinstance(value, (list, tuple)) and any(_has_type(part, *types) for part in value)


def smaller_part(config: TrainingConfig, *, gpus: int, full: str) -> int:
    """Returns how many images at once to go on with, fewer than the config's `micro_batch`, by the same mathematics.

    Args:
        config: as `check_training` returned it.
        gpus: processes that share the batch.
        full: the line that says that the memory is full.

    Raises:
        UserError: with that line: one image does not fit, or the network looks at the images held at once.
    """
    images = config.training.micro_batch
    for what, types in (("batch norm", ("BN", "SyncBN")), ("hard example mining", ("OHEMPixelSampler",))):
        if _has_type(config.model, *types):
            raise UserError(f"{full} ({what} looks at the images held at once, so that fewer are not taken by itself)")
    parts = [part for part in range(images - 1, 0, -1) if images % part == 0]
    if not parts:
        raise UserError(full)
    return parts[0]


def _largest_part(found: TrainingEstimate, images: int, fewest: int, gpus: int, room: int) -> int:
    """Returns the largest divisor of `images`, at least `fewest`, whose activations fit; else the smallest."""
    fixed = _needed(found, gpus, accumulates=True) - found.activations * HEADROOM
    parts = [part for part in range(images, fewest - 1, -1) if images % part == 0]
    fitting = (part for part in parts if fixed + found.activations * HEADROOM * part / images < _FILLED * room)
    return next(fitting, parts[-1])


def _needed(found: TrainingEstimate, gpus: int, *, accumulates: bool) -> int:
    return found.total + _buckets(found, gpus, accumulates=accumulates) + (CONTEXT_BYTES if gpus else 0)


def _buckets(found: TrainingEstimate, gpus: int, *, accumulates: bool) -> int:
    """Returns bytes of DistributedDataParallel's buckets where gradients accumulate next to them."""
    return found.gradients if gpus > 1 and accumulates else 0


def _print_table(found: TrainingEstimate, settings: TrainingSettings, share: int, gpus: int, what: str) -> None:
    device, room = _device(gpus)
    height, width = settings.crop_size
    images = settings.micro_batch
    steps = f" in gradient accumulation steps of {images}" if images < share else ""
    steps += ", activations recomputed" if settings.grad_checkpoint else ""
    log(
        f"{what}: {found.count / 1e6:.1f} M parameters, {settings.max_iters} iterations of {settings.batch_size} "
        f"images of {height}x{width}{steps}, {settings.precision}, on {device}"
    )
    apart = {"accumulates": images < share}
    rows = {
        "parameters": found.parameters,
        "gradients": found.gradients + _buckets(found, gpus, **apart),
        "optimizer": found.optimizer,
        f"activations of {images} images": round(found.activations * HEADROOM),
        "needed": _needed(found, gpus, **apart),
        "there are": room,
    }
    for name, size in rows.items():
        log(f"  {name:<28}{size / _GIB:8.2f} GiB")
    log(f"  {'time, very roughly':<28}{readable_time(_seconds(found, settings, gpus)):>8}")


def _device(gpus: int) -> tuple[str, int]:
    """Returns a device's name and the bytes it has (the machine's memory, without a GPU)."""
    device = _torch_device(gpus)
    if gpus:
        return f"{gpus} x {torch.cuda.get_device_name(device)}", memory_of(device)
    return f"CPU ({torch.get_num_threads()} threads)", memory_of(device)


def _seconds(found: TrainingEstimate, settings: TrainingSettings, gpus: int) -> float:
    passes = 4 if settings.grad_checkpoint else 3  # a backward pass costs two forward passes
    flops = passes * settings.max_iters * settings.batch_size * found.flops
    return seconds_for(flops, _torch_device(gpus), settings.precision) / max(gpus, 1)


def _torch_device(gpus: int) -> torch.device:
    return torch.device("cuda", 0) if gpus else torch.device("cpu")
