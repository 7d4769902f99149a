"""What rows with a frozen encoder share: only the decoder is trained.

Upstream: tue-mps/pmt, image/configs/ade20k/semantic (lr 2e-4, batch 16, 16 epochs of ADE20K).
"""

_base_ = "./vspw.py"

batch_size = 16
max_iters = 25000
power = 0.9
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
test = dict(scale=(853, 480), size_divisor=16)
