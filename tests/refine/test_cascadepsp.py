"""CascadePSP's procedures against the public implementation, splitting, merging, settings."""

from __future__ import annotations

import hashlib
import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file

from tests.golden import stored_results
from tests.refine.scenes import BAR, DISC, GROUND, coarse, scene
from vss.configs.schema import read_section
from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.labels import VSPW
from vss.refine.background import BACKGROUND_CLASSES
from vss.refine.cascadepsp import (
    CascadePSP,
    high_res,
    image_tensor,
    mask_tensor,
    padded_forward,
    procedure_for,
    single_pass,
    to_working_size,
)
from vss.refine.network import NETWORKS, build_network, load_network
from vss.refine.parts import around_uncertain, expanded_box, merge_parts, split_classes, split_components
from vss.refine.settings import CascadePspSettings

PROCEDURES = {
    "process_im_single_pass": lambda network, image, mask, L: single_pass(network, [image], [mask], L=L)[0],
    "process_high_res_im": lambda network, image, mask, L: high_res(network, image, mask, L=L),
}


def weights_by_recipe(shapes: dict[str, tuple[int, ...]], recipe: dict) -> dict[str, np.ndarray]:
    """Draws every tensor of CascadePSP by the rule of the golden set's `weight_recipe`."""

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name in recipe["overrides"]:
            return np.full(shape, recipe["overrides"][name])
        rng = np.random.RandomState((zlib.crc32(name.encode()) + recipe["seed"]) % 2**32)
        z = rng.standard_normal(int(np.prod(shape))).reshape(shape)
        if name.endswith("running_mean"):
            return 0.1 * z
        if name.endswith("running_var"):
            return 1 + 0.1 * np.abs(z)
        if len(shape) == 4:
            extra = [factor for suffix, factor in recipe["extra_scale"].items() if name.endswith(suffix)]
            return z * np.sqrt(2 / np.prod(shape[1:])) * np.prod(extra)
        if name.endswith("bn3.weight"):
            return 0.3 + 0.03 * z
        return 1 + 0.1 * z if name.endswith(".weight") else 0.05 * z

    drawn = {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}
    digest = hashlib.sha256()
    for name in sorted(drawn):
        digest.update(name.encode() + drawn[name].astype("<f4").tobytes())
    assert digest.hexdigest() == recipe["sha256"]
    return drawn


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "cascadepsp" / "meta.json").read_text())


@pytest.fixture(scope="module")
def golden_weights(golden, tmp_path_factory):
    """The golden network's weights as a file like the released one: pickled, flat, every name prefixed."""
    network = build_network("cascadepsp")
    shapes = {name: tuple(v.shape) for name, v in network.state_dict().items() if "num_batches" not in name}
    state = {name: torch.from_numpy(v) for name, v in weights_by_recipe(shapes, golden["weight_recipe"]).items()}
    counters = {name: v for name, v in network.state_dict().items() if "num_batches" in name}
    path = tmp_path_factory.mktemp("cascadepsp") / "model"
    torch.save({f"module.{name}": v for name, v in {**state, **counters}.items()}, path)
    return path


@pytest.fixture(scope="module")
def golden_network(golden_weights):
    name, network = load_network(golden_weights, device="cpu")
    assert name == "cascadepsp"
    return network


@pytest.mark.golden
@torch.inference_mode()
def test_golden_procedures(golden, golden_dir, golden_network):
    assert golden["cases"]
    for case in golden["cases"]:
        tensors = load_file(golden_dir / "cascadepsp" / case["file"])
        assert tensors.keys() >= case["tensors"].keys()
        image, mask = image_tensor(tensors["image_rgb"]), mask_tensor(tensors["mask"] > 127)
        calls = []

        def network(image, mask, inter_s8=None, calls=calls):
            calls.append((list(image.shape), golden_network(image, mask, inter_s8)))
            return calls[-1][1]

        output = PROCEDURES[case["function"]](network, image, mask, case["L"])
        assert len(calls) == case.get("num_network_calls", len(calls))
        found = {"image_tensor": image, "mask_tensor": mask, "output": output}
        for key in ("pred_224", "pred_56_2", "pred_28_3"):
            found[f"global_{key}"] = calls[0][1][key]
        for name, result, expected in stored_results(found, tensors, case=case["file"]):
            if name.startswith("global_"):  # ours pads a batch
                result = result[..., : expected.shape[-2], : expected.shape[-1]]
            atol = {"mask_tensor": 0, "image_tensor": 2e-6}.get(name, 1e-4)
            np.testing.assert_allclose(result, expected, rtol=0, atol=atol, err_msg=f"{case['file']} {name}")


