"""Many frames through one engine, in order, with everything that surrounds the network off the critical path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch

from vss.errors import UserError
from vss.infer.engine import Engine, Prediction
from vss.infer.stream import batches, load_ahead

# Neighbouring frames whose views may share a forward on a GPU; each costs one accumulator of C x H x W float32.
_FRAMES_ON_GPU = 8
_WORKERS_ON_GPU = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Item, Result]):
    """What is done with each frame around the network; both calls run in background threads.

    Attributes:
        read: decodes an item to [H, W, 3] uint8 RGB.
        finish: makes the result of (item, labels [H, W] uint8, probabilities [C, H, W] float32 or None).
        name: what to call an item in an error.
        with_probabilities: whether `finish` wants them.
    """

    read: Callable[[Item], np.ndarray]
    finish: Callable[[Item, np.ndarray, np.ndarray | None], Result]
    name: Callable[[Item], str] = str
    with_probabilities: bool = False


def predictions(
    engine: Engine,
    items: Iterable[Item],
    job: Job[Item, Result],
    *,
    workers: int | None = None,
    batch_frames: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, what `job.finish` made of its prediction) in the order of `items`.

    On a CPU, `workers` frames are worked on side by side, each on one torch thread: threads never wait for each other,
    and their number cannot change a bit of the result. On a GPU, `workers` threads decode and resize frames ahead of
    the network and finish them behind it.

    Args:
        engine: what predicts.
        items: one a frame.
        job: what is done with each.
        workers: None = torch's number of threads on a CPU, 4 on a GPU.
        batch_frames: neighbouring frames of one size that a GPU may work on at once; None = 8.

    Raises:
        UserError: the model returned inf or nan for a frame.
    """
    cv2.setNumThreads(1)  # images are decoded and resized side by side
    frames = frames_at_once(engine.device, workers, batch_frames)
    if engine.device.type == "cpu":
        return _on_cpu(engine, items, job, frames)
    return _on_gpu(engine, items, job, workers or _WORKERS_ON_GPU, frames)


def frames_at_once(device: torch.device, workers: int | None, batch_frames: int | None) -> int:
    """Returns how many frames `predictions` works on at once."""
    if device.type == "cpu":
        return workers or torch.get_num_threads()
    return batch_frames or _FRAMES_ON_GPU


def _on_cpu(
    engine: Engine, items: Iterable[Item], job: Job[Item, Result], workers: int
) -> Iterator[tuple[Item, Result]]:
    def work(item: Item) -> Result:
        found = engine.predict([engine.resize(job.read(item))], with_probabilities=job.with_probabilities)
        return job.finish(*_on_host(job, item, found, 0))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from load_ahead(items, work, workers=workers, ahead=workers)
    finally:
        torch.set_num_threads(threads)


def _on_gpu(
    engine: Engine, items: Iterable[Item], job: Job[Item, Result], workers: int, batch_frames: int
) -> Iterator[tuple[Item, Result]]:
    def predicted() -> Iterator[tuple[Item, np.ndarray, np.ndarray | None]]:
        loaded = load_ahead(
            items, lambda item: engine.resize(job.read(item)), workers=workers, ahead=batch_frames + workers
        )
        for batch in batches(loaded, size=batch_frames, key=lambda pair: pair[1].size):
            found = engine.predict([frame for _, frame in batch], with_probabilities=job.with_probabilities)
            for position, (item, _) in enumerate(batch):
                yield _on_host(job, item, found, position)

    for (item, _, _), result in load_ahead(predicted(), lambda one: job.finish(*one), workers=workers, ahead=workers):
        yield item, result


def _on_host(
    job: Job[Item, Any], item: Item, found: Prediction, position: int
) -> tuple[Item, np.ndarray, np.ndarray | None]:
    """Returns one frame of a batch as arrays."""
    if not found.finite[position]:
        raise UserError(f"{job.name(item)}: the model returned inf or nan; check its weights and precision")
    labels = found.labels[position].cpu().numpy()
    return item, labels, found.probabilities[position].cpu().numpy() if job.with_probabilities else None
