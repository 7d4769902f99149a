"""InternImage-H + UperNet (Table 1: 64.62). Upstream: configs/internimage/upernet_internimageh.py.

The config says 25000 iterations; checkpoints of 48000, 60000 and 160000 are named in tools/all.sh.
"""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-h", rows.upernet_config("internimage-h", num_classes=124))
scale = (1920, 480)
max_iters = 25000
optim_wrapper = dict(paramwise_cfg=dict(depths=(6, 6, 32, 6), decay_rate=0.95))
as_published = {"precision": "float32"}
paper_miou = dict(val=64.62, test1=59.15)
published_weights = ["UperNet InternImage-H ADE20K (OpenGVLab)", "InternImage-H joint 427M (OpenGVLab)"]