@pytest.mark.golden
def test_golden_merge(golden_dir):
    folder = golden_dir / "cascadepsp_merge"
    meta = json.loads((folder / "meta.json").read_text())
    tensors = load_file(folder / "merge.safetensors")
    assert meta["images"]
    for name, image in meta["images"].items():
        labels = tensors[f"{name}.seg"]
        refined = []
        for component in image["components"]:
            prefix = f"{name}.{component['cls']}.{component['comp']}"
            box = expanded_box(tensors[f"{prefix}.seg"] > 127, 0.25)
            assert list(box) == component["bbox_rmin_rmax_cmin_cmax"], prefix
            refined.append((component["cls"], box, tensors[f"{prefix}.prob"].astype(float) / 255))
        merged, confidence = merge_parts(labels, refined, background=meta["background_classes"], background_weight=0.51)
        # Where two classes reach the same confidence upstream's label depends on the order of its files.
        decided = tensors.get(f"{name}.tie_pixels", np.zeros(labels.shape)) == 0
        assert (merged != labels)[decided].any(), name
        found = {f"{name}.merged": merged, f"{name}.confidence": confidence}
        for key, result, expected in stored_results(found, tensors, case=name):
            if key.endswith(".merged"):
                np.testing.assert_array_equal(result[decided], expected[decided], err_msg=key)
            else:  # Pillow 12 and 13 resize a probability to neighbours in float32
                np.testing.assert_allclose(result, expected, rtol=1.2e-7, err_msg=key)


def tiny_network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network("cascadepsp-mini").eval()


