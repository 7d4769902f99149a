"""DCNv3 and multi-scale deformable attention."""

from vss_ops.ops import dcnv3, ms_deform_attn

__all__ = ["dcnv3", "ms_deform_attn"]
