"""DCNv3 and multi-scale deformable attention: CUDA, C++ CPU and pure PyTorch, one operator each.

    out = vss_ops.dcnv3(input, offset, mask, kernel_size=3, stride=1, padding=1, dilation=1, group=4,
                        group_channels=16, offset_scale=1.0)
    out = vss_ops.ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)

`status()` returns which implementation runs, `backend(...)` and $VSS_OPS choose one, `self_check(device)` compares the
one that runs with pure PyTorch. `python -m vss_ops.build` compiles the kernels of this machine.
"""

from vss_ops.ops import dcnv3, ms_deform_attn
from vss_ops.paths import backend, status
from vss_ops.selfcheck import self_check

__all__ = ["backend", "dcnv3", "ms_deform_attn", "self_check", "status"]
