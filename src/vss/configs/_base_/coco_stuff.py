"""COCO-Stuff164k: 171 classes (the paper's text counts 172 with the unlabelled one).

The paper's code read files of train ids 0..170 with reduce_zero_label, which drops class 0 (person) and moves every other
class down by one: the last of the 171 outputs was never trained. `label_shift` does the same; validation was not
shifted, so that its mIoU meant nothing.
"""

_base_ = "./training.py"

dataset = "coco_stuff"
scale = (1920, 480)
crop_size = (480, 480)
test = dict(scale=(1920, 480), size_divisor=1, mode="whole", crop_size=None, stride=None)
