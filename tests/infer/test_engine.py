"""The engine: the field's two-resize path, flips, weights, slide, and bit-equality whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.infer.stand_ins import BrokenSegmentor, ConvSegmentor
from vss.configs.tta import Tta
from vss.core.errors import UserError
from vss.infer.budget import ForwardBudget
from vss.infer.engine import Engine
from vss.infer.resample import Span, Tile, axis_matrix, resample_band
from vss.infer.views import resize_image, views_of

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ALL_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def engine_of(segmentor=None, **options):
    return Engine(segmentor or ConvSegmentor(), **{"tta": Tta(), "mean": MEAN, "std": STD} | options)


@torch.no_grad()
def slow_probabilities(segmentor, image, tta, protocol):
    """The field's path, view after view at full size: the definition that the engine is held to."""
    height, width = image.shape[:2]
    total, weights = 0, 0
    for view in views_of(height, width, tta, protocol):
        pixels = torch.from_numpy(resize_image(image, view.resizes)).permute(2, 0, 1)[None].float()
        pixels = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        pixels = pixels.flip(3) if view.input_flip else pixels
        (h, w), (ph, pw) = view.size, view.padded
        pixels = F.pad(pixels, (0, pw - w, 0, ph - h))
        if tta.mode == "whole":
            logits = resize(segmentor.class_logits(pixels), (ph, pw))
        else:
            logits = slow_slide(segmentor, pixels, tta)
        logits = resize(logits[:, :, :h, :w], (height, width))
        logits = logits.flip(3) if view.output_flip else logits
        total = total + view.weight * segmentor.probabilities(logits, protocol)
        weights += view.weight
    return total[0] / weights


def slow_slide(segmentor, pixels, tta):
    """MMSegmentation's sliding window, written as loops over pixels' windows."""
    (crop_h, crop_w), (step_h, step_w) = tta.crop_size, tta.stride
    height, width = pixels.shape[2:]
    total, count = 0, torch.zeros(1, 1, height, width)
    for row in range(max(height - crop_h + step_h - 1, 0) // step_h + 1):
        for column in range(max(width - crop_w + step_w - 1, 0) // step_w + 1):
            bottom, right = min(row * step_h + crop_h, height), min(column * step_w + crop_w, width)
            top, left = max(bottom - crop_h, 0), max(right - crop_w, 0)
            crop = pixels[:, :, top:bottom, left:right]
            logits = resize(segmentor.class_logits(crop), crop.shape[2:])
            total = total + F.pad(logits, (left, width - right, top, height - bottom))
            count[:, :, top:bottom, left:right] += 1
    return total / count


def resize(values, size):
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("protocol", ["paper", "as_published"])
@pytest.mark.parametrize("size", [(60, 107), (107, 60), (48, 64), (33, 33), (1, 7), (5, 90)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"img_ratios": ALL_RATIOS, "flip": True},
        {"img_ratios": (0.5, 1.0), "flip": True, "scale": (96, 54), "size_divisor": 32},
        {"img_ratios": (0.5, 1.0), "flip": True, "scale": (96, 54), "setr_resize": True, "random_flip": False},
        {"img_ratios": (1.0, 1.5), "flip": True, "mode": "slide", "crop_size": (32, 32), "stride": (9, 21)},
        {"mode": "slide", "crop_size": (32, 32), "stride": (32, 16), "size_divisor": 20},
        {"mode": "slide", "crop_size": (40, 32), "stride": (1, 4)},
    ],
)
def test_equals_the_field_path(protocol, size, options):
    if protocol == "as_published" and "mode" in options:
        options = options | {"size_divisor": None}
    image, tta = image_of(*size), Tta(**({"img_ratios": (2.0,)} | options if min(size) == 1 else options))
    segmentor = ConvSegmentor()
    found = engine_of(segmentor, tta=tta, protocol=protocol).probabilities(image)
    expected = slow_probabilities(segmentor, image, tta, protocol)
    assert found.shape == (5, *size) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)
    torch.testing.assert_close(found.sum(0), torch.ones(size))


def test_a_symmetric_frame_gives_a_symmetric_prediction_only_with_flip():
    half = image_of(40, 30)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    found = engine_of(tta=Tta(img_ratios=(1.0, 1.5), flip=True)).probabilities(image)
    torch.testing.assert_close(found, found.flip(2), rtol=0, atol=1e-6)


