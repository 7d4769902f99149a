"""InternImage-G + UperNet, configured by the authors but not reported. Upstream: upernet_internimageg.py under mmseg/.mim."""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-g", rows.upernet_config("internimage-g", num_classes=124))
scale = (1920, 480)
batch_size = 3
max_iters = 197253
optim_wrapper = dict(paramwise_cfg=dict(depths=(2, 2, 48, 4), decay_rate=0.95))
test = dict(scale=(853, 480))
as_published = {"precision": "float32"}
published_weights = ["InternImage-G 22k (OpenGVLab)"]
