"""Work over many files in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    work: Callable[[Item], Result], items: Sequence[Item], *, worth: int, workers: int | None = None
) -> Iterator[Result]:
    """Yields work(item) for every item, in order.

    Args:
        work: a function that can be pickled.
        items: what to work on.
        worth: number of items from which on starting processes pays; below, all is done in this process.
        workers: processes; by default one for each core that this process may use.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), len(items))
    if workers < 2 or len(items) < worth:
        yield from map(work, items)
        return
    # Started afresh: a fork of a process in which OpenCV or torch have threads can wait for ever.
    context = multiprocessing.get_context("spawn")
    chunk = max(1, min(64, len(items) // (workers * 8)))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(work, items, chunksize=chunk)