def test_broken_flip_mirrors_the_prediction_of_the_unflipped_image():
    image = image_of(40, 56)
    once = engine_of().probabilities(image)
    broken = engine_of(tta=Tta(flip=True, random_flip=False), protocol="as_published").probabilities(image)
    torch.testing.assert_close(broken, (once + once.flip(2)) / 2, rtol=0, atol=1e-6)


def test_equal_views_are_computed_once():
    calls = []

    class Counting(ConvSegmentor):
        def class_logits(self, images):
            calls.append(tuple(images.shape))
            return super().class_logits(images)

    tta = Tta(img_ratios=ALL_RATIOS, flip=True, scale=(96, 54), setr_resize=True)
    engine_of(Counting(), tta=tta, protocol="as_published").probabilities(image_of(54, 96))
    assert calls == [(2, 3, 54, 96), (2, 3, 67, 119), (2, 3, 81, 144), (2, 3, 94, 167)]


@pytest.mark.parametrize("with_probabilities", [False, True])
def test_bit_equal_whatever_the_batch_and_order(with_probabilities):
    engine = engine_of(tta=Tta(img_ratios=ALL_RATIOS, flip=True))
    frames = [engine.resize(image_of(60, 107, seed)) for seed in range(5)]
    together = engine.predict(frames, with_probabilities=with_probabilities)
    backwards = engine.predict(frames[::-1], with_probabilities=with_probabilities)
    assert torch.equal(together.labels, backwards.labels.flip(0))
    for position, frame in enumerate(frames):
        alone = engine_of(tta=engine.tta).predict([frame], with_probabilities=with_probabilities)
        assert torch.equal(alone.labels[0], together.labels[position])
        if with_probabilities:
            assert torch.equal(alone.probabilities[0], together.probabilities[position])
            assert torch.equal(alone.probabilities[0], backwards.probabilities[len(frames) - 1 - position])


def test_labels_are_the_lowest_of_equal_classes():
    class Even(ConvSegmentor):
        def class_logits(self, images):
            return torch.zeros_like(super().class_logits(images))

    engine = engine_of(Even())
    assert engine.predict([engine.resize(image_of(20, 30))]).labels.unique().tolist() == [0]


def test_a_frame_that_breaks_the_model_is_told_apart():
    engine = engine_of(BrokenSegmentor())
    frames = [engine.resize(image_of(40, 50)), engine.resize(np.zeros((40, 50, 3), np.uint8))]
    assert engine.predict(frames).finite.tolist() == [True, False]


def test_bfloat16_is_near_float32():
    image = image_of(40, 60)
    exact = engine_of().probabilities(image)
    near = engine_of(precision="bfloat16").probabilities(image)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.05


def test_an_unknown_setting_is_refused():
    for key, value, allowed in (
        ("protocol", "fast", "paper, as_published"),
        ("precision", "int8", "float32, bfloat16"),
    ):
        with pytest.raises(UserError, match=f"{key}: found '{value}', allowed: {allowed}"):
            engine_of(**{key: value})
    with pytest.raises(UserError, match="tta: unknown key 'ratios'"):
        engine_of(tta={"ratios": [1]})


@settings(max_examples=40, deadline=None)
@given(
    source=st.integers(1, 40),
    resized=st.integers(1, 90),
    padding=st.integers(0, 20),
    frame=st.integers(1, 90),
    crop=st.integers(1, 90),
    stride=st.integers(1, 30),
)
def test_axis_weights_sum_to_one(source, resized, padding, frame, crop, stride):
    padded = resized + padding
    crop, stride = min(crop, padded), min(stride, crop)
    starts = [*range(0, padded - crop, stride), padded - crop]
    windows = tuple((start, start + crop) for start in dict.fromkeys(starts))
    matrices = [axis_matrix(source, Span(window, padded, resized, frame, windows), False) for window in windows]
    torch.testing.assert_close(sum(matrices).sum(1), torch.ones(frame))


