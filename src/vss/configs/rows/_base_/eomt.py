"""What EoMT rows on VSPW share: AdamW with layer-wise learning rates, masks annealed over the whole training.

Upstream: tue-mps/eomt, configs/dinov2/ade20k/semantic (lr 1e-4, decay 0.8 per layer, batch 16, 31 epochs of ADE20K).
"""

_base_ = "./vspw.py"

batch_size = 16
max_iters = 40000
power = 0.9
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="ViTLayerDecay",
    paramwise_cfg=dict(decay_rate=0.8),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
test = dict(scale=(853, 480), size_divisor=16)
