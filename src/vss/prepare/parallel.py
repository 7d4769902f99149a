"""Work over many files in several processes."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
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
    workers = min(workers or usable_cores(), len(items))
    if workers < 2 or len(items) < worth:
        yield from map(work, items)
        return
    # Started afresh: a fork of a process in which OpenCV or torch have threads can wait for ever.
    context = multiprocessing.get_context("spawn")
    chunk = max(1, min(64, len(items) // (workers * 8)))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(work, items, chunksize=chunk)


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns how many cores this process may use: those of its affinity, or fewer where a container has a CPU quota.

    Args:
        quota: file of version 2 of control groups that holds "QUOTA PERIOD" in microseconds, or "max PERIOD".
    """
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        cores = min(cores, math.ceil(int(allowed) / int(period)))
    return max(cores, 1)
