"""Classes that pixels surely do not have, in the loss: by hand, in both families of heads, and not where none are."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from models.test_segmentor import nano_config

from vss.models.build import build_segmentor
from vss.models.negatives import negatives_loss


def sample(which: list[list[int]], wrong: list[list[bool]], *, size: tuple[int, int] = (64, 64)) -> SegDataSample:
    found = SegDataSample()
    found.gt_sem_seg = PixelData(data=torch.full((1, *size), 255))
    found.set_metainfo({"img_shape": size})
    negatives = PixelData(data=torch.tensor([which]))
    found.set_data({"negatives": negatives, "surely_wrong": torch.tensor(wrong).reshape(len(wrong), -1)})
    return found


def test_by_hand() -> None:
    """Of a map of 2 x 2 pixels the right column is padding; two pixels are known in one of two images."""
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]).T.reshape(1, 3, 2, 1)
    probabilities = torch.cat([probabilities, torch.full((1, 3, 2, 1), 1 / 3)], dim=3).repeat(2, 1, 1, 1)
    wrong = [[False, False, True], [True, True, False]]
    known, unknown = sample([[1], [2]], wrong), sample([[0], [0]], wrong)
    loss = negatives_loss(probabilities, [known, unknown])
    assert loss.item() == pytest.approx(-(math.log(0.5 + 0.3) + math.log(0.3)) / 8)


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_training_on_them_lowers_what_is_ruled_out(head: str) -> None:
    backbone = "swin-nano" if head == "upernet" else "internimage-nano-h"
    torch.manual_seed(0)
    model = build_segmentor(nano_config(backbone, head))
    images, wrong = torch.randn(2, 3, 64, 64), [[True, True, False, True, False]]
    samples = [sample([[1] * 64] * 64, wrong) for _ in range(2)]

    def ruled_out_probability() -> float:
        model.eval()
        with torch.no_grad():
            found = model.probabilities(model.class_logits(images))[:, [0, 1, 3]].sum(1).mean().item()
        model.train()
        return found

    before, optimizer = ruled_out_probability(), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4):
        losses = model.loss(images, samples)
        optimizer.zero_grad()
        losses["decode.loss_negatives"].backward()
        optimizer.step()
    assert losses["decode.loss_negatives"].item() > 0 and ruled_out_probability() < 0.8 * before


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_other_losses_are_the_same(head: str) -> None:
    backbone = "swin-nano" if head == "upernet" else "internimage-nano-h"
    torch.manual_seed(0)
    model = build_segmentor(nano_config(backbone, head))
    images, found = torch.randn(2, 3, 64, 64), []
    for which in ("negatives", "none"):
        samples = [sample([[1] * 64] * 64, [[True] + [False] * 4]) for _ in range(2)]
        for each in samples:
            each.gt_sem_seg.data[0, :32] = 3
            if which == "none":
                del each.negatives, each.surely_wrong
        torch.manual_seed(1)
        found.append({name: value.detach() for name, value in model.loss(images, samples).items()})
    found[0].pop("decode.loss_negatives")
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
