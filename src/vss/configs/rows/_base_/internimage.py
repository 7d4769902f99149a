"""What InternImage rows on VSPW share: AdamW with layer-wise learning rates.

Upstream: OpenGVLab/InternImage segmentation/configs/ade20k, and configs/internimage of the paper's repository.
"""

_base_ = "./vspw.py"

batch_size = 4
max_iters = 160000
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="InternImageLayerDecay",
    # head_embeddings: see vss.train.optim.internimage_layer; "first" is what was published.
    paramwise_cfg=dict(depths=(5, 5, 24, 5), decay_rate=0.94, head_embeddings="last"),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
test = dict(scale=(1920, 480), size_divisor=32)
