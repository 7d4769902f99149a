"""A frozen DINOv2 ViT-L, four layers of which a light decoder with queries reads (PMT's idea, arXiv 2603.25398)."""

_base_ = "./_base_/plain_mask.py"
from vss.models import rows

model = rows.segmentor_config(None, rows.plain_mask_config("dinov2-l", num_classes=124))
test = dict(size_divisor=14)
published_weights = ["DINOv2 ViT-L (facebook/dinov2-large; Apache-2.0)"]
