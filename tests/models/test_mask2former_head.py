"""Mask2Former: golden forward pass, matching, losses and gradients; behaviour of the parts."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from models.golden_models import load_meta
from safetensors.torch import load_file

from tests.golden import stored_results
from vss.models.build import build_segmentor
from vss.models.mask2former_head import Mask2FormerHead, _blocked
from vss.models.rows import mask2former_config, segmentor_config
from vss.models.set_loss import SetLoss, Targets, matching_cost, point_sample

# Tolerances of the golden numbers: logits 1e-4, scores 2e-5, second softmax 3e-6, losses 4e-6 relative.
TOLERANCE = {"logits": 1e-4, "score": 2e-5, "softmax": 3e-6}


def tolerance(name: str, seen: dict) -> float:
    kind = "softmax" if "softmax" in name or "rescaled" in name else "score" if "score" in name else "logits"
    # What has no measured rounding of its own is the last layer, or a second softmax of the same scores.
    if name.endswith("_last") and name not in seen:
        stem = name.removesuffix("last") + "layer"
        name = max((n for n in seen if n.startswith(stem)), key=lambda n: int(n.removeprefix(stem)), default=name)
    measured = seen.get(name, seen.get("score_softmax2", {"max_abs": 0.0}))
    return max(TOLERANCE[kind], 2 * measured["max_abs"])


def assert_near(actual: torch.Tensor, expected: torch.Tensor, atol: float, what: object) -> None:
    assert actual.shape == expected.shape, what
    assert (actual - expected).abs().max().item() <= atol, (what, (actual - expected).abs().max().item())


@pytest.mark.golden
@torch.no_grad()
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float64, 1), (torch.float32, 2)])
def test_forward_matches_upstream(mask2former_folder, segmentor, dtype, factor):
    """The tolerance is upstream's own rounding in float32; two float32 results differ by up to twice as much."""
    golden, meta = load_file(mask2former_folder / "forward.safetensors"), load_meta(mask2former_folder)["forward"]
    found = forward_tensors(copy.deepcopy(segmentor).to(dtype).eval(), golden)
    assert found.keys() >= golden.keys() - {"image"}
    for name, tensor, expected in stored_results(found, golden, case="forward"):
        assert_near(tensor, expected, factor * tolerance(name, meta["f32_vs_f64"]), name)


