"""Views: realised sizes of every published pipeline, weights of equal views, windows that cover."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from vss.configs.tta import Tta, parse_tta, published_tta
from vss.core.errors import UserError
from vss.infer.views import describe_views, resize_image, views_of, windows_of


def requested(height, width, tta, protocol):
    """The views as (ratio, output_flip) -> (size, input_flip): one entry per requested view, equal ones unfolded."""
    found = {}
    for view in views_of(height, width, tta, protocol):
        assert view.weight == len(view.ratios)
        for ratio in view.ratios:
            found[ratio, view.output_flip] = (view.size, view.input_flip)
    return found


def settings_of_pipeline(pipeline):
    """The `tta` settings that stand for an MMSegmentation 0.x MultiScaleFlipAug pipeline."""
    transforms = {step["type"]: step for step in pipeline["transforms"]}
    settings = {
        "img_ratios": tuple(pipeline["img_ratios"]),
        "flip": pipeline["flip"],
        "scale": tuple(pipeline["img_scale"]),
        "random_flip": "RandomFlip" in transforms,
    }
    if "SETR_Resize" in transforms:
        settings |= {"setr_resize": True, "setr_crop_size": tuple(transforms["SETR_Resize"]["crop_size"])}
    if "ResizeToMultiple" in transforms:
        settings["size_divisor"] = transforms["ResizeToMultiple"]["size_divisor"]
    return settings


@pytest.mark.golden
def test_realised_sizes_of_published_pipelines(golden_dir):
    meta = json.loads((golden_dir / "tta" / "meta.json").read_text())
    compared = 0
    for name, pipeline in meta["published_pipelines_realised_sizes"].items():
        tta = Tta(**settings_of_pipeline(pipeline["test_pipeline"]))
        requests = [(ratio, flip) for ratio in tta.img_ratios for flip in ((False, True) if tta.flip else (False,))]
        for frame, expected in pipeline.items():
            if frame == "test_pipeline":
                continue
            height, width = (int(side) for side in frame.split("x"))
            found = requested(height, width, tta, "as_published")
            for request, view in zip(requests, expected, strict=True):
                assert request[1] == view["flip"]
                assert found[request] == (tuple(view["hw"]), view["actually_flipped"]), (name, frame, request)
                compared += 1
    assert compared


@pytest.mark.golden
def test_realised_sizes_and_pixels_of_golden_cases(golden_dir):
    meta = json.loads((golden_dir / "tta" / "meta.json").read_text())
    assert all(case["views"] for case in meta["cases"]) and meta["cases"]
    for case in meta["cases"]:
        tta = Tta(
            img_ratios=tuple(meta["ratios"]),
            flip=meta["pipeline"]["flip"],
            scale=tuple(case["img_scale"]),
            setr_resize=True,
            setr_crop_size=tuple(case["crop_size"]),
        )
        found = requested(*case["image_hw"], tta, "as_published")
        for view in case["views"]:
            assert found[view["ratio"], view["flip"]] == (tuple(view["realised_hw"]), view["actually_flipped"])
        tensors = load_file(golden_dir / "tta" / case["file"])
        for image in (image for name, image in tensors.items() if name.endswith("_resized_bgr_uint8")):
            assert np.array_equal(resize_image(tensors["image_bgr"], (image.shape[:2],)), image)


def test_paper_runs_the_scales_that_are_named():
    tta = Tta(img_ratios=(0.5, 0.75, 1.0), flip=True, scale=(853, 480), setr_resize=True, random_flip=False)
    views = views_of(480, 853, tta, "paper")
    assert [view.size for view in views[::2]] == [(240, 426), (360, 639), (480, 853)]
    assert [view.weight for view in views] == [1] * 6
    assert [view.input_flip for view in views] == [view.output_flip for view in views] == [False, True] * 3


def test_as_published_counts_the_clamped_scales_three_times():
    tta = Tta(img_ratios=(0.5, 0.75, 1.0, 1.25), flip=True, scale=(853, 480), setr_resize=True)
    views = views_of(480, 853, tta, "as_published")
    assert [(view.size, view.weight) for view in views] == [((480, 853), 3)] * 2 + [((600, 1066), 1)] * 2


def test_divisor_pads_in_paper_and_resizes_as_published():
    tta = Tta(scale=(1920, 480), size_divisor=32)
    (paper,) = views_of(480, 853, tta, "paper")
    assert (paper.resizes, paper.size, paper.padded) == ((), (480, 853), (480, 864))
    (published,) = views_of(480, 853, tta, "as_published")
    assert (published.resizes, published.size, published.padded) == (((480, 864),), (480, 864), (480, 864))


def test_a_view_smaller_than_the_networks_stride_is_padded_to_it():
    (view,) = views_of(60, 20, Tta(), "paper")
    assert (view.size, view.padded) == ((60, 20), (60, 32))


def test_own_size_follows_mmcv_resize_by_factor():
    sizes = [view.size for view in views_of(481, 853, Tta(img_ratios=(0.5, 1.0, 1.75)), "paper")]
    assert sizes == [(241, 427), (481, 853), (842, 1493)]


def test_without_keep_ratio_the_scale_is_the_size():
    (view,) = views_of(100, 60, Tta(scale=(80, 40), keep_ratio=False), "paper")
    assert view.size == (40, 80)


def test_families_as_published():
    mask2former = {"backbone": {"type": "InternImage"}, "decode_head": {"type": "Mask2FormerHead"}}
    swin = {"backbone": {"type": "SwinTransformer"}, "decode_head": {"type": "UPerHead"}}
    assert published_tta(Tta(), mask2former).setr_resize
    assert published_tta(Tta(), mask2former).random_flip
    assert not published_tta(Tta(), swin).setr_resize
    assert not published_tta(Tta(), swin).random_flip


def test_description_is_plain_json():
    tta = Tta(img_ratios=(0.5, 1.0), flip=True, scale=(853, 480), setr_resize=True)
    views = json.loads(json.dumps(describe_views(480, 853, tta, "as_published")))
    assert [(view["size"], view["flip"], view["weight"]) for view in views] == [
        ([480, 853], False, 2),
        ([480, 853], True, 2),
    ]


def test_resize_through_two_sizes_is_two_resizes():
    image = np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)
    once = cv2.resize(image, (60, 40), interpolation=cv2.INTER_LINEAR)
    twice = cv2.resize(once, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_image(image, ((40, 60), (64, 64))), twice)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ratios": [1.0]}, "tta: unknown key 'ratios'"),
        ({"img_ratios": []}, "tta.img_ratios"),
        ({"img_ratios": [0.0]}, "tta.img_ratios"),
        ({"img_ratios": "1.0"}, "tta.img_ratios"),
        ({"flip": 1}, "tta.flip"),
        ({"scale": [853]}, "tta.scale"),
        ({"size_divisor": 0}, "tta.size_divisor"),
        ({"mode": "window"}, "tta.mode"),
        ({"mode": "slide"}, "slide needs tta.crop_size"),
        ({"mode": "slide", "crop_size": [8, 8], "stride": [9, 8]}, "tta.stride"),
    ],
)
def test_mistakes_in_settings_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        parse_tta(settings)


def test_a_vanishing_view_is_refused():
    with pytest.raises(UserError, match=r"ratio 0\.001"):
        views_of(480, 853, Tta(img_ratios=(0.001,)), "paper")


def test_windows_of_the_published_slide():
    windows = windows_of((480, 853), (480, 480), (1, 320))
    assert windows == [(0, 480, 0, 480), (0, 480, 320, 800), (0, 480, 373, 853)]


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.data(),
)
def test_windows_cover_every_pixel(size, crop, data):
    stride = tuple(data.draw(st.integers(1, side)) for side in crop)
    covered = np.zeros(size, int)
    for top, bottom, left, right in windows_of(size, crop, stride):
        assert (bottom - top, right - left) == (min(crop[0], size[0]), min(crop[1], size[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1


@given(
    size=st.tuples(st.integers(8, 900), st.integers(8, 900)),
    ratios=st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 1.75]), min_size=1, max_size=6),
    flip=st.booleans(),
    protocol=st.sampled_from(["paper", "as_published"]),
    setr=st.booleans(),
)
def test_every_requested_view_counts_once(size, ratios, flip, protocol, setr):
    views = views_of(*size, Tta(tuple(ratios), flip, (853, 480), setr_resize=setr, size_divisor=32), protocol)
    assert sum(view.weight for view in views) == len(ratios) * (1 + flip)
    assert len({(view.resizes, view.input_flip, view.output_flip) for view in views}) == len(views)
    for view in views:
        assert all(side % 32 == 0 for side in view.padded)
        assert view.padded[0] >= view.size[0] and view.padded[1] >= view.size[1]
