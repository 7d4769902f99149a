"""A small member of the family: convnext-nano + UperNet."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config("convnext-nano", rows.upernet_config("convnext-nano", num_classes=124, size="nano"))
