"""Video files written through PyAV (extra `video`), in a codec that browsers play."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from vss.core.files import atomic_path

_TIME_BASE = Fraction(1, 90_000)  # seconds per tick, as MPEG counts


@contextlib.contextmanager
def video_writer(path: str | os.PathLike, size: tuple[int, int], fps: float) -> Iterator[Callable[..., None]]:
    """Yields a function (image [H, W, 3] uint8 RGB, seconds) that appends a frame to an mp4 file of H.264.

    The file is written whole or not at all. The codec halves the resolution of colours: where a side is odd, the last
    row or column is repeated. Times may lie at any distance; they have to increase.

    Args:
        path: ends in .mp4.
        size: (height, width) of every frame.
        fps: nominal frame rate in the file's header; the frames' own times decide when each is shown.
    """
    import av

    below, right = size[0] % 2, size[1] % 2
    with atomic_path(Path(path)) as aside, av.open(str(aside), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = size[0] + below, size[1] + right
        # Every browser decodes 4:2:0; few decode anything else.
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "20", "preset": "veryfast"}
        stream.codec_context.time_base = _TIME_BASE
        last = -1

        def write(image: np.ndarray, seconds: float) -> None:
            nonlocal last
            even = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            last = max(round(seconds / _TIME_BASE), last + 1)
            frame.pts, frame.time_base = last, _TIME_BASE
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode(None))
