"""EoMT on DINOv3 ViT-L (arXiv 2503.19108): the last four of its 24 layers hold the queries."""

_base_ = "./_base_/eomt.py"
from vss.models import rows

model = rows.segmentor_config(None, rows.eomt_config("dinov3-l", num_classes=124))
published_weights = ["DINOv3 ViT-L (facebook/dinov3-vitl16-pretrain-lvd1689m; DINOv3 License)"]
