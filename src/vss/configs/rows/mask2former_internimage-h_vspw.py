"""InternImage-H + Mask2Former from joint 427M weights (Table 2: 66.09). Upstream: configs/internimage/mask2former_internimageh.py.

256-d head with 100 queries. 197253 iterations of one image per GPU; three GPUs make 65751 (its checkpoint interval) an
epoch.
"""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-h", rows.mask2former_config("internimage-h", num_classes=124))
batch_size = 3
max_iters = 197253
optim_wrapper = dict(paramwise_cfg=dict(depths=(6, 6, 32, 6), decay_rate=0.95))
test = dict(scale=(853, 480), size_divisor=1)
as_published = {"optim_wrapper.paramwise_cfg.head_embeddings": "first", "precision": "float32"}
paper_miou = dict(val=66.09, test1=59.69)
published_weights = ["InternImage-H joint 427M (OpenGVLab)"]
