"""Video files through PyAV (extra `video`): read upright, with their own times; written in a codec browsers play."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vss.core.errors import UserError
from vss.core.files import atomic_path
from vss.core.log import log

_TIME_BASE = Fraction(1, 90_000)  # seconds per tick, as MPEG counts
_DEFAULT_FPS = 25.0
# FFmpeg looks at the content and not at the suffix: a playlist named .mp4 would have it read other files and addresses.
_FILES_ONLY = {
    "format_whitelist": "avi,m4v,matroska,mov,mp4,mpeg,mpegts,mpegvideo,webm",
    "protocol_whitelist": "file",
}


@dataclass(frozen=True)
class VideoHeader:
    """What a video file announces: stored (height, width), number of frames (0 = unknown) and frames per second."""

    size: tuple[int, int]
    frames: int
    fps: float


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame of a video: its number from 0, upright [H, W, 3] uint8 RGB, and its time in seconds."""

    number: int
    image: np.ndarray
    seconds: float


@contextlib.contextmanager
def open_video(path: str | os.PathLike) -> Iterator[tuple[VideoHeader, Iterator[VideoFrame]]]:
    """Opens a video and gives its header and its frames, in the order they are shown.

    Raises:
        UserError: not a video that FFmpeg can decode. Where it cannot go on, the frames end, and a line is logged.
        ImportError: PyAV is not installed.
    """
    import av

    try:
        # "file:", because FFmpeg takes what stands before a colon for a protocol.
        container = av.open(f"file:{os.fspath(path)}", options=_FILES_ONLY)
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path}: not a video that can be decoded ({_reason(error)})") from None
    with container:
        if not container.streams.video:
            raise UserError(
                f"{path}: holds no video, only {', '.join({s.type for s in container.streams}) or 'nothing'}"
            )
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        fps = float(stream.average_rate or stream.guessed_rate or _DEFAULT_FPS)
        header = VideoHeader((stream.height, stream.width), stream.frames, fps)
        yield header, _frames(path, container, stream, fps)


def _frames(path: str | os.PathLike, container: Any, stream: Any, fps: float) -> Iterator[VideoFrame]:
    import av

    number, seconds, start = -1, 0.0, None
    try:
        for number, frame in enumerate(container.decode(stream)):
            start = frame.time if start is None else start
            seconds = number / fps if frame.time is None or start is None else frame.time - start
            # Phones store pictures lying; the container says by how many degrees, counter-clockwise, to turn them.
            image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            yield VideoFrame(number, np.ascontiguousarray(image), seconds)
    except av.FFmpegError as error:
        log(f"{path}: cannot be decoded after frame {number} ({_reason(error)})")
    if 0 <= number < stream.frames - 1:
        log(f"{path}: {number + 1} of the {stream.frames} frames that it announces could be decoded")


@contextlib.contextmanager
def video_writer(path: str | os.PathLike, size: tuple[int, int], fps: float) -> Iterator[Callable[..., None]]:
    """Gives a function (image [H, W, 3] uint8 RGB, seconds) that appends a frame to an mp4 file of H.264.

    The file is written whole or not at all. The codec halves the resolution of colours: where a side is odd, the last
    row or column is there twice. Times may lie at any distance; they have to increase.

    Args:
        path: ends in .mp4.
        size: (height, width) of every frame.
        fps: what the file announces; the frames' own times decide when each is shown.
    """
    import av

    below, right = size[0] % 2, size[1] % 2
    with atomic_path(Path(path)) as aside, av.open(str(aside), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = size[0] + below, size[1] + right
        # Every browser decodes 4:2:0, few anything else.
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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
