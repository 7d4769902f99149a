"""A small member of the family: InternImage (H style) + Mask2Former."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config(
    "internimage-nano-h", rows.mask2former_config("internimage-nano-h", num_classes=124, size="nano")
)
