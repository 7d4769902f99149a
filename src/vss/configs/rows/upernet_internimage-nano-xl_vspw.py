"""A small member of the family: internimage-nano-xl + UperNet."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config(
    "internimage-nano-xl", rows.upernet_config("internimage-nano-xl", num_classes=124, size="nano")
)
