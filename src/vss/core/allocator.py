"""How this process manages its memory."""

from __future__ import annotations

import gc
import sys

# mallopt's parameters and what they are set to here, in bytes (malloc.h; 32 MiB is the most it takes for the second).
_TRIM_THRESHOLD = (-1, 2**31 - 1)
_MMAP_THRESHOLD = (-3, 32 * 2**20)


def keep_freed_memory() -> None:
    """Lets the GNU C library keep what is freed, up to 2 GiB, for what is allocated next; others are left as they are.

    A step of a model on the CPU frees and allocates the same large tensors again and again. By default each is given
    back to the system, which has to fill its pages with zeros the next time: an eighth of a small training's time.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # 4 ms, which `vss --help` need not wait for

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for parameter, value in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(parameter, value)


def collect_garbage_less_often() -> None:
    """Lets Python look for garbage in cycles after 50,000 new objects, not after 700.

    Next to nothing that imports make is garbage, nor is a plan of thousands of jobs: the search takes an eighth of the
    time of importing torch and MMSegmentation, and a sixth of a dry run's.
    """
    gc.set_threshold(50_000, 20, 20)
