"""ConvNeXt-L + UperNet, trained by the authors (tools/all.sh) but not reported."""

_base_ = "./upernet_convnext-xl_vspw.py"
from vss.models import rows

model = rows.segmentor_config("convnext-l", rows.upernet_config("convnext-l", num_classes=124))
batch_size = 16
max_iters = 25000
optim_wrapper = dict(optimizer=dict(lr=1e-4))
paper_miou = dict(_delete_=True)
published_weights = ["UperNet ConvNeXt-L ADE20K (MMSegmentation)"]
