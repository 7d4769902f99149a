"""InternImage: golden features and gradients, options, checkpointing, mixed precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models.golden_models import intern_image_arguments, load_meta, load_weights32
from safetensors.torch import load_file

from tests.golden import stored_results
from vss.models.intern_image import InternImage

# Tolerances of the golden numbers: features 2e-5 (layer scale) and 5e-6, gradients 1.3e-5 of the largest.
FEATURE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1.5e-5


def golden_cases(golden_dir: Path) -> list[tuple[dict, InternImage, dict, dict]]:
    folder = golden_dir / "internimage"
    cases = []
    descriptions = load_meta(folder)["cases"]
    assert descriptions
    for case in descriptions:
        file, _, note = case["state_dict_file"].partition(" ")
        weights = load_weights32(folder / file, prefix="backbone." if "backbone." in note else "")
        model = InternImage(**intern_image_arguments(case["constructor"]))
        model.load_state_dict(weights, strict=True)
        cases.append((case, model, load_file(folder / case["features_file"]), load_file(folder / case["grads_file"])))
    return cases


@pytest.mark.golden
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float64, 1), (torch.float32, 2)])
def test_features_match_upstream(golden_dir, dtype, factor):
    for case, model, features, _ in golden_cases(golden_dir):
        with torch.no_grad():
            output = model.eval().to(dtype)(features["image"].to(dtype))
        found = {f"feat{i}": feature for i, feature in enumerate(output)}
        for name, feature, expected in stored_results(found, features, case=case["name"]):
            seen = case["f32_vs_f64_features"][int(name.removeprefix("feat"))]["max_abs"]
            difference = (feature - expected).abs().max().item()
            assert feature.shape == expected.shape
            assert difference <= factor * max(FEATURE_TOLERANCE, 2 * seen), (case["name"], name, difference)


def gradients(model: InternImage, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the gradients by the names of the golden cases."""
    return {f"grad.{name}": tensor.grad for name, tensor in (*model.named_parameters(), ("image", image))}


@pytest.mark.golden
def test_gradients_match_upstream_in_float64(golden_dir):
    for case, model, features, expected in golden_cases(golden_dir):
        model.double().train()
        image = features["image"].double().requires_grad_()
        loss = sum((feature * expected[f"w{i}"]).sum() for i, feature in enumerate(model(image)))
        loss.backward()
        for name, value, reference in stored_results(
            {"loss_f64": loss.detach()[None], **gradients(model, image)}, expected, case=case["name"]
        ):
            if name == "loss_f64":
                torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-7)
            else:  # stored as float32
                difference = (value - reference.double()).abs().max() / reference.abs().max()
                assert difference <= 1e-6, (case["name"], name, difference)


@pytest.mark.golden
def test_gradients_match_upstream_in_float32(golden_dir):
    for case, model, features, expected in golden_cases(golden_dir):
        model.train()
        image = features["image"].clone().requires_grad_()
        sum((feature * expected[f"w{i}"]).sum() for i, feature in enumerate(model(image))).backward()
        for name, gradient, reference in stored_results(gradients(model, image), expected, case=case["name"]):
            seen = case["f32_vs_f64_grads"][name.removeprefix("grad.")]["max_rel_to_max"]
            difference = (gradient - reference).abs().max() / reference.abs().max()
            assert difference <= max(GRADIENT_TOLERANCE, 2 * seen), (case["name"], name, difference)


STYLES = {
    "t": {"layer_scale": 1.0},
    "xl": {"layer_scale": 1.0, "offset_scale": 2.0, "post_norm": True},
    "h": {
        "dw_kernel_size": 5,
        "res_post_norm": True,
        "level2_post_norm": True,
        "level2_post_norm_block_ids": [1],
        "center_feature_scale": True,
    },
    "g": {
        "dw_kernel_size": 5,
        "post_norm": True,
        "level2_post_norm": True,
        "level2_post_norm_block_ids": [1],
        "center_feature_scale": True,
    },
    "without_center": {"layer_scale": 1.0, "remove_center": True},
}


def tiny(style: str, **overrides) -> InternImage:
    torch.manual_seed(0)
    model = InternImage(channels=16, depths=[1, 1, 2, 1], groups=[1, 2, 4, 8], **(STYLES[style] | overrides))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".offset." in name or ".mask." in name:  # zero at the start: nothing would be deformed
                parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize("style", STYLES)
def test_feature_sizes_are_rounded_up(style):
    features = tiny(style)(torch.randn(2, 3, 45, 70))
    assert [tuple(f.shape) for f in features] == [(2, 16, 12, 18), (2, 32, 6, 9), (2, 64, 3, 5), (2, 128, 2, 3)]


def test_out_indices_choose_features():
    image = torch.randn(1, 3, 32, 32)
    everything, chosen = tiny("h")(image), tiny("h", out_indices=(1, 3))(image)
    assert len(chosen) == 2
    torch.testing.assert_close(chosen[0], everything[1])
    torch.testing.assert_close(chosen[1], everything[3])


@pytest.mark.parametrize("style", ["xl", "h"])
def test_checkpointing_changes_no_gradient(style):
    image = torch.randn(1, 3, 32, 48)
    gradients = []
    for with_cp in (False, True):
        model = tiny(style, with_cp=with_cp, drop_path_rate=0.3).train()
        torch.manual_seed(1)  # the same blocks are dropped
        sum(f.square().mean() for f in model(image)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_offsets_and_softmax_stay_in_float32_under_autocast(monkeypatch):
    import vss_ops

    seen = []

    def spy(value, offset, mask, *, softmax=False, **geometry):
        seen.append((value.dtype, offset.dtype, mask.dtype))
        return original(value, offset, mask, softmax=softmax, **geometry)

    original = vss_ops.dcnv3
    monkeypatch.setattr(vss_ops, "dcnv3", spy)
    image = torch.randn(1, 3, 32, 48)
    model = tiny("h").eval()
    with torch.no_grad():
        expected = model(image)
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(image)
    assert set(seen) == {(torch.bfloat16, torch.float32, torch.float32)}
    for a, b in zip(output, expected, strict=True):
        assert a.isfinite().all()
        assert (a.float() - b).norm() < 0.05 * b.norm()


def test_stochastic_depth_grows_linearly():
    model = tiny("xl", drop_path_rate=0.4)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for level in model.levels for b in level.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_groups_must_divide_channels():
    with pytest.raises(ValueError, match="divisible by group"):
        InternImage(channels=16, groups=[3, 6, 12, 24])
