"""ConvNeXt-XL + UperNet (Table 1: 55.50). Upstream: configs/convnext/upernet_convnextxl.py of the paper's repository."""

_base_ = "./_base_/vspw.py"
from vss.models import rows

model = rows.segmentor_config("convnext-xl", rows.upernet_config("convnext-xl", num_classes=124))
batch_size = 8
max_iters = 62000
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=8e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(decay_rate=0.9, decay_type="stage_wise", num_layers=12),
)
as_published = {"precision": "float16", "test.scale": (853, 480)}
paper_miou = dict(val=55.50, test1=47.61)
published_weights = ["UperNet ConvNeXt-XL ADE20K (MMSegmentation, 640x640)"]
