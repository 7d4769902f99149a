"""InternImage-H + UperNet on COCO-Stuff164k, configured by the authors but not reported. Upstream: configs/internimage/upernet_coco.py."""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-h", rows.upernet_config("internimage-h", num_classes=171))
dataset = "coco_stuff"
scale = (1920, 480)
crop_size = (480, 480)
batch_size = 16
max_iters = 32000
optim_wrapper = dict(paramwise_cfg=dict(depths=(6, 6, 32, 6), decay_rate=0.95), clip_grad=None)
test = dict(size_divisor=1)  # part of the name of work folders, so 32 stands in `as_published` alone
as_published = {"label_shift": True, "precision": "float32", "test.size_divisor": 32}
published_weights = ["InternImage-H joint 427M (OpenGVLab)"]
