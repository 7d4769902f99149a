"""Rare classes: their weight in the loss, and samples that are chosen for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from train.tiny import MASK2FORMER, UPERNET

from vss.configs.resolve import resolve
from vss.configs.resolved import RareClassSampling
from vss.core.errors import UserError
from vss.models.build import build_segmentor
from vss.models.set_loss import SetLoss, Targets
from vss.train.class_balance import CLASS_PIXELS, MixedPixels, RareClasses, median_frequency, weighted
from vss.train.sampling import SeededDataset

# Three frames: class 0 fills most of all three, class 2 a corner of one of them; class 1 is nowhere.
PIXELS = MixedPixels(
    frame=np.array([0, 1, 1, 2]),
    train_id=np.array([0, 0, 2, 0]),
    pixels=np.array([100, 96, 4, 100]),
    weight=np.array([1.0, 1.0, 1.0, 1.0]),
)


def test_median_frequency_by_hand() -> None:
    # Frequencies: 296 / 300 of the pixels of its frames, and 4 / 100; their median is the mean of the two.
    often, seldom = 296 / 300, 4 / 100
    median = (often + seldom) / 2
    assert median_frequency(PIXELS, 4) == pytest.approx([median / often, 1, median / seldom, 1])


def test_the_loss_is_mmsegmentations_with_class_weights() -> None:
    """A pixel counts by the weight of its class; the mean is over the weights of the labelled pixels."""
    weights = np.linspace(0.5, 3, 124).tolist()
    config = resolve({"config": UPERNET}).model.to_dict()
    model = build_segmentor(weighted(config, weights))
    logits = torch.randn(2, 124, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30).reshape(2, 3, 5) * 4
    labels[0, 0, :2] = 255
    known = labels != 255
    each = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")[known]
    factor = torch.tensor(weights)[labels[known]]
    by_hand = (each * factor).sum() / factor.sum()
    for head, scale in ((model.decode_head, 1.0), (model.auxiliary_head, 0.4)):
        assert float(head.loss_decode(logits, labels, ignore_index=255)) == pytest.approx(scale * float(by_hand))
    assert weighted(config, None) is config


def test_mask2former_divides_by_the_weights_of_its_queries_classes() -> None:
    numbers = dict(num_points=4, oversample_ratio=3, importance_sample_ratio=0.75, weights=(2, 5, 5))
    head = build_segmentor(weighted(resolve({"config": MASK2FORMER}).model.to_dict(), [2.0] * 124)).decode_head
    assert head.set_loss.class_weight == [2.0] * 124 + [0.1]
    loss = SetLoss(num_classes=3, no_object_weight=0.1, class_weight=[1.0, 4.0, 2.0], **numbers)
    label_map = torch.tensor([[0, 0, 1, 255]] * 4)
    targets = [Targets.from_label_map(label_map, ignore_index=255)]
    class_logits, mask_logits = torch.zeros(1, 5, 4), torch.zeros(1, 5, 4, 4)
    # Two of five queries are matched, to classes 0 and 1; every class has the probability 1/4.
    found = loss([class_logits], [mask_logits], targets)["loss_cls"]
    assert float(found) == pytest.approx(2 * np.log(4))
    assert float(loss.denominators([targets[0].labels], 5, torch.device("cpu")).class_weight) == pytest.approx(5.3)
    plain = SetLoss(num_classes=3, no_object_weight=0.1, **numbers)
    assert float(plain.denominators([targets[0].labels], 5, torch.device("cpu")).class_weight) == pytest.approx(2.3)


def test_a_rare_class_is_chosen_first_and_then_a_frame_that_has_it() -> None:
    rare = RareClasses(PIXELS, RareClassSampling(temperature=1.0, min_pixels=1))
    share = np.exp([1 - 296 / 300, 1 - 4 / 300])
    assert rare.probabilities == pytest.approx(share / share.sum())
    chosen = Counter(rare.choose(np.random.default_rng([0, position])) for position in range(2000))
    assert set(chosen) == {(0, 0), (0, 1), (0, 2), (2, 1)}
    assert chosen[2, 1] / 2000 == pytest.approx(rare.probabilities[1], abs=0.04)
    cold = RareClasses(PIXELS, RareClassSampling(temperature=0.01, min_pixels=1))
    assert {cold.choose(np.random.default_rng(n)) for n in range(50)} == {(2, 1)}
    assert set(RareClasses(PIXELS, RareClassSampling(0.01, 5)).probabilities) == {1.0}  # class 2 has 4 pixels only
    with pytest.raises(UserError, match="min_pixels: is 101"):
        RareClasses(PIXELS, RareClassSampling(0.01, 101))


class Crops:
    """Three frames whose labels are a crop: every fourth one of frame 1 shows class 2."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, float]] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        draw = np.random.rand()
        if index == 1 and draw < 0.25:
            labels[0, :2, :2] = 2
        self.drawn.append((index, draw))
        return {"draw": draw, "data_samples": SimpleNamespace(gt_sem_seg=SimpleNamespace(data=labels))}


def test_samples_are_cropped_until_the_class_is_in_and_depend_on_the_position_only(tmp_path: Path) -> None:
    file = tmp_path / "pixels.npz"
    np.savez(file, **vars(PIXELS))
    chosen = {"pixels": str(file), "settings": {"temperature": 0.01, "min_pixels": 4}}
    forward, backward = (SeededDataset(datasets=[Crops()], seed=3, rare_classes=chosen) for _ in range(2))
    there = [forward[position] for position in range(40)]
    assert [sample["draw"] for sample in there] == [backward[p]["draw"] for p in reversed(range(40))][::-1]
    having = [bool((sample["data_samples"].gt_sem_seg.data == 2).any()) for sample in there]
    assert sum(having) > 30  # 40 * (1 - 0.75^10) = 37.7 are expected, and without the tries 10
    assert {index for index, _ in forward.datasets[0].drawn} == {1}
    assert len(forward.datasets[0].drawn) < 40 * 10


def test_a_training_with_both(
    run_train: Callable[..., dict[str, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"class_weights": "median_frequency", "rare_class_sampling": {"min_pixels": 20}}
    run_train(max_iters=1, **settings)
    # Class 3 surrounds a rectangle of one of three others.
    assert re.search(r"class weights from 0\.\d+ \(stair\) to 1 \(", capsys.readouterr().err)
    assert list((tmp_path / "work").glob(f"*/{CLASS_PIXELS}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": {"wal": 2}}, r"class_weights: vspw has no class 'wal' \(did you mean 'wall'"),
        ({"class_weights": {"wall": 0}}, "class_weights.*0"),
        ({"class_weights": "inverse"}, "class_weights.*inverse"),
        ({"class_weights": "median_frequency", "label_shift": True}, "label_shift: allowed only without class_weights"),
        ({"rare_class_sampling": {"temprature": 1}}, "rare_class_sampling.*temprature"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve({"config": UPERNET, **options})
    assert "\n" not in str(caught.value)
