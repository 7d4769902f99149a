"""The segmentor: its two calls, MMSegmentation's validation and test-time augmentation on top, and building it."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.structures import SegDataSample
from models.golden_models import load_meta
from safetensors.torch import load_file

from tests.golden import stored_results
from vss.core.errors import UserError
from vss.models import rows
from vss.models.build import build_segmentor

NANO = ("swin-nano", "convnext-nano", "internimage-nano-xl", "internimage-nano-h")


def nano_config(backbone: str, head: str = "upernet", **overrides) -> dict:
    make = {"upernet": rows.upernet_config, "mask2former": rows.mask2former_config}[head]
    return rows.segmentor_config(backbone, make(backbone, num_classes=5, size="nano"), **overrides)


@pytest.fixture(scope="module")
def upernet():
    torch.manual_seed(0)
    return build_segmentor(nano_config("swin-nano")).eval()


@pytest.fixture(scope="module")
def mask2former():
    torch.manual_seed(0)
    return build_segmentor(nano_config("internimage-nano-h", "mask2former")).eval()


@pytest.fixture(params=["upernet", "mask2former"])
def either(request):
    return request.getfixturevalue(request.param)


# Tolerance of the golden numbers: 3e-6 for the second softmax.
SCORE_TOLERANCE = 3e-6


@pytest.mark.golden
@torch.no_grad()
def test_single_views_match_upstream(golden_dir, segmentor):
    """`class_logits` and `probabilities` give the published score of every view, and the mean of all."""
    folder = golden_dir / "tta"
    meta = load_meta(folder)
    (normalize,) = (step for step in meta["pipeline"]["transforms"] if step["type"] == "Normalize")
    segmentor = copy.deepcopy(segmentor).double().eval()  # only upstream's rounding is left, not this CPU's
    assert meta["cases"]
    for case in meta["cases"]:
        tensors = load_file(folder / case["file"])
        found = {}
        for view in case["views"]:
            height, width = view["realised_hw"]
            resized = cv2.resize(tensors["image_bgr"].numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
            image = (resized[..., ::-1] - np.array(normalize["mean"])) / np.array(normalize["std"])
            image = torch.from_numpy(image).permute(2, 0, 1)[None]
            image = image.flip(-1) if view["actually_flipped"] else image
            scores = segmentor.encode_decode(image, [{}])
            scores = F.interpolate(scores, size=case["image_hw"], mode="bilinear", align_corners=False)
            scores = scores.flip(-1) if view["flip"] else scores
            found[f"view{view['index']}_score"] = segmentor.probabilities(scores, "as_published")
        found["avg_score"] = torch.stack(list(found.values())).mean(0)
        for name, result, expected in stored_results(found, tensors, case=case["name"]):
            difference = (result - expected).abs().max().item()
            seen = case["f32_vs_f64"][name]["max_abs"]
            assert difference <= max(SCORE_TOLERANCE, 2 * seen), (case["name"], name, difference)


@torch.no_grad()
def test_class_logits_are_at_a_quarter_and_probabilities_sum_to_one(either):
    logits = either.class_logits(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5, 16, 24)
    for protocol in ("paper", "as_published"):
        probabilities = either.probabilities(logits, protocol)
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 16, 24))


def test_upernet_probabilities_are_a_softmax_in_both_protocols(upernet):
    logits = torch.randn(1, 5, 2, 2)
    for protocol in ("paper", "as_published"):
        assert torch.equal(upernet.probabilities(logits, protocol), logits.softmax(1))


def sample(height: int, width: int, *, flip: bool = False) -> SegDataSample:
    meta = {"ori_shape": (height, width), "img_shape": (64, 96), "flip": flip, "flip_direction": "horizontal"}
    return SegDataSample(metainfo=meta | {"img_path": "frame.jpg"})


@torch.no_grad()
@pytest.mark.parametrize("protocol", ["paper", "as_published"])
def test_softmax_of_predicted_logits_is_the_probabilities(either, protocol):
    """So that MMSegmentation's SegTTAModel, which softmaxes `seg_logits`, averages what our engine averages."""
    image = torch.randn(1, 3, 64, 96)
    either.test_cfg["protocol"] = protocol
    prediction = either.predict(image, [sample(60, 90)])[0]
    scores = F.interpolate(either.class_logits(image), size=(64, 96), mode="bilinear", align_corners=False)
    scores = F.interpolate(scores, size=(60, 90), mode="bilinear", align_corners=False)
    expected = either.probabilities(scores, protocol)[0]
    torch.testing.assert_close(prediction.seg_logits.data.softmax(0), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(prediction.pred_sem_seg.data[0], scores.argmax(1)[0])


@torch.no_grad()
def test_mmseg_tta_averages_probabilities(mask2former):
    mask2former.test_cfg["protocol"] = "paper"
    image = torch.randn(1, 3, 64, 96)
    views = [(image, sample(60, 90)), (image.flip(-1), sample(60, 90, flip=True))]
    predictions = [mask2former.predict(view, [meta])[0] for view, meta in views]
    merged = SegTTAModel.merge_preds(SimpleNamespace(module=mask2former), [predictions])[0]
    mean = torch.zeros(5, 60, 90)
    for view, meta in views:
        scores = F.interpolate(mask2former.class_logits(view), size=(64, 96), mode="bilinear", align_corners=False)
        scores = scores.flip(-1) if meta.flip else scores
        scores = F.interpolate(scores, size=(60, 90), mode="bilinear", align_corners=False)
        mean += mask2former.probabilities(scores, "paper")[0] / 2
    clear = mean.topk(2, dim=0).values.diff(dim=0).abs()[0] > 1e-5
    assert torch.equal(merged.pred_sem_seg.data.squeeze()[clear], mean.argmax(0)[clear])


@torch.no_grad()
def test_padding_is_cropped_before_the_result_is_resized(mask2former):
    image = torch.randn(1, 3, 64, 96)
    padded = sample(64, 80)
    padded.set_metainfo({"padding_size": [0, 16, 0, 0]})  # left, right, top, bottom
    prediction = mask2former.predict(image, [padded])[0].pred_sem_seg.data[0]
    scores = F.interpolate(mask2former.class_logits(image), size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(prediction, scores.argmax(1)[0, :, :80])


@torch.no_grad()
def test_slide_inference_covers_every_pixel(mask2former):
    config = nano_config("internimage-nano-h", "mask2former")
    config["test_cfg"] |= {"mode": "slide", "crop_size": (64, 64), "stride": (1, 32)}
    segmentor = build_segmentor(config).eval()
    segmentor.load_state_dict(mask2former.state_dict())
    image = torch.randn(1, 3, 64, 96)
    prediction = segmentor.predict(image, [sample(64, 96)])[0].pred_sem_seg.data[0]
    left, right = (segmentor.encode_decode(image[..., x : x + 64], [{}]) for x in (0, 32))
    assert torch.equal(prediction[:, :32], left.argmax(1)[0, :, :32])
    assert torch.equal(prediction[:, 64:], right.argmax(1)[0, :, 32:])


@pytest.mark.parametrize(("backbone", "head"), [*((b, "upernet") for b in NANO), ("internimage-nano-h", "mask2former")])
def test_every_family_trains_and_predicts_through_the_preprocessor(backbone, head):
    """MMEngine's own train_step and val_step, from uint8 BGR frames to losses and label maps."""
    torch.manual_seed(0)
    segmentor = build_segmentor(nano_config(backbone, head, crop_size=(64, 96)))
    frames = [torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8) for _ in range(2)]
    samples = []
    for _ in frames:
        item = sample(60, 90)
        item.set_metainfo({"img_shape": (60, 90)})
        item.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 60, 90)))
        samples.append(item)
    data = segmentor.data_preprocessor({"inputs": frames, "data_samples": samples}, training=True)
    losses, _ = segmentor.parse_losses(segmentor(**data, mode="loss"))
    losses.backward()
    assert np.isfinite(losses.item())
    unused = [name for name, p in segmentor.named_parameters() if p.grad is None]
    assert not unused
    segmentor.eval()
    predictions = segmentor.val_step({"inputs": [frames[0]], "data_samples": [samples[0]]})
    assert predictions[0].pred_sem_seg.data.shape == (1, 60, 90)


