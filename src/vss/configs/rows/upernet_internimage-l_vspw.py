"""InternImage-L + UperNet; not in the paper. Upstream: InternImage's upernet_internimage_l_640_160k_ade20k.py."""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-l", rows.upernet_config("internimage-l", num_classes=124))
batch_size = 16
optim_wrapper = dict(
    optimizer=dict(lr=2e-5),
    paramwise_cfg=dict(depths=(5, 5, 22, 5), decay_rate=0.94),
)
published_weights = ["UperNet InternImage-L ADE20K (OpenGVLab)"]