def crops(*sizes: tuple[int, int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    rng = np.random.default_rng(3)
    drawn = [scene(rng, *size) for size in sizes]
    return [image_tensor(image) for image, _ in drawn], [mask_tensor(truth == DISC) for _, truth in drawn]


@torch.inference_mode()
def test_a_batch_of_crops_equals_one_by_one():
    network = tiny_network()
    images, masks = crops((40, 64), (64, 64), (40, 64), (20, 32), (80, 128))
    together = single_pass(network, images, masks, L=64, batch_size=3)
    for image, mask, output in zip(images, masks, together, strict=True):
        assert output.shape == mask.shape
        alone = single_pass(network, [image], [mask], L=64)[0]
        np.testing.assert_allclose(output, alone, atol=1e-5)


@torch.inference_mode()
def test_masks_of_one_image_equal_one_by_one():
    network = tiny_network()
    image, truth = scene(np.random.default_rng(5), 110, 140)
    masks = torch.cat([mask_tensor(truth == label) for label in (GROUND, DISC, BAR)])
    together = high_res(network, image_tensor(image), masks, L=96, batch_size=2)
    for number in range(3):
        alone = high_res(network, image_tensor(image), masks[number : number + 1], L=96)
        np.testing.assert_allclose(together[number : number + 1], alone, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("size", "seen"), [((16, 24), (16, 24)), ((15, 24), (16, 32)), ((17, 20), (24, 24))])
def test_padding_grows_both_sides_when_one_needs_it(size, seen):
    def network(image, mask, inter_s8):
        assert image.shape[-2:] == mask.shape[-2:] == seen
        assert (mask[..., size[0] :, :] == -1).all() and (image[..., size[1] :] == 0).all()
        return {"pred_224": mask, "pred_56_2": mask}

    output = padded_forward(network, torch.ones(1, 3, *size), torch.ones(1, 1, *size))
    assert output["pred_224"].shape == (1, 1, *size)


class Echo(torch.nn.Module):
    """A network that finds every mask right as it is; `seen` are the sizes of its inputs."""

    def __init__(self):
        super().__init__()
        self.unused, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, image, mask, inter_s8=None):
        self.seen.append(tuple(mask.shape[-2:]))
        return dict.fromkeys(("pred_224", "pred_56_2"), (mask + 1) / 2)


def read(settings):
    return read_section(CascadePspSettings, "cascadepsp", settings, where="refine cascadepsp")


def echoed(settings, image, labels, *, of="cascadepsp"):
    network = Echo()
    refiner = CascadePSP(network, read(settings), suits=NETWORKS[of], classes=VSPW.classes)
    return refiner.refine(image, labels), network.seen


def test_a_network_that_repeats_its_input_changes_nothing():
    image, truth = scene(np.random.default_rng(2), 72, 100)
    for settings in (
        {"min_area": 50, "dilate": 3},
        {"mode": "single_pass", "min_area": 50, "dilate": 3},
        {"mode": "generic", "L": 80},
        {"mode": "generic", "L": 100, "fast": True},
        {"mode": "generic", "L": 70, "parts": "components", "min_area": 50},
    ):
        refined, _ = echoed(settings, image, truth)
        assert (refined != truth).mean() < 0.02, settings


def test_crops_that_do_not_fit_at_once_are_halved(capsys):
    image, truth = scene(np.random.default_rng(2), 72, 100)
    given = read({"mode": "generic", "L": 80, "min_area": 50, "batch_size": 8})
    expected = CascadePSP(Echo(), given, suits=NETWORKS["cascadepsp"], classes=VSPW.classes).refine(image, truth)

    class Full(Echo):
        most = 1

        def forward(self, image, mask, inter_s8=None):
            if len(mask) > self.most:
                raise torch.OutOfMemoryError
            return super().forward(image, mask, inter_s8)

    network = Full()
    refiner = CascadePSP(network, given, suits=NETWORKS["cascadepsp"], classes=VSPW.classes)
    np.testing.assert_array_equal(refiner.refine(image, truth), expected)
    assert "refine cascadepsp: the GPU's memory is full; crops at once from here on: 1" in capsys.readouterr().err
    network.most = 0
    with pytest.raises(UserError, match="one crop of 80 pixels does not fit into the memory of cpu; lower L"):
        refiner.refine(image, truth)


def test_label_maps_of_480p_are_refined_at_their_own_size():
    """As eval.py --ade does; in crops reduced to 224 pixels, thin poles would be lost."""
    labels = np.zeros((480, 853), np.uint8)
    labels[100:, 60:800:90] = labels[100:, 61:800:90] = 5
    image = np.zeros((480, 853, 3), np.uint8)
    settings = {"min_area": 100, "dilate": 3}
    refined, seen = echoed(settings, image, labels)
    np.testing.assert_array_equal(refined, labels)
    assert max(map(max, seen)) > 800
    assert max(map(max, echoed(settings, image, labels, of="cascadepsp-mini")[1])) <= 200  # 192, padded


def test_what_suits_a_network_is_its_own_mode_s():
    def resolved(**settings):
        return procedure_for(read(settings), NETWORKS["cascadepsp-mini"])

    assert (resolved().L, resolved().min_size, resolved().fast) == (192, 0, True)
    assert resolved(mode="single_pass").L == 192 and resolved(L=300).L == 300
    assert (resolved(mode="generic").L, resolved(mode="scene_parsing").fast) == (900, False)


@pytest.mark.parametrize(
    ("mode", "sides"),
    [
        ("scene_parsing", {100: 100, 300: 300, 1200: 900}),
        ("single_pass", {100: 224, 300: 300, 1200: 900}),
        ("generic", {100: 900, 300: 900, 1200: 900}),
        ("generic at 1200", {100: 1200, 1200: 1200, 1600: 1200}),
    ],
)
def test_sizes_that_the_global_step_works_at(mode, sides):
    mode, _, L = mode.partition(" at ")
    settings = {"mode": mode, "L": int(L)} if L else {"mode": mode}
    resolved = procedure_for(read(settings), NETWORKS["cascadepsp"])
    for side, expected in sides.items():
        image, mask = torch.zeros(1, 3, side // 2, side), torch.zeros(1, 1, side // 2, side)
        image, mask = to_working_size(image, mask, resolved.L, min_size=resolved.min_size)
        assert image.shape[-2:] == mask.shape[-2:] == (expected // 2, expected)


def test_components_are_split_dropped_and_boxed():
    labels = np.full((40, 60), 255, np.uint8)
    labels[5:15, 5:15] = 7  # 100 pixels
    labels[5:15, 30:50] = 7  # 200 pixels, 15 columns away
    labels[20:24, 5:9] = 7  # 16 pixels, too small
    labels[30:38, 10:30] = 9
    parts = split_components(labels, min_area=50, dilate=5, margin=0.25)
    assert [(p.label, int(p.mask.sum())) for p in parts] == [(7, 100), (7, 200), (9, 160)]
    # Rows 5..14, half of a quarter of 9 added on each side, cut to whole pixels; the end is the last row, exclusive.
    assert parts[0].box == (3, 15, 3, 15)
    assert [p.label for p in split_components(labels, min_area=50, dilate=0, margin=0.25, classes={9})] == [9]
    joined = split_components(labels, min_area=50, dilate=21, margin=0.25)
    assert [(p.label, int(p.mask.sum())) for p in joined] == [(7, 316), (9, 160)]
    whole = split_classes(labels, min_area=50)
    assert [(p.label, p.box) for p in whole] == [(7, (0, 40, 0, 60)), (9, (0, 40, 0, 60))]


def test_boxes_stay_within_the_frame():
    mask = np.zeros((20, 30), bool)
    mask[0:20, 28:30] = True
    assert expanded_box(mask, 0.25) == (0, 19, 27, 29)
    assert expanded_box(np.zeros((20, 30), bool), 0.25) == (0, 20, 0, 30)


def test_merge_by_hand():
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    whole = (0, 1, 0, 4)
    thing = np.array([[0.2, 0.6, 0.9, 0.5]])
    ground = np.array([[1.0, 1.0, 1.0, 0.97]])
    merged, confidence = merge_parts(
        labels, [(2, whole, thing), (3, whole, ground)], background={3}, background_weight=0.51
    )
    # 0.51 * 1.0 beats 0.5 but no thing above it; 0.51 * 0.97 beats nothing; 0.5 is not above 0.5.
    assert merged.tolist() == [[3, 2, 2, 1]]
    np.testing.assert_allclose(confidence, [[0.51, 0.6, 0.9, 0.5]], atol=1e-7)


def test_background_classes_are_vspw_classes():
    assert len(set(BACKGROUND_CLASSES)) == len(BACKGROUND_CLASSES)
    assert set(BACKGROUND_CLASSES) < set(VSPW.classes)


@pytest.fixture
def mini_weights(tmp_path):
    path = tmp_path / "mini.safetensors"
    save_file(tiny_network().state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mode": "double_pass"}, "double_pass"),
        ({"parts": "pixels"}, "pixels"),
        ({"precision": "fp8"}, "fp8"),
        ({"mode": "generic", "L": 64}, r"cascadepsp\.L: is 64, must be at least 66"),
        ({"classes": ["unicorn"]}, "unicorn"),
        ({"background": ["unicorn"]}, "unicorn"),
    ],
)
def test_mistakes_are_named(mini_weights, settings, named):
    with pytest.raises(UserError, match=named):
        CascadePSP.load(read(settings), weights=mini_weights, classes=VSPW.classes, device="cpu")


def test_weights_that_do_not_fit_are_named(mini_weights, tmp_path):
    def build(path):
        CascadePSP.load(read({}), weights=path, classes=VSPW.classes, device="cpu")

    with pytest.raises(UserError, match="no weights"):
        build(None)
    with pytest.raises(UserError, match=r"absent\.safetensors: no such"):
        build(tmp_path / "absent.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors: not weights of any"):
        build(tmp_path / "other.safetensors")
    state = load_file(mini_weights)
    del state["final_21.bias"]
    save_file({name: torch.from_numpy(value) for name, value in state.items()}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of the model, such as final_21\.bias"):
        build(tmp_path / "part.safetensors")


def test_skips_leave_labels_alone(mini_weights):
    image, truth = scene(np.random.default_rng(2), 64, 96)
    labels = coarse(truth)

    def refine(**settings):
        settings = {"L": 66, "min_area": 30, "dilate": 3, **settings}
        refiner = CascadePSP.load(read(settings), weights=mini_weights, classes=VSPW.classes, device="cpu")
        return refiner.refine(image, labels)

    np.testing.assert_array_equal(refine(classes=[]), labels)
    np.testing.assert_array_equal(refine(max_purity=1e-6), labels)
    np.testing.assert_array_equal(refine(min_area=labels.size), labels)
    only_disc = refine(classes=[VSPW.classes[DISC]])
    assert (only_disc[only_disc != labels] == DISC).all()


@pytest.mark.golden
@torch.inference_mode()
def test_real_images_of_any_size(real_data, golden_network):
    """A real photograph and its coarse mask, each side another than the network's; the weights are random."""
    image = read_image(real_data / "refine" / "motorbike.jpg")
    mask = np.array(Image.open(real_data / "refine" / "motorbike.png").convert("L")) > 127
    assert image.shape[:2] == mask.shape and 0 < mask.mean() < 1
    output = single_pass(golden_network, [image_tensor(image)], [mask_tensor(mask)], L=96)[0]
    assert output.shape == (1, 1, *mask.shape)
    assert 0 <= float(output.min()) < float(output.max()) <= 1


def test_only_crops_around_uncertain_pixels_are_left():
    labels = np.full((200, 240), 1, np.uint8)
    labels[60:140, 80:160] = 2
    parts = split_classes(labels, min_area=0)
    uncertain = np.zeros(labels.shape, bool)
    assert around_uncertain(parts, uncertain) == []
    uncertain[100, 120] = True  # in the middle of a part: it cannot change
    assert around_uncertain(parts, uncertain) == []
    uncertain[60, 81], uncertain[139, 158] = True, True
    found = around_uncertain(parts, uncertain, reach=2, context=10)
    assert [(part.label, part.box) for part in found] == [
        (label, box) for label in (1, 2) for box in ((50, 74, 71, 95), (129, 153, 148, 172))
    ]
    whole = around_uncertain(parts[:1], np.ones(labels.shape, bool), reach=2, context=200)
    assert [part.box for part in whole] == [(0, 200, 0, 240)]


def test_a_long_boundary_is_cut_into_tiles():
    labels = np.full((300, 300), 1, np.uint8)
    labels[:, 150:] = 2
    uncertain = np.zeros(labels.shape, bool)
    uncertain[:, 100:200] = True
    found = around_uncertain(split_classes(labels, min_area=0)[:1], uncertain, reach=4, context=16, side=96)
    rows = [(0, 96), (96, 192), (192, 288), (288, 300)]
    assert [part.used for part in found] == [(*row, 146, 154) for row in rows]
    assert [part.box for part in found] == [(*crop, 130, 170) for crop in ((0, 112), (80, 208), (172, 300), (268, 300))]


@pytest.mark.parametrize("mode", [None, "generic"])
def test_certain_pixels_stay_as_they_are(mode):
    """A network that takes everything for its part: only what is uncertain changes."""
    network = build_network("cascadepsp-mini").eval()
    torch.nn.init.constant_(network.final_21.bias, 50)
    labels = np.full((200, 200), 1, np.uint8)
    labels[:, 100:] = 2
    certainty = np.full(labels.shape, 255, np.uint8)
    certainty[20:30, 96:102] = 128
    given = read_section(
        CascadePspSettings, "cascadepsp", {"only_uncertain": 0.9, "min_area": 0, "mode": mode}, where="refine"
    )
    refiner = CascadePSP(network, given, suits=NETWORKS["cascadepsp-mini"], classes=["a", "b", "c"])
    image = np.zeros((200, 200, 3), np.uint8)
    found = refiner.refine_parts(image, labels, refiner.parts_of(labels), certainty)
    np.testing.assert_array_equal(found[certainty == 255], labels[certainty == 255])
    assert (found[certainty < 255] == 1).all()
    everywhere = np.full(labels.shape, 255, np.uint8)
    assert refiner.refine_parts(image, labels, refiner.parts_of(labels), everywhere) is labels


def test_a_cpu_without_bfloat16_uses_float32(monkeypatch, capsys):
    given = read_section(CascadePspSettings, "cascadepsp", {"precision": "bfloat16", "min_area": 0}, where="refine")
    network, seen = build_network("cascadepsp-mini").eval(), []
    network.feats.register_forward_hook(lambda *call: seen.append(torch.is_autocast_enabled("cpu")))
    rng = np.random.default_rng(0)
    image, truth = scene(rng, 48, 64)
    for supported in (True, False):
        monkeypatch.setattr("vss.refine.precision.has_bfloat16", lambda supported=supported: supported)
        refiner = CascadePSP(network, given, suits=NETWORKS["cascadepsp-mini"], classes=VSPW.classes)
        seen.clear()
        refiner.refine(image, truth)
        assert set(seen) == {supported}
    assert "this CPU has no bfloat16" in capsys.readouterr().err
