"""Many frames through one engine: the way a GPU is kept busy, tried on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.infer.stand_ins import BrokenSegmentor, ConvSegmentor
from vss.configs.tta import parse_tta
from vss.core.errors import UserError
from vss.infer.engine import Engine
from vss.infer.predictions import FrameCallbacks, ToHost, _on_gpu, predictions

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class NotingEngine(Engine):
    """Notes what is done in which order."""

    events: list[str]

    def predict(self, frames, **options):
        self.events.append(f"predict {len(frames)}")
        return super().predict(frames, **options)


@pytest.fixture
def engine():
    views = parse_tta({"img_ratios": [0.5, 1.0], "flip": True})
    engine = NotingEngine(ConvSegmentor(), tta=views, mean=MEAN, std=STD)
    engine.events = []
    return engine


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    sizes = [(24, 32)] * 5 + [(32, 24)] * 2
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def callbacks_of(images, events, *, with_probabilities=True):
    def finish(number, labels, probabilities):
        events.append(f"finish {number}")
        return labels, probabilities

    return FrameCallbacks(read=images.__getitem__, finish=finish, with_probabilities=with_probabilities)


def test_batches_give_what_single_frames_give(engine, images):
    expected = list(predictions(engine, range(7), callbacks_of(images, []), workers=2))
    found = list(_on_gpu(engine, range(7), callbacks_of(images, []), 2, 3))
    assert [item for item, _ in found] == [item for item, _ in expected] == list(range(7))
    for (_, (labels, probabilities)), (_, (expected_labels, expected_probabilities)) in zip(
        found, expected, strict=True
    ):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-5)


def test_the_next_batch_is_queued_before_one_is_copied(engine, images, monkeypatch):
    def noting(self, tensor, done):
        engine.events.append("copy")
        return tensor.numpy()

    monkeypatch.setattr(ToHost, "copy", noting)
    for _ in _on_gpu(engine, range(7), callbacks_of(images, [], with_probabilities=False), 1, 3):
        pass
    # Copied are whether all is finite, and the label maps.
    batches = [["predict 3"], ["predict 2", *["copy"] * 4], ["predict 2", *["copy"] * 3], ["copy"] * 3]
    assert engine.events == [event for batch in batches for event in batch]


def test_a_frame_that_is_not_finite_is_named():
    images = [np.full((32, 32, 3), 128, np.uint8)] * 7
    engine = Engine(BrokenSegmentor(), tta=parse_tta({"img_ratios": [1.0]}), mean=MEAN, std=STD)
    images[3] = np.zeros((32, 32, 3), np.uint8)
    callbacks = FrameCallbacks(read=images.__getitem__, finish=lambda *_: None, name=lambda item: f"frame {item}")
    with pytest.raises(UserError, match="frame 3: the model returned inf or nan"):
        list(_on_gpu(engine, range(7), callbacks, 2, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_do_not_wait_for_what_comes_after():
    to_host = ToHost(torch.device("cuda"))
    tensor = torch.arange(1 << 20, device="cuda").view(torch.uint8)
    done = to_host.after_this()
    torch.cuda._sleep(200_000_000)  # about 0.1 s
    array = to_host.copy(tensor, done)
    assert not torch.cuda.current_stream().query()  # the device is still at it
    np.testing.assert_array_equal(array, tensor.cpu().numpy())
