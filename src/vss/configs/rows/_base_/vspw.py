"""VSPW: 124 classes at 480p. The paper crops 480x853 because that is the size of most frames."""

_base_ = "./training.py"

dataset = "vspw"
scale = (853, 480)  # (width, height) that a frame is fitted into at ratio 1
crop_size = (480, 853)  # (height, width)
# Inference at ratio 1 unless the tta says otherwise; None: the frame's own size.
test = dict(scale=None, size_divisor=1, mode="whole", crop_size=None, stride=None)
