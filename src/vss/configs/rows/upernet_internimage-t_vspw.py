"""InternImage-T + UperNet; not in the paper. Upstream: InternImage's upernet_internimage_t_512_160k_ade20k.py."""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-t", rows.upernet_config("internimage-t", num_classes=124))
batch_size = 16
optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(depths=(4, 4, 18, 4), decay_rate=1.0),
    clip_grad=None,
)
published_weights = ["UperNet InternImage-T ADE20K (OpenGVLab)"]
