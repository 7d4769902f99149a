"""Progress of long work: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10.0


def log(message: str) -> None:
    """Prints one line to standard error at once, with line breaks and control characters in it escaped."""
    print(printable(message), file=sys.stderr, flush=True)


def show(line: str) -> None:
    """Prints one line of a command's result to standard output, escaped as by `log`."""
    print(printable(line), flush=True)


def printable(text: str) -> str:
    """Returns text that is one line of UTF-8 and moves no cursor: other characters become Python's escapes of them.

    Names of files and videos may hold anything, and a terminal obeys what it is sent.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Returns text with every run of white space and of characters that do not print as one space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def track(items: Iterable[T], *, what: str, total: int | None = None, unit: str = "frame") -> Iterator[T]:
    """Yields `items` unchanged while showing how far the work is.

    Args:
        items: what is worked through.
        what: one clause that starts the line, for example "infer swin.single val shard 0".
        total: number of items; taken from `len(items)` where that exists.
        unit: singular noun of one item.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=printable(what), total=total, unit=unit)
        return
    yield from _plain_lines(items, what=what, total=total, unit=unit)


def _plain_lines(items: Iterable[T], *, what: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done != total:
            last = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            so_far = f"{done}/{total} {unit}s" if total else counted(done, unit)
            log(f"{what}: {so_far}, {rate:.2f} {unit}s/s{left}")
    seconds = time.monotonic() - start
    log(f"{what}: {counted(done, unit)} in {seconds:.1f} s")


def counted(number: int, unit: str) -> str:
    """Returns "1 frame", "2 frames"."""
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
