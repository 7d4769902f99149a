"""A small member of the family: InternImage (H style) + Mask2Former."""

_base_ = "./_base_/nano.py"
from vss.models import rows

model = rows.segmentor_config(
    "internimage-nano-h", rows.mask2former_config("internimage-nano-h", num_classes=124, size="nano")
)
# An iteration costs half of UperNet's: the loss is taken at points, not at every pixel for every class.
max_iters = 350
optim_wrapper = dict(optimizer=dict(lr=3e-3))
