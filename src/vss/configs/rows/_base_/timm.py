"""What rows `timm:NAME` are made of: a backbone of timm under UperNet, on VSPW."""

_base_ = "./vspw.py"

batch_size = 16
max_iters = 25000
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