def forward_tensors(segmentor, golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns everything that a golden case may store, under its names."""
    image = golden["image"].to(next(segmentor.parameters()).dtype)
    features = segmentor.extract_feat(image)
    mask_features, memories = segmentor.decode_head.pixel_decoder(features)
    class_logits, mask_logits = segmentor.decode_head(features)
    resized = segmentor.encode_decode(image, [{}])
    found = {
        "mask_features": mask_features,
        "cls_logits_last": class_logits[-1],
        "mask_logits_last": mask_logits[-1],
        "score_quarter": segmentor.class_logits(image),
        "score_full": resized,
        "score_softmax2": segmentor.probabilities(resized, "as_published"),
    }
    # Upstream's flag says that the input is a flipped frame, so the result of the same input is mirrored.
    for name, scores in (("inference_rescaled", resized), ("inference_rescaled_flip", resized.flip(-1))):
        if name in golden:  # which alone tells the size
            scores = F.interpolate(scores, size=golden[name].shape[-2:], mode="bilinear", align_corners=False)
            found[name] = segmentor.probabilities(scores, "as_published")
    found |= {f"multi_scale_memory{i}": memory for i, memory in enumerate(memories)}
    found |= {f"cls_logits_layer{i}": logits for i, logits in enumerate(class_logits)}
    return found | {f"mask_logits_layer{i}": logits for i, logits in enumerate(mask_logits)}


@pytest.fixture
def golden_loss(mask2former_folder, segmentor):
    """Backbone features that take gradients, stored tensors, description and the head in training mode."""
    features = load_file(mask2former_folder / "backbone_feats.safetensors")
    features = [features[f"feat{i}"].requires_grad_() for i in range(len(features))]
    head = segmentor.decode_head.train()
    head.zero_grad()
    return features, load_file(mask2former_folder / "loss.safetensors"), load_meta(mask2former_folder)["loss"], head


@pytest.mark.golden
def test_matching_and_points_match_upstream(golden_loss):
    features, stored, meta, head = golden_loss
    targets = [Targets.from_label_map(label_map, ignore_index=255) for label_map in stored["label_map"]]
    with torch.no_grad():
        layers = list(zip(*head(features), strict=True))
    criterion = head.set_loss
    torch.manual_seed(meta["torch_seed"])
    found = {f"img{i}.gt_labels": target.labels for i, target in enumerate(targets)}
    masks = {}
    # In upstream's order: its random numbers are drawn layer by layer.
    for layer, (class_logits, mask_logits) in enumerate(layers):
        matched = []
        for i, target in enumerate(targets):
            match, name = criterion.match(class_logits[i], mask_logits[i], target), f"layer{layer}.img{i}."
            found |= {name + "match_points": match.points, name + "cost": match.cost}
            found |= {name + "match_query": match.query, name + "match_gt": match.target}
            matched.append(mask_logits[i, match.query])
        matched = torch.cat(matched)
        state = torch.get_rng_state()
        found[f"layer{layer}.oversample_points"] = torch.rand(len(matched), criterion.num_candidates, 2)
        torch.set_rng_state(state)
        points = criterion.loss_points(matched)
        found |= {f"layer{layer}.loss_points": points, f"layer{layer}.random_points": points}
        masks[f"layer{layer}.loss_points"] = matched
    for name, tensor, expected in stored_results(found, stored, case="loss"):
        if name.endswith(".cost"):
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-4)
        elif name.endswith(".loss_points"):
            assert tensor.shape == expected.shape
            assert_same_points(tensor, expected, masks[name], name)
        elif name.endswith(".random_points"):  # the last of the loss's points
            assert torch.equal(tensor[:, tensor.shape[1] - expected.shape[1] :], expected), name
        else:
            assert torch.equal(tensor, expected), name


def assert_same_points(points: torch.Tensor, expected: torch.Tensor, masks: torch.Tensor, name: str) -> None:
    """The same points of every mask in any order; one may be another point that is as uncertain up to rounding."""
    for mask, ours, theirs in zip(masks, points.tolist(), expected.tolist(), strict=True):
        ours, theirs = set(map(tuple, ours)), set(map(tuple, theirs))
        swapped = [sorted(a - b) for a, b in ((ours, theirs), (theirs, ours))]
        assert len(swapped[0]) == len(swapped[1]) <= 1, name
        if swapped[0]:
            logits = point_sample(mask[None, None], torch.tensor(swapped).view(1, 2, 2)).flatten().abs()
            assert logits.diff().abs() < TOLERANCE["logits"], name


@pytest.mark.golden
def test_losses_and_gradients_match_upstream(golden_loss):
    features, stored, meta, head = golden_loss
    targets = [Targets.from_label_map(label_map, ignore_index=255) for label_map in stored["label_map"]]
    torch.manual_seed(meta["torch_seed"])
    losses = head.set_loss(*head(features), targets)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(meta["losses"], rel=4e-6, abs=4e-6)
    total = sum(losses.values())
    assert total.item() == pytest.approx(meta["total"], rel=4e-6)
    total.backward()
    parameters = dict(head.named_parameters())
    parameters |= {f"feat{i}": feature for i, feature in enumerate(features)}
    gradients = {f"grad.{name}": parameter.grad for name, parameter in parameters.items()}
    for name, gradient, expected in stored_results(gradients, stored, case="loss"):
        assert_near(gradient / expected.abs().max(), expected / expected.abs().max(), 2e-5, name)


def nano(**overrides) -> Mask2FormerHead:
    torch.manual_seed(0)
    arguments = {
        "in_channels": [8, 16, 32, 64],
        "num_classes": 5,
        "feat_channels": 32,
        "num_queries": 6,
        "num_heads": 4,
        "encoder_layers": 1,
        "encoder_ffn_channels": 32,
        "decoder_layers": 3,
        "decoder_ffn_channels": 32,
        "num_points": 32,
    }
    return Mask2FormerHead(**(arguments | overrides))


def feature_maps(images: int = 2, height: int = 32, width: int = 48) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(images, 8 * 2**i, height // 2**i, width // 2**i) for i in range(4)]


def samples(label_maps: torch.Tensor) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=label_map[None])) for label_map in label_maps]


def test_a_query_with_an_empty_mask_looks_everywhere():
    mask_logits = torch.full((1, 3, 4, 4), -5.0)
    mask_logits[0, 1, :, 2:] = 5.0
    blocked = _blocked(mask_logits, (2, 2))
    assert not blocked[0, 0].any() and not blocked[0, 2].any()
    assert blocked[0, 1].tolist() == [True, False, True, False]


def test_exactly_one_half_may_be_looked_at():
    assert not _blocked(torch.zeros(1, 1, 2, 2), (2, 2)).any()


def test_class_logits_are_the_last_prediction():
    head, features = nano().eval(), feature_maps()
    with torch.no_grad():
        class_logits, mask_logits = head(features)
        scores = head.class_logits(features)
    assert len(class_logits) == len(mask_logits) == 4
    q = class_logits[-1].softmax(-1)[..., :-1]
    torch.testing.assert_close(scores, (q[..., None, None] * mask_logits[-1].sigmoid()[:, :, None]).sum(1))


def test_images_of_a_batch_do_not_mix():
    head, features = nano().eval(), feature_maps()
    with torch.no_grad():
        together = head.class_logits(features)
        alone = torch.cat([head.class_logits([f[i : i + 1] for f in features]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["paper", "as_published"])
def test_probabilities_sum_to_one_even_for_zero_scores(protocol):
    scores = torch.rand(2, 5, 3, 4)
    scores[0, :, 0, 0] = 0
    probabilities = nano().probabilities(scores, protocol)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 3, 4))
    torch.testing.assert_close(probabilities[0, :, 0, 0], torch.full((5,), 0.2))


def test_paper_protocol_is_scale_free_and_published_is_not():
    head, scores = nano(), torch.tensor([0.2, 0.6, 0.0, 0.0, 0.0]).view(1, 5, 1, 1)
    expected = torch.tensor([0.25, 0.75, 0.0, 0.0, 0.0])
    torch.testing.assert_close(head.probabilities(scores, "paper").flatten(), expected)
    torch.testing.assert_close(head.probabilities(scores * 7, "paper").flatten(), expected)
    torch.testing.assert_close(head.probabilities(scores, "as_published").flatten(), scores.flatten().softmax(0))


def test_targets_split_a_label_map():
    label_map = torch.tensor([[255, 3], [0, 3]])
    targets = Targets.from_label_map(label_map, ignore_index=255)
    assert targets.labels.tolist() == [0, 3]
    assert targets.masks.tolist() == [[[False, False], [True, False]], [[False, True], [False, True]]]


def test_point_sample_reads_pixel_centres():
    values = torch.arange(6.0).view(1, 1, 2, 3)
    centres = torch.tensor([[[(x + 0.5) / 3, (y + 0.5) / 2] for y in range(2) for x in range(3)]])
    assert point_sample(values, centres).flatten().tolist() == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-6)


def test_matching_cost_by_hand():
    class_logits = torch.tensor([[0.0, 0.0]])  # one query, one class and no-object: probability 1/2
    mask_logits = torch.zeros(1, 2)  # mask probability 1/2 at two points
    cost = matching_cost(class_logits, mask_logits, torch.tensor([0]), torch.tensor([[1.0, 0.0]]), weights=(2, 5, 5))
    cross_entropy, dice = torch.log(torch.tensor(2.0)), 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert cost.item() == pytest.approx(2 * -0.5 + 5 * cross_entropy.item() + 5 * dice)


def criterion(**overrides) -> SetLoss:
    arguments = {
        "num_classes": 3,
        "num_points": 16,
        "oversample_ratio": 3.0,
        "importance_sample_ratio": 0.75,
        "weights": (2.0, 5.0, 5.0),
        "no_object_weight": 0.1,
    }
    return SetLoss(**(arguments | overrides))


def test_matching_finds_the_cheapest_assignment():
    torch.manual_seed(0)
    targets = Targets.from_label_map(torch.randint(0, 3, (8, 8)), ignore_index=255)
    match = criterion().match(torch.randn(5, 4), torch.randn(5, 8, 8), targets)
    total = match.cost[match.query, match.target].sum().item()
    cheapest = min(
        sum(match.cost[q, g].item() for g, q in enumerate(queries)) for queries in itertools.permutations(range(5), 3)
    )
    assert total == pytest.approx(cheapest)
    assert match.query.tolist() == sorted(match.query.tolist())


def test_fewer_queries_than_classes():
    torch.manual_seed(0)
    targets = Targets.from_label_map(torch.arange(3).repeat(6, 2), ignore_index=255)
    match = criterion().match(torch.randn(2, 4), torch.randn(2, 8, 8), targets)
    assert len(match.query) == 2


def test_loss_points_are_the_most_uncertain_ones():
    torch.manual_seed(0)
    mask_logits = torch.linspace(-4, 4, 64).repeat(64, 1)[None]  # zero in the middle column
    points = criterion(importance_sample_ratio=1.0).loss_points(mask_logits)
    assert points.shape == (1, 16, 2)
    assert (points[..., 0] - 0.5).abs().max() < 0.25  # 16 of 48 uniform candidates


def test_an_image_of_ignored_pixels_only_trains_no_object():
    head = nano()
    losses = head.loss(feature_maps(), samples(torch.full((2, 64, 96), 255)), {})
    assert set(losses) == {f"{p}loss_{k}" for p in ("", "d0.", "d1.", "d2.") for k in ("cls", "mask", "dice")}
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_one_empty_image_in_a_batch():
    label_maps = torch.stack((torch.full((64, 96), 255), torch.randint(0, 5, (64, 96))))
    losses = nano().loss(feature_maps(), samples(label_maps), {})
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_mask"].item() > 0


def test_losses_of_micro_batches_average_to_those_of_the_batch(monkeypatch):
    """Although one image has a single class and the other five: both divide by what the batch holds."""
    points = torch.rand(4096, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "rand", lambda shape, device: points[: shape[1]].expand(shape))
    label_maps = torch.stack(
        (torch.zeros(64, 96, dtype=torch.long), torch.arange(5).repeat_interleave(20)[:96].repeat(64, 1))
    )
    head, features, images = nano(), feature_maps(), samples(label_maps)
    whole = head.loss(features, images, {})
    apart = [head.loss([f[i : i + 1] for f in features], images[i : i + 1], {}) for i in range(2)]
    assert abs(sum(float(part["loss_dice"]) for part in apart) / 2 - float(whole["loss_dice"])) > 0.05
    head.share_denominators(images, micro_batches=2)
    parts = [head.loss([f[i : i + 1] for f in features], images[i : i + 1], {}) for i in range(2)]
    again = head.loss(features, images, {})
    for name, value in whole.items():
        assert float(again[name]) == float(value), name  # a batch of its own again
        assert sum(float(part[name]) for part in parts) / 2 == pytest.approx(float(value), rel=1e-4), name


def test_a_prediction_that_is_not_finite_is_named():
    targets = Targets.from_label_map(torch.zeros(4, 4, dtype=torch.long), ignore_index=255)
    with pytest.raises(FloatingPointError, match="NaN"):
        criterion().match(torch.full((2, 4), float("nan")), torch.zeros(2, 4, 4), targets)


def test_losses_are_float32_under_autocast():
    head, label_maps = nano(), torch.randint(0, 5, (2, 64, 96))
    torch.manual_seed(5)
    expected = head.loss(feature_maps(), samples(label_maps), {})
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(5)
        losses = head.loss(feature_maps(), samples(label_maps), {})
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=0.1), name


def test_checkpointing_changes_no_gradient():
    label_maps = torch.randint(0, 5, (2, 64, 96))
    gradients = []
    for with_cp in (False, True):
        head = nano(with_cp=with_cp)
        torch.manual_seed(5)
        sum(head.loss(feature_maps(), samples(label_maps), {}).values()).backward()
        gradients.append({name: p.grad for name, p in head.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_one_batch_is_learnt_by_heart():
    """A whole small segmentor labels every region of one batch correctly after a few dozen steps."""
    torch.manual_seed(0)
    heads = mask2former_config("internimage-nano-h", num_classes=4, size="nano", num_points=256)
    segmentor = build_segmentor(segmentor_config("internimage-nano-h", heads)).train()
    label_maps = torch.zeros(2, 64, 64, dtype=torch.long)
    label_maps[0, 20:52, 8:40] = 1
    label_maps[1, :, 32:] = 2
    label_maps[1, 8:24, 8:24] = 3
    label_maps[:, 0] = 255
    colours = torch.randn(4, 3)
    images = colours[label_maps.clamp(max=3)].permute(0, 3, 1, 2) + 0.1 * torch.randn(2, 3, 64, 64)
    optimizer = torch.optim.AdamW(segmentor.parameters(), lr=1e-3)
    for _ in range(40):
        losses = segmentor.loss(images, samples(label_maps))
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if "loss" in name).backward()
        optimizer.step()
    with torch.no_grad():
        prediction = segmentor.eval().encode_decode(images, [{}]).argmax(1)
    known = label_maps != 255
    assert (prediction == label_maps)[known].float().mean() > 0.95
