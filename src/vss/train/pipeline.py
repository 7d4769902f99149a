"""Transforms of this project's own; the others are MMCV's and MMSeg's."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from vss.labels import IGNORE_INDEX


@TRANSFORMS.register_module()
class ShiftLabels(BaseTransform):
    """Ignores class 0 and moves every other class down by one: MMSeg's reduce_zero_label on labels without a zero class.

    Only for `protocol: as_published`, see configs/_base_/coco_stuff.py. Works on gt_seg_map [H, W] uint8.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Returns the sample with its labels shifted."""
        labels = results["gt_seg_map"]
        shifted = labels - np.uint8(1)  # 0 wraps around to 255, which is ignored
        results["gt_seg_map"] = np.where(labels == IGNORE_INDEX, labels, shifted)
        return results
