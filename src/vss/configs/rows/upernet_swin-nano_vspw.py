"""A small member of the family: swin-nano + UperNet."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config("swin-nano", rows.upernet_config("swin-nano", num_classes=124, size="nano"))
