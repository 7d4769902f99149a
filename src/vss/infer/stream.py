"""Overlap: background threads decode and resize frames ahead of the network and write results behind it, in order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def load_ahead(
    items: Iterable[Item], load: Callable[[Item], Loaded], *, workers: int, ahead: int
) -> Iterator[tuple[Item, Loaded]]:
    """Yields (item, load(item)) in the order of `items`, with up to `ahead` loads under way or waiting.

    An exception of `load` is raised where its item's turn comes.
    """
    pending: collections.deque[tuple[Item, Future[Loaded]]] = collections.deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="load") as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(load, item)))
                if len(pending) > ahead:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields every item after the next one has been made."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting


class WriteBehind:
    """Runs calls one after the other in a background thread, at most `waiting` of them queued.

    Use as a context manager: leaving the block waits for all calls. The first exception of a call is raised by a later
    `put` or on leaving the block, and later calls do not run.
    """

    def __init__(self, *, waiting: int) -> None:
        self._waiting = waiting
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: collections.deque[Future[None]] = collections.deque()
        self._failed = False

    def put(self, call: Callable[..., None], *arguments: Any) -> None:
        """Queues a call; blocks while the queue is full."""
        while len(self._pending) >= self._waiting:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._run, call, *arguments))

    def _run(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)


def batches(items: Iterable[Item], *, size: int, key: Callable[[Item], Any]) -> Iterator[list[Item]]:
    """Yields runs of neighbouring items with an equal key, at most `size` long."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == size or key(batch[0]) != key(item)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