def test_sync_bn_becomes_plain_bn_outside_distributed_training():
    config = nano_config("swin-nano")
    assert config["decode_head"]["norm_cfg"]["type"] == "SyncBN"
    segmentor = build_segmentor(config)
    norms = {type(m).__name__ for m in segmentor.decode_head.modules() if "BatchNorm" in type(m).__name__}
    assert norms == {"BatchNorm2d"}
    assert config["decode_head"]["norm_cfg"]["type"] == "SyncBN"  # the caller's config is left alone


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "NoSuchNet"}, "NoSuchNet"),
        ({"no_such_argument": 1}, "no_such_argument"),
    ],
)
def test_a_wrong_config_is_named_in_one_line(change, named):
    config = nano_config("internimage-nano-xl")
    config["backbone"] |= change
    with pytest.raises(UserError, match=named) as error:
        build_segmentor(config)
    assert "\n" not in str(error.value)


def test_ops_are_checked_once_a_device(monkeypatch):
    import vss_ops

    from vss.models import segmentor as module

    original, checked = vss_ops.self_check, []

    def spy(device):
        checked.append(device)
        original(device)

    monkeypatch.setattr(vss_ops, "self_check", spy)
    module._check_ops.cache_clear()
    for backbone in ("swin-nano", "internimage-nano-xl"):
        model = build_segmentor(nano_config(backbone)).eval()
        assert checked == []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for _ in range(2):
                model.class_logits(torch.randn(1, 3, 32, 32))
    assert checked == [torch.device("cpu")]


def test_an_op_that_fails_its_check_stops_the_work(monkeypatch):
    import vss_ops

    from vss.models import segmentor as module

    def fail(device):
        raise RuntimeError("vss_ops: dcnv3 does not run on cpu;\nrebuild it")

    monkeypatch.setattr(vss_ops, "self_check", fail)
    module._check_ops.cache_clear()
    with pytest.raises(UserError, match="does not run on cpu; rebuild it"):
        build_segmentor(nano_config("internimage-nano-xl")).class_logits(torch.randn(1, 3, 32, 32))
    module._check_ops.cache_clear()
