"""InternImage-H + Mask2Former on COCO-Stuff164k: the pretraining behind the paper's best model.

Upstream: configs/internimage/mask2former_coco.py; one image per GPU, 3 to 4 GPUs.
171 classes: the paper's text counts 172 with the unlabelled one. Its code trained on shifted labels (`label_shift`) and
validated on labels that were not shifted, so that its validation mIoU meant nothing.
"""

_base_ = "./_base_/internimage.py"
from vss.models import rows

model = rows.segmentor_config("internimage-h", rows.mask2former_config("internimage-h", num_classes=171))
dataset = "coco_stuff"
scale = (1920, 480)
crop_size = (480, 480)
max_iters = 164000
optim_wrapper = dict(paramwise_cfg=dict(depths=(6, 6, 32, 6), decay_rate=0.95))
test = dict(size_divisor=1)
as_published = {
    "label_shift": True,
    "optim_wrapper.paramwise_cfg.head_embeddings": "first",
    "precision": "float32",
}
published_weights = ["InternImage-H joint 427M (OpenGVLab)", "Mask2Former InternImage-H COCO-Stuff164k (this project)"]
