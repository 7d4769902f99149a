"""What heads of mask classification share: queries, each with a class distribution and a mask (Mask2Former, EoMT)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.utils import SampleList
from torch import Tensor

from vss.models.layers import at_least_float32, without_autocast
from vss.models.set_loss import Denominators, SetLoss, Targets

# Far below any real score; only keeps 0 / 0 and log 0 away where every query's mask underflows.
_SMALLEST_SCORE = 1e-30


class MaskClassificationHead(BaseModule):
    """A decode head whose `_predictions(features)` yields (class logits, mask logits), the last one to be used.

    Args:
        num_classes: C; the class layer has C + 1 outputs, the last is "no object".
        num_queries: Q.
        num_points, oversample_ratio, importance_sample_ratio: see `SetLoss`.
        loss_weights: of the class, mask and dice terms.
        no_object_weight: class weight of "no object".
        class_weight: of the other classes [C]; None = 1 each.
        align_corners: False; part of MMSegmentation's head interface.
        ignore_index: label that belongs to no mask.
        init_cfg: MMEngine's.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        loss_weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
        no_object_weight: float = 0.1,
        class_weight: Sequence[float] | None = None,
        align_corners: bool = False,
        ignore_index: int = 255,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.out_channels, self.num_queries = num_classes, num_classes, num_queries
        self.align_corners, self.ignore_index = align_corners, ignore_index
        self._denominators: list[Denominators] = []  # of the micro-batches to come, where gradients are accumulated
        self.set_loss = SetLoss(
            num_classes=num_classes,
            num_points=num_points,
            oversample_ratio=oversample_ratio,
            importance_sample_ratio=importance_sample_ratio,
            weights=loss_weights,
            no_object_weight=no_object_weight,
            class_weight=class_weight,
        )

    def _predictions(self, features: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (class logits [N, Q, C + 1], mask logits [N, Q, h, w]) of every prediction, the last one last."""
        raise NotImplementedError

    def forward(self, features: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the class logits and the mask logits of every prediction, the last one last."""
        class_logits, mask_logits = zip(*self._predictions(features), strict=True)
        return list(class_logits), list(mask_logits)

    def class_logits(self, features: Any) -> Tensor:
        """Returns class scores [N, C, H / 4, W / 4] >= 0: sum over queries of class probability times mask probability.

        arXiv 2112.01527, section 3.1 ("semantic inference" of MaskFormer); "no object" is left out.
        """
        for class_logits, mask_logits in self._predictions(features):  # noqa: B007  only the last is used
            pass
        return _class_scores(class_logits, mask_logits)

    def last_class_logits(self, outputs: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """Returns the same scores from what `forward` returned."""
        class_logits, mask_logits = outputs
        return _class_scores(class_logits[-1], mask_logits[-1])

    def probabilities(self, resized: Tensor, protocol: str) -> Tensor:
        """Returns probabilities [N, C, H, W] from resized class scores.

        "paper" divides by the sum over classes. "as_published" softmaxes the scores, although they are probabilities
        already: the distribution becomes nearly flat.
        """
        if protocol == "as_published":
            return resized.float().softmax(1)
        scores = resized.float().clamp_min(_SMALLEST_SCORE)
        return scores / scores.sum(1, keepdim=True)

    def loss(self, features: Any, data_samples: SampleList, train_cfg: dict) -> dict[str, Tensor]:
        """Returns the losses of every prediction (`SetLoss`) for data samples with `gt_sem_seg` [1, H, W]."""
        return self.loss_by_feat(self(features), data_samples)

    def loss_by_feat(self, outputs: tuple[list[Tensor], list[Tensor]], data_samples: SampleList) -> dict[str, Tensor]:
        """Returns the same losses from what `forward` returned."""
        targets = [
            Targets.from_label_map(sample.gt_sem_seg.data[0], ignore_index=self.ignore_index) for sample in data_samples
        ]
        denominators = self._denominators.pop() if self._denominators else None
        return self.set_loss(*outputs, targets, denominators)

    def share_denominators(self, data_samples: SampleList, micro_batches: int) -> None:
        """Makes the losses of the micro-batches of a batch add up to the batch's, whatever classes are in which.

        Args:
            data_samples: all of the batch; with several processes, of this one's share.
            micro_batches: number of equal parts of it, whose losses come next and are averaged.
        """
        found = (sample.gt_sem_seg.data.unique() for sample in data_samples)
        present = [labels[labels != self.ignore_index] for labels in found]
        device = next(self.parameters()).device
        whole = self.set_loss.denominators(present, self.num_queries, device)
        share = Denominators(whole.masks / micro_batches, whole.class_weight / micro_batches)
        self._denominators = [share] * micro_batches

    def predict(self, features: Any, batch_img_metas: list[dict], test_cfg: dict) -> Tensor:
        """Returns class scores [N, C, H, W] at the size of the network's input, as MMSegmentation's heads do."""
        size = batch_img_metas[0].get("pad_shape", batch_img_metas[0]["img_shape"])[:2]
        return F.interpolate(self.class_logits(features), size=size, mode="bilinear", align_corners=False)


def _class_scores(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Returns the class scores [N, C, h, w] of one prediction."""
    scores = at_least_float32(class_logits).softmax(-1)[..., :-1]
    with without_autocast(mask_logits.device):
        return torch.einsum("nqc,nqhw->nchw", scores, at_least_float32(mask_logits).sigmoid())
