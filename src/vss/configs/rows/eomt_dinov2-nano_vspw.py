"""A small member of the family: EoMT on a vision transformer of six layers, the last two with queries."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config(None, rows.eomt_config("dinov2-nano", num_classes=124, size="nano"))
max_iters = 350
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    constructor="ViTLayerDecay",
    paramwise_cfg=dict(_delete_=True, decay_rate=0.9),
)
