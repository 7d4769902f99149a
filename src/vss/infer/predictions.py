"""Many frames through one engine, in order, with everything that surrounds the network off the critical path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from vss.core.errors import UserError
from vss.infer.engine import DecodedFrame, Engine, Prediction
from vss.infer.stream import batches, load_ahead, one_ahead

# Neighbouring frames whose views may share a forward on a GPU; each keeps the class scores of its views until they are
# averaged, and where probabilities are requested C x H x W float32 until they are on the host.
_FRAMES_ON_GPU = 8
# Threads next to a GPU: as many as the process was given, within these. To encode a frame's class scores, one needs
# 0.15 s and 200 MB.
_WORKERS_ON_GPU = (4, 8)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class FrameCallbacks(Generic[Item, Result]):
    """The work on each frame around the network; both calls run in background threads.

    Attributes:
        read: decodes an item to [H, W, 3] uint8 RGB; None leaves the item out.
        finish: makes the result of (item, labels [H, W], probabilities [C, H, W] float32 or None).
        name: what to call an item in an error.
        with_probabilities: whether `finish` needs them.
    """

    read: Callable[[Item], np.ndarray | None]
    finish: Callable[[Item, np.ndarray, np.ndarray | None], Result]
    name: Callable[[Item], str] = str
    with_probabilities: bool = False


def predictions(
    engine: Engine,
    items: Iterable[Item],
    callbacks: FrameCallbacks[Item, Result],
    *,
    workers: int | None = None,
    batch_frames: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, what `callbacks.finish` made of its prediction) in the order of `items`.

    On a CPU, `workers` frames are worked on in parallel, each on one torch thread: threads never wait for each other,
    and their number cannot change a bit of the result. On a GPU, `workers` threads decode and resize frames ahead of
    the network and finish them behind it.

    Args:
        engine: what predicts.
        items: one per frame.
        callbacks: what is done with each.
        workers: None = torch's number of threads, on a GPU 4 to 8 of them.
        batch_frames: neighbouring frames of one size that a GPU may work on at once; None = 8.

    Raises:
        UserError: the model returned inf or nan for a frame.
    """
    cv2.setNumThreads(1)  # images are decoded and resized in parallel threads
    frames = frames_at_once(engine.device, workers, batch_frames)
    if engine.device.type == "cpu":
        return _on_cpu(engine, items, callbacks, frames)
    least, most = _WORKERS_ON_GPU
    return _on_gpu(engine, items, callbacks, workers or min(max(torch.get_num_threads(), least), most), frames)


def frames_at_once(device: torch.device, workers: int | None, batch_frames: int | None) -> int:
    """Returns how many frames `predictions` works on at once."""
    if device.type == "cpu":
        return workers or torch.get_num_threads()
    return batch_frames or _FRAMES_ON_GPU


def _on_cpu(
    engine: Engine, items: Iterable[Item], callbacks: FrameCallbacks[Item, Result], workers: int
) -> Iterator[tuple[Item, Result]]:
    def work(item: Item) -> tuple[Result] | None:
        image = callbacks.read(item)
        if image is None:
            return None
        found = engine.predict([engine.resize(image)], with_probabilities=callbacks.with_probabilities)
        _refuse_unless(found.finite[0], callbacks, item)
        probabilities = found.probabilities[0].numpy() if callbacks.with_probabilities else None
        return (callbacks.finish(item, found.labels[0].numpy(), probabilities),)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for item, result in load_ahead(items, work, workers=workers, ahead=workers):
            if result is not None:
                yield item, result[0]
    finally:
        torch.set_num_threads(threads)


def _on_gpu(
    engine: Engine, items: Iterable[Item], callbacks: FrameCallbacks[Item, Result], workers: int, batch_frames: int
) -> Iterator[tuple[Item, Result]]:
    to_host = ToHost(engine.device)

    def load(item: Item) -> DecodedFrame | None:
        image = callbacks.read(item)
        return None if image is None else engine.resize(image)

    # Threads decode ahead of the network, which is given batches of frames of one size.
    def queued() -> Iterator[tuple[list[Item], Prediction, Any]]:
        loaded = load_ahead(items, load, workers=workers, ahead=batch_frames + workers)
        kept = ((item, frame) for item, frame in loaded if frame is not None)
        for batch in batches(kept, size=batch_frames, key=lambda pair: pair[1].size):
            found = engine.predict([frame for _, frame in batch], with_probabilities=callbacks.with_probabilities)
            yield [item for item, _ in batch], found, to_host.after_this()

    def predicted() -> Iterator[tuple[Item, np.ndarray, np.ndarray | None]]:
        # A batch is copied, finished and written while the network works on the next one.
        for batch, found, done in one_ahead(queued()):
            finite = to_host.copy(found.finite, done)
            for position, item in enumerate(batch):
                _refuse_unless(finite[position], callbacks, item)
                labels = to_host.copy(found.labels[position], done)
                requested = callbacks.with_probabilities
                yield item, labels, to_host.copy(found.probabilities[position], done) if requested else None
            del found  # the batch after the next needs its memory

    # Threads finish frames, such as encode their class scores.
    for (item, _, _), result in load_ahead(
        predicted(), lambda one: callbacks.finish(*one), workers=workers, ahead=workers
    ):
        yield item, result


def _refuse_unless(finite: Any, callbacks: FrameCallbacks[Item, Any], item: Item) -> None:
    if not finite:
        raise UserError(f"{callbacks.name(item)}: the model returned inf or nan; check its weights and precision")


class ToHost:
    """Copies tensors to the host without waiting for work that was queued on the device after them.

    On a GPU: on a stream of its own, into pinned memory, which torch caches and reuses.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def after_this(self) -> torch.cuda.Event | None:
        """Marks the end of the work queued on the device so far."""
        return None if self._stream is None else torch.cuda.current_stream(self._device).record_event()

    def copy(self, tensor: Tensor, done: torch.cuda.Event | None) -> np.ndarray:
        """Returns a tensor as an array, once `done` has been reached."""
        if self._stream is None:
            return tensor.cpu().numpy()
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(done)
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            self._stream.synchronize()
        return host.numpy()
