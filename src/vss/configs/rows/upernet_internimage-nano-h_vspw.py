"""A small member of the family: internimage-nano-h + UperNet."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config(
    "internimage-nano-h", rows.upernet_config("internimage-nano-h", num_classes=124, size="nano")
)
