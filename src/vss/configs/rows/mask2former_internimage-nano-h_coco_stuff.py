"""A small member of the family: InternImage (H style) + Mask2Former, on COCO-Stuff."""

_base_ = "./mask2former_internimage-nano-h_vspw.py"
from vss.models import rows

dataset = "coco_stuff"
model = rows.segmentor_config(
    "internimage-nano-h", rows.mask2former_config("internimage-nano-h", num_classes=171, size="nano")
)
as_published = {"label_shift": True}
