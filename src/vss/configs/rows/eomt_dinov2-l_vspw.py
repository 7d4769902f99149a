"""EoMT on DINOv2 ViT-L (arXiv 2503.19108): the last four of its 24 layers hold the queries."""

_base_ = "./_base_/eomt.py"
from vss.models import rows

model = rows.segmentor_config(None, rows.eomt_config("dinov2-l", num_classes=124))
published_weights = [
    "DINOv2 ViT-L (facebook/dinov2-large; Apache-2.0)",
    "EoMT-L, DINOv2 (tue-mps, converted for transformers; MIT)",
]
