"""Compares the implementation that runs on a device with pure PyTorch, on inputs small enough for every start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vss_ops import ops, paths, reference
from vss_ops.geometry import Window

# Largest error allowed, relative to the largest value. float32: tens of roundings of 6e-8, and sums of dozens of terms;
# half precision rounds the result once, to 2^-11 or 2^-8, and nothing before it.
_TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def self_check(device: str | torch.device = "cpu", dtypes: tuple[torch.dtype, ...] | None = None) -> str:
    """Runs both ops, forward and backward, on `device` and compares them with pure PyTorch in float64.

    Takes well under a second after the device is initialised. Meant to be run once, when a model with these ops first
    moves to a device.

    Args:
        device: the device to check.
        dtypes: dtypes of the inputs; by default float32, and float16 and bfloat16 too on a GPU.

    Returns:
        The path that ran: reference, cpp or cuda.

    Raises:
        RuntimeError: a result differs, or a kernel does not run; the message names the cause and the remedy.
    """
    device = torch.device(device)
    if dtypes is None:
        dtypes = (torch.float32, torch.float16, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    path = paths.path_for(device, dtypes[0])
    # a model may be moved inside inference_mode, where there are no gradients, or below a default device
    with torch.inference_mode(False), torch.device("cpu"):
        for dtype in dtypes:
            # under autocast a half precision table goes with float32 points: kernels of their own on a GPU
            for points in sorted({dtype, torch.promote_types(dtype, torch.float32)}, key=str):
                _check(device, dtype, points, path)
    return path


def _check(device: torch.device, dtype: torch.dtype, points: torch.dtype, path: str) -> None:
    for name, run, exact, inputs in _cases():
        inputs = [t.to(device, points if number else dtype) for number, t in enumerate(inputs)]
        try:
            results = _gradients(run, inputs)
        except RuntimeError as error:
            raise RuntimeError(f"vss_ops: {name} does not run on {device} ({path}): {_cause(error, device)}") from error
        expected = _gradients(exact, [t.double().cpu() for t in inputs])
        _compare(name, path, device, dtype, results, expected)


def _cases() -> Iterator[tuple[str, Callable, Callable, list[Tensor]]]:
    """Yields name, the op, the reference and float32 inputs on the CPU."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float32) * scale

    # 32 channels per group take the vector path of every dtype, 5 take the scalar one
    for channels, remove_center in ((32, False), (5, True)):
        window = Window((3, 3), (1, 1), (1, 1), (1, 1), 2, channels, 1.0, remove_center)
        points = 2 * window.points
        inputs = [normal(2, 6, 7, 2 * channels), normal(2, 6, 7, 2 * points, scale=2.0), normal(2, 6, 7, points)]
        yield (
            f"dcnv3 ({channels} channels per group)",
            lambda i, o, m, w=window: ops.dcnv3(i, o, m, **w._asdict(), softmax=True),
            lambda i, o, m, w=window: reference.dcnv3(i, o, m, w, softmax=True),
            inputs,
        )
    shapes = torch.tensor([[3, 4], [6, 7]])
    starts = torch.tensor([0, 12])
    locations = torch.rand(2, 5, 2, 2, 4, 2, generator=generator, dtype=torch.float32) * 1.4 - 0.2
    yield (
        "ms_deform_attn",
        lambda v, p, w: ops.ms_deform_attn(v, shapes.to(v.device), starts.to(v.device), p, w, softmax=True),
        lambda v, p, w: reference.ms_deform_attn(v, shapes, starts, p, w, softmax=True),
        [normal(2, 54, 2, 32), locations, normal(2, 5, 2, 2, 4)],
    )


def _gradients(run: Callable[..., Tensor], inputs: list[Tensor]) -> dict[str, Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    with torch.enable_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        out = run(*leaves)
        seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float32).reshape(out.shape).to(out)
        # a scalar, because explicit grad_outputs make torch import sympy, which takes longer than the whole check
        grads = torch.autograd.grad((out * seed).sum(), leaves)
    names = ("output", "gradient of argument 1", "gradient of argument 2", "gradient of argument 3")
    return dict(zip(names, (out.detach(), *grads), strict=True))


def _compare(
    name: str,
    path: str,
    device: torch.device,
    dtype: torch.dtype,
    results: dict[str, Tensor],
    expected: dict[str, Tensor],
) -> None:
    for what, exact in expected.items():
        error = (results[what].double().cpu() - exact).abs().max() / exact.abs().max()
        if not error <= _TOLERANCE[dtype]:  # NaN fails too
            raise RuntimeError(
                f"vss_ops: {name} on {device} ({path}, {dtype}) is wrong: {what} is off by {float(error):.1e} of its "
                f"largest value, at most {_TOLERANCE[dtype]:.0e} is rounding. Rebuild the kernels with "
                "`python -m vss_ops.build --force`, or run pure PyTorch with VSS_OPS=reference, and report this line."
            )


def _cause(error: RuntimeError, device: torch.device) -> str:
    line = " ".join(str(error).split())
    if "no kernel image" in line:
        return (
            "the kernels were not built for this GPU; rebuild them with "
            f"TORCH_CUDA_ARCH_LIST={_capability(device)} python -m vss_ops.build --force"
        )
    return f"{line[:400]}; rebuild with `python -m vss_ops.build --force`, or set VSS_OPS=reference"


def _capability(device: torch.device) -> str:
    if device.type != "cuda" or not torch.cuda.is_available():
        return "<compute capability>"
    return "{}.{}".format(*torch.cuda.get_device_capability(device))