@pytest.mark.parametrize("band", [(0, 50), (0, 7), (43, 50), (13, 14)])
def test_a_band_is_a_part_of_the_whole(band):
    logits = torch.randn(3, 11, 21)
    rows, columns = Span((0, 44), 44, 41, 50, ((0, 44),)), Span((0, 84), 84, 84, 150, ((0, 84),))
    tiles = [Tile(logits, rows, columns, True)]
    whole = resample_band(tiles, (0, 50), torch.empty(3, 50, 150))
    part = resample_band(tiles, band, torch.empty(3, band[1] - band[0], 150))
    expected = resize(resize(logits[None], (44, 84))[:, :, :41], (50, 150)).flip(3)[0]
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(part, whole[:, slice(*band)], rtol=0, atol=1e-6)


def test_budget_learns_from_what_forwards_used():
    budget = ForwardBudget(torch.device("cuda"), limit=1000)
    assert budget.frames_at_once(10, 8) == 1  # nothing known yet
    budget.observe(used=200, pixels=10)
    assert budget.frames_at_once(10, 8) == 5
    assert budget.frames_at_once(10, 3) == 3
    assert budget.frames_at_once(10**6, 8) == 1
    budget.shrink()
    assert budget.frames_at_once(10, 8) == 2


def test_what_every_forward_takes_is_not_charged_by_the_pixel():
    budget = ForwardBudget(torch.device("cuda"), limit=2000)
    budget.observe(used=1000 + 2 * 10, pixels=10)
    assert budget.frames_at_once(100, 8) == 1  # all 1020 count as 102 a pixel
    budget.observe(used=1000 + 2 * 50, pixels=50)
    assert budget.frames_at_once(100, 8) == 5  # 1000 + 2 * 100 * 5
    budget.observe(used=1500, pixels=30)
    assert budget.frames_at_once(100, 8) == 2  # the line is raised over the worst
    budget.observe(used=90, pixels=60)  # less for more: no line, the worst pixel counts
    assert budget.frames_at_once(10, 8) == 1


def test_a_cpu_always_computes_one_frame():
    budget = ForwardBudget(torch.device("cpu"), limit=10**12)
    budget.observe(used=1, pixels=10**9)
    assert budget.frames_at_once(1, 8) == 1


@pytest.mark.parametrize("call", ["class_logits", "probabilities"])
def test_too_little_gpu_memory_is_told_with_advice(call, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError

    segmentor = ConvSegmentor()
    monkeypatch.setattr(segmentor, call, too_much)
    with pytest.raises(UserError, match=r"64x48 .* not fit into its memory; set tta\.mode to slide"):
        engine_of(segmentor).probabilities(image_of(48, 64))


class SmallMemorySegmentor(ConvSegmentor):
    """Runs out of memory on more than `most` images at once."""

    most = 1

    def class_logits(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError
        return super().class_logits(images)


def test_flips_that_do_not_fit_together_go_through_one_by_one(capsys):
    tta, image = Tta(img_ratios=(1.0, 1.5), flip=True), image_of(40, 56)
    engine, expected = engine_of(SmallMemorySegmentor(), tta=tta), engine_of(tta=tta).probabilities(image)
    for _ in range(2):
        torch.testing.assert_close(engine.probabilities(image), expected, rtol=0, atol=1e-6)
    assert capsys.readouterr().err.count("1 x 56x40 views do not fit; retrying with fewer") == 1


@pytest.mark.parametrize("with_probabilities", [False, True])
def test_frames_whose_scores_do_not_fit_together_are_halved(capsys, monkeypatch, with_probabilities):
    engine, whole = engine_of(), Engine._predict
    frames = [engine.resize(image_of(30, 40, seed)) for seed in range(5)]
    expected = engine.predict(frames, with_probabilities=with_probabilities)
    calls = []

    def predict(self, frames, with_probabilities):
        calls.append(len(frames))
        if len(frames) > 2:
            raise torch.OutOfMemoryError
        return whole(self, frames, with_probabilities)

    monkeypatch.setattr(Engine, "_predict", predict)
    for _ in range(2):
        found = engine.predict(frames, with_probabilities=with_probabilities)
        assert torch.equal(found.labels, expected.labels) and torch.equal(found.finite, expected.finite)
        assert (found.probabilities is None) != with_probabilities
        if with_probabilities:
            assert torch.equal(found.probabilities, expected.probabilities)
    assert calls == [5, 2, 2, 1, 2, 2, 1]  # what did not fit is not tried again
    assert capsys.readouterr().err.count("memory is full; frames at once from here on: 2") == 1
