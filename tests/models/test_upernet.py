"""UPerHead and FCNHead are MMSegmentation's own; golden numbers hold that they compute what was published."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from models.golden_models import load_meta, load_weights32
from safetensors.torch import load_file

import vss.models.build  # noqa: F401  registers everything
from tests.golden import stored_results
from vss.models.rows import ohem_sampler, upernet_config

# tolerances of the golden numbers' README
LOGIT_TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def golden(golden_dir):
    """Description, tensors and the two heads with their weights, in evaluation mode (the losses have no dropout)."""
    folder = golden_dir / "upernet"
    meta, tensors = load_meta(folder), load_file(folder / "io.safetensors")
    heads = {}
    for name, config in meta["constructor"].items():
        heads[name] = MODELS.build(dict(config)).eval()
        heads[name].load_state_dict(load_weights32(folder / "state_dict.safetensors", prefix=f"{name}."), strict=True)
    return meta, tensors, heads


def logits(golden) -> dict[str, torch.Tensor]:
    """Both heads' results for the stored features, in float64: only upstream's rounding is left, not this CPU's."""
    meta, tensors, heads = golden
    count = len(meta["constructor"]["decode_head"]["in_channels"])
    features = [tensors[f"feat{i}"].double() for i in range(count)]
    names = (("decode_head", "decode_logits"), ("auxiliary_head", "aux_logits"))
    return {name: copy.deepcopy(heads[head]).double()(features) for head, name in names}


def samples(tensors) -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in tensors["label"]]


@pytest.mark.golden
@torch.no_grad()
def test_logits_match_upstream(golden):
    meta, tensors, _ = golden
    for name, found, expected in stored_results(logits(golden), tensors, case="upernet"):
        difference = (found - expected).abs().max().item()
        assert difference <= max(LOGIT_TOLERANCE, 2 * meta["f32_vs_f64"][name]["max_abs"]), (name, difference)


@pytest.mark.golden
@torch.no_grad()
def test_losses_and_ohem_match_upstream(golden):
    meta, tensors, heads = golden
    decode, auxiliary = heads["decode_head"], heads["auxiliary_head"]
    given = {name: tensors.get(name, found.float()) for name, found in logits(golden).items()}
    if "ohem_weight" in tensors and "decode_logits_upsampled" in tensors:
        weight = decode.sampler.sample(tensors["decode_logits_upsampled"], tensors["label"])
        assert torch.equal(weight, tensors["ohem_weight"])
    sampler = decode.sampler
    found = {"aux": auxiliary.loss_by_feat(given["aux_logits"], samples(tensors))}
    if sampler is not None:
        found["decode_with_ohem"] = decode.loss_by_feat(given["decode_logits"], samples(tensors))
    decode.sampler = None
    found["decode_without_ohem"] = decode.loss_by_feat(given["decode_logits"], samples(tensors))
    decode.sampler = sampler
    for name, losses, expected in stored_results(found, meta["losses"], case="upernet"):
        assert losses["loss_ce"].item() == pytest.approx(expected["loss_ce"], rel=1e-5), name
        assert losses["acc_seg"].item() == pytest.approx(expected["acc_seg"], rel=1e-5, abs=1e-6), name


@pytest.mark.golden
def test_rows_make_the_heads_of_the_golden_case(golden):
    """Our config functions leave no argument of the published heads at another default."""
    meta, _, _ = golden
    published = meta["constructor"]
    samplers = {name: head["sampler"] for name, head in published.items() if "sampler" in head}
    samplers = {name: ohem_sampler(thresh=s["thresh"], min_kept=s["min_kept"]) for name, s in samplers.items()}
    ours = upernet_config(
        "swin-nano",
        num_classes=published["decode_head"]["num_classes"],
        norm="BN",
        ohem=samplers.get("decode_head"),
        auxiliary_ohem=samplers.get("auxiliary_head"),
        auxiliary_weight=published["auxiliary_head"]["loss_decode"]["loss_weight"],
    )
    for head, config in published.items():
        for name, value in config.items():
            if name in ("in_channels", "channels", "num_classes", "loss_decode"):
                continue
            found = ours[head][name]
            assert (list(found) if isinstance(found, tuple) else found) == value, (head, name)
        assert ours[head]["loss_decode"] == config["loss_decode"] | {"avg_non_ignore": False}


def test_ignored_pixels_count_in_the_mean():
    """Half of the pixels ignored: the loss is half of what it would be without them."""
    config = upernet_config("swin-nano", num_classes=3, size="nano", norm="BN")["decode_head"]
    head = MODELS.build(config).eval()
    logits = torch.randn(1, 3, 4, 4)
    label = torch.randint(0, 3, (1, 4, 4))
    whole = torch.nn.functional.cross_entropy(logits[..., :2], label[..., :2])
    label[..., 2:] = 255
    loss = head.loss_by_feat(logits, [SegDataSample(gt_sem_seg=PixelData(data=label))])["loss_ce"]
    assert loss.item() == pytest.approx(whole.item() / 2)
