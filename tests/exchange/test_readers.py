"""Readers of imported predictions."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vss.exchange.readers import _read_array


@pytest.fixture
def switching_often():
    """Lets threads take turns, and the garbage collector run, as often as they can."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(collecting := lambda *_: sum(range(20)))
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)
    gc.callbacks.remove(collecting)


def test_threads_read_arrays_side_by_side(tmp_path, switching_often) -> None:
    """NumPy's own reader fails here in Python 3.10 and 3.11, see `_ONE_HEADER_AT_A_TIME`."""
    np.save(path := str(tmp_path / "scores.npy"), np.ones((4, 2, 2), np.float32))

    def read(depth: int) -> np.ndarray:
        return read(depth - 1) if depth else _read_array(path)  # the parser counts from the depth of its caller

    with ThreadPoolExecutor(8) as pool:
        assert all(planes.shape == (4, 2, 2) for planes in pool.map(read, list(range(0, 24, 3)) * 250))
