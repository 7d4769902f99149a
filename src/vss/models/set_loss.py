"""Mask2Former's training loss: Hungarian matching of queries to class masks; class, mask and dice losses at points.

Source: arXiv 2112.01527, sections 3.2.3 and 4.1; PointRend's sampling (arXiv 1912.08193, section 3.1); numerically
mmdet 3.3 `mask2former_head.py`. All of it runs in float32, whatever autocast says. The order of random draws is fixed:
for each prediction layer one set of matching points per image, then the oversampled points, then the uniform ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vss.models.layers import at_least_float32, without_autocast


@dataclass(frozen=True)
class Targets:
    """The ground truth of one image: one mask for each class present.

    Attributes:
        labels: [G] int64 train ids, ascending, without the ignore index.
        masks: [G, H, W] bool; ignored pixels belong to no mask, that is to the background of every mask.
    """

    labels: Tensor
    masks: Tensor

    @classmethod
    def from_label_map(cls, label_map: Tensor, *, ignore_index: int) -> Targets:
        """Splits a label map [H, W] int64 into masks."""
        labels = label_map.unique()
        labels = labels[labels != ignore_index]
        return cls(labels=labels, masks=label_map == labels[:, None, None])


@dataclass(frozen=True)
class Match:
    """The matching of one image and one prediction layer.

    Attributes:
        points: [1, P, 2] where masks were compared, (x, y) in 0..1.
        cost: [Q, G] float32.
        query: [M] matched queries, ascending; M = min(Q, G).
        target: [M] the class mask of each.
    """

    points: Tensor
    cost: Tensor
    query: Tensor
    target: Tensor


@dataclass(frozen=True)
class Denominators:
    """What the losses of every prediction layer are divided by. Both follow from the labels alone.

    Attributes:
        masks: matched masks, mean over processes; at least 1.
        class_weight: sum of the class weights of all queries.
    """

    masks: Tensor
    class_weight: Tensor


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Samples maps [N, C, H, W] bilinearly at points [N, P, 2], (x, y) in 0..1, zero outside; returns [N, C, P]."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, mode="bilinear", align_corners=False).squeeze(-1)


def matching_cost(
    class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor, *, weights: tuple[float, float, float]
) -> Tensor:
    """Returns the cost [Q, G] of giving each query each class mask.

    Args:
        class_logits: [Q, C + 1].
        mask_logits: [Q, P] at the matching points.
        labels: [G].
        masks: [G, P] in 0..1 at the same points.
        weights: of the class, mask and dice terms.
    """
    by_class = -class_logits.softmax(-1)[:, labels]
    inside, outside = F.softplus(-mask_logits), F.softplus(mask_logits)  # cross entropy with target 1 and 0
    by_mask = (inside @ masks.T + outside @ (1 - masks).T) / mask_logits.shape[1]
    mask = mask_logits.sigmoid()
    by_dice = 1 - (2 * mask @ masks.T + 1) / (mask.sum(-1)[:, None] + masks.sum(-1)[None] + 1)
    return weights[0] * by_class + weights[1] * by_mask + weights[2] * by_dice


class SetLoss:
    """Mask2Former's losses of all prediction layers.

    Args:
        num_classes: C; index C is "no object".
        num_points: P, points per mask, both for matching and for the losses.
        oversample_ratio: P times this many candidates are drawn, of which the most uncertain are kept.
        importance_sample_ratio: share of P that is chosen by uncertainty; the rest is uniform.
        weights: of the class, mask and dice terms, in the matching cost as in the loss.
        no_object_weight: class weight of index C.
        class_weight: of the other classes [C]; None = 1 each.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        weights: tuple[float, float, float],
        no_object_weight: float,
        class_weight: Sequence[float] | None = None,
    ) -> None:
        self.num_classes, self.num_points, self.weights = num_classes, num_points, weights
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(importance_sample_ratio * num_points)
        self.weighs_classes = class_weight is not None
        self.class_weight = [*([1.0] * num_classes if class_weight is None else class_weight), no_object_weight]

    def denominators(self, present: Sequence[Tensor], num_queries: int, device: torch.device) -> Denominators:
        """Returns what the losses of a batch are divided by; with several processes, all have to call it.

        Args:
            present: train ids [G] of the classes present in each image. Where they are more than queries, matched ones
                count with the mean of their weights.
        """
        matches = [min(len(labels), num_queries) for labels in present]
        matched = torch.tensor(float(sum(matches)), device=device)
        unmatched = len(present) * num_queries - matched
        weight = matched
        if self.weighs_classes:
            weights = torch.tensor(self.class_weight, device=device)
            each = [weights[labels].mean() * count for labels, count in zip(present, matches, strict=True) if count]
            weight = torch.stack([torch.zeros((), device=device), *each]).sum()
        return Denominators(
            masks=_mean_over_processes(matched.clone()).clamp(min=1),
            class_weight=weight + self.class_weight[-1] * unmatched,
        )

    def __call__(
        self,
        class_logits: list[Tensor],
        mask_logits: list[Tensor],
        targets: list[Targets],
        denominators: Denominators | None = None,
    ) -> dict[str, Tensor]:
        """Returns loss_cls, loss_mask, loss_dice of the last layer, and d{i}.* of the layers before it.

        Args:
            class_logits: one [N, Q, C + 1] per prediction layer.
            mask_logits: one [N, Q, h, w] per prediction layer.
            targets: one per image.
            denominators: those of the whole batch, where this is one micro-batch of it; None: those of these images.
        """
        losses: dict[str, Tensor] = {}
        if denominators is None:
            present = [image.labels for image in targets]
            denominators = self.denominators(present, class_logits[0].shape[1], class_logits[0].device)
        with without_autocast(class_logits[0].device):
            for i, (classes, masks) in enumerate(zip(class_logits, mask_logits, strict=True)):
                prefix = "" if i == len(class_logits) - 1 else f"d{i}."
                layer = self.layer_losses(at_least_float32(classes), at_least_float32(masks), targets, denominators)
                losses |= {f"{prefix}{name}": value for name, value in layer.items()}
        return losses

    def layer_losses(
        self, class_logits: Tensor, mask_logits: Tensor, targets: list[Targets], denominators: Denominators
    ) -> dict[str, Tensor]:
        """Returns the three losses of one prediction layer, float32 [N, Q, C + 1] and [N, Q, h, w]."""
        matches = [self.match(*image) for image in zip(class_logits, mask_logits, targets, strict=True)]
        matched = torch.cat([masks[m.query] for masks, m in zip(mask_logits, matches, strict=True)])  # [M, h, w]
        loss_cls = self._class_loss(class_logits, targets, matches) / denominators.class_weight
        if len(matched) == 0:
            nothing = mask_logits.sum() * 0  # keeps every parameter in the graph
            return {"loss_cls": loss_cls, "loss_mask": nothing, "loss_dice": nothing}
        points = self.loss_points(matched)
        predicted = point_sample(matched[:, None], points)[:, 0]  # [M, P]
        with torch.no_grad():
            masks = torch.cat([t.masks[m.target] for t, m in zip(targets, matches, strict=True)])
            truth = point_sample(masks[:, None].float(), points)[:, 0]  # [M, P]
        by_mask = F.binary_cross_entropy_with_logits(predicted, truth, reduction="sum") / (
            denominators.masks * self.num_points
        )
        mask = predicted.sigmoid()
        by_dice = (1 - (2 * (mask * truth).sum(1) + 1) / (mask.sum(1) + truth.sum(1) + 1)).sum() / denominators.masks
        return {"loss_cls": loss_cls, "loss_mask": self.weights[1] * by_mask, "loss_dice": self.weights[2] * by_dice}

    @torch.no_grad()
    def match(self, class_logits: Tensor, mask_logits: Tensor, targets: Targets) -> Match:
        """Matches the queries of one image ([Q, C + 1], [Q, h, w], float32) to its class masks at the lowest cost.

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        points = torch.rand((1, self.num_points, 2), device=mask_logits.device)
        cost = matching_cost(
            class_logits,
            point_sample(mask_logits[None], points)[0],
            targets.labels,
            point_sample(targets.masks[None].float(), points)[0],
            weights=self.weights,
        )
        on_cpu = cost.cpu()
        if not on_cpu.isfinite().all():
            raise FloatingPointError("Mask2Former predicted NaN or infinity: the matching cost is not finite")
        query, target = (torch.from_numpy(index).to(cost.device) for index in linear_sum_assignment(on_cpu))
        return Match(points=points, cost=cost, query=query, target=target)

    @torch.no_grad()
    def loss_points(self, mask_logits: Tensor) -> Tensor:
        """Returns the points [M, P, 2] where matched masks [M, h, w] are compared: the most uncertain, then uniform."""
        device, M = mask_logits.device, len(mask_logits)
        candidates = torch.rand((M, self.num_candidates, 2), device=device)
        uncertainty = -point_sample(mask_logits[:, None], candidates)[:, 0].abs()  # [M, candidates]
        chosen = uncertainty.topk(self.num_uncertain, dim=1).indices
        uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
        if self.num_uncertain == self.num_points:
            return uncertain
        return torch.cat((uncertain, torch.rand((M, self.num_points - self.num_uncertain, 2), device=device)), dim=1)

    def _class_loss(self, class_logits: Tensor, targets: list[Targets], matches: list[Match]) -> Tensor:
        N, Q, _ = class_logits.shape
        labels = torch.full((N, Q), self.num_classes, device=class_logits.device)
        for row, image, match in zip(labels, targets, matches, strict=True):
            row[match.query] = image.labels[match.target]
        weight = class_logits.new_tensor(self.class_weight)
        return self.weights[0] * F.cross_entropy(
            class_logits.flatten(0, 1), labels.flatten(), weight=weight, reduction="sum"
        )


def _mean_over_processes(value: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return value
    value = value / dist.get_world_size()
    dist.all_reduce(value)
    return value
