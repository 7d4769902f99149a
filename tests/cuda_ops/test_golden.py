"""Every path against the numbers of the public implementations (all cases of meta.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import vss_ops
from safetensors.torch import load_file

from tests.golden import stored_results

pytestmark = pytest.mark.golden


def _cases(folder: Path, device: str):
    dtype = torch.float32 if device == "cuda" else torch.float64  # float64 runs pure PyTorch on a GPU
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["cases"]
    for case in meta["cases"]:
        tensors = load_file(folder / case["file"])
        yield case, {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in tensors.items()}


def _compare(case, results: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> None:
    for name, result, exact in stored_results(results, stored, case=case["file"]):
        close = {"rtol": 1e-10, "atol": 1e-10}
        if result.dtype == torch.float32:
            close = {"rtol": 0, "atol": 1e-5 * float(exact.abs().max())}
        torch.testing.assert_close(result, exact, **close, msg=lambda m, n=name: f"{case['file']} {n}: {m}")


def _gradients(output: torch.Tensor, leaves: list[torch.Tensor], stored: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Returns the gradients of the leaves, or none where the case stores no gradient of the output."""
    if "grad_weight" not in stored:
        return []
    return list(torch.autograd.grad((output * stored["grad_weight"]).sum(), leaves))


def test_dcnv3(golden_dir: Path, path: str, device: str):
    for case, t in _cases(golden_dir / "dcnv3", device):
        p = case["params"]
        leaves = [t[name].requires_grad_() for name in ("input", "offset", "mask")]
        output = vss_ops.dcnv3(
            *leaves,
            kernel_size=(p["kernel_h"], p["kernel_w"]),
            stride=(p["stride_h"], p["stride_w"]),
            padding=(p["pad_h"], p["pad_w"]),
            dilation=(p["dilation_h"], p["dilation_w"]),
            group=p["group"],
            group_channels=p["group_channels"],
            offset_scale=p["offset_scale"],
            remove_center=bool(p["remove_center"]),
        )
        names = ("grad_input", "grad_offset", "grad_mask")
        results = {"output": output.detach(), **dict(zip(names, _gradients(output, leaves, t), strict=False))}
        if not t["offset"].detach().any():  # on the kinks of the bilinear kernel, where grad_offset is one-sided
            results.pop("grad_offset", None)
        _compare(case, results, t)


def test_ms_deform_attn(golden_dir: Path, path: str, device: str):
    for case, t in _cases(golden_dir / "ms_deform_attn", device):
        shapes = t["value_spatial_shapes"]
        areas = shapes.prod(1)
        starts = torch.cat((areas.new_zeros(1), areas.cumsum(0)[:-1]))
        leaves = [t[name].requires_grad_() for name in ("value", "sampling_locations", "attention_weights")]
        output = vss_ops.ms_deform_attn(leaves[0], shapes, starts, leaves[1], leaves[2])
        names = ("grad_value", "grad_sampling_locations", "grad_attention_weights")
        results = {"output": output.detach(), **dict(zip(names, _gradients(output, leaves, t), strict=False))}
        _compare(case, results, t)
