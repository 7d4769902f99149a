"""A small member of the family: a frozen encoder, which knows nothing without published weights, and its decoder."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config(None, rows.plain_mask_config("dinov3-nano", num_classes=124, size="nano"))
max_iters = 350
optim_wrapper = dict(optimizer=dict(lr=3e-3), paramwise_cfg=None)
