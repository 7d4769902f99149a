"""InternImage-H + Mask2Former with OpenGVLab's head on COCO-Stuff164k; its weights are published, labels not shifted."""

_base_ = "./mask2former_internimage-h_coco_stuff.py"
from vss.models import rows

model = rows.segmentor_config(
    "internimage-h", rows.mask2former_config("internimage-h", num_classes=171, size="opengvlab")
)
as_published = {"label_shift": False}  # the mistake of the 256-d row's authors, not of OpenGVLab
published_weights = ["Mask2Former InternImage-H COCO-Stuff164k, 896x896 (OpenGVLab)"]
