"""A frozen DINOv3 ViT-L, four layers of which a light decoder with queries reads (PMT's idea, arXiv 2603.25398)."""

_base_ = "./_base_/plain_mask.py"
from vss.models import rows

model = rows.segmentor_config(None, rows.plain_mask_config("dinov3-l", num_classes=124))
published_weights = ["DINOv3 ViT-L (facebook/dinov3-vitl16-pretrain-lvd1689m; DINOv3 License)"]
