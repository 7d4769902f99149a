"""InternImage-H + Mask2Former with OpenGVLab's head (1024-d, 200 queries), whose weights appeared after the challenge."""

_base_ = "./mask2former_internimage-h_coco_stuff2vspw.py"
from vss.models import rows

model = rows.segmentor_config(
    "internimage-h", rows.mask2former_config("internimage-h", num_classes=124, size="opengvlab")
)
paper_miou = dict(_delete_=True)
# The early stop and the sliding window were the 256-d model's.
as_published = {
    "_delete_": True,
    "optim_wrapper.paramwise_cfg.head_embeddings": "first",
    "precision": "float32",
}
published_weights = ["Mask2Former InternImage-H COCO-Stuff164k or ADE20K, 896x896 (OpenGVLab)"]
