"""Video files through PyAV (extra `video`): read upright, in order with their own times, or any frame by its number."""

from __future__ import annotations

import bisect
import collections
import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vss.core.errors import UserError
from vss.core.log import log

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
_DEFAULT_FPS = 25.0
# FFmpeg looks at the content and not at the suffix: a playlist named .mp4 would have it read other files and addresses.
_FILES_ONLY = {
    "format_whitelist": "avi,m4v,matroska,mov,mp4,mpeg,mpegts,mpegvideo,webm",
    "protocol_whitelist": "file",
}
# What stands for one frame of a video where a path is expected: `clips/a.mp4#00000012`.
_FRAME = re.compile(rf"(?s:(.+(?i:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES)))})))#(\d+)")
_OPEN_VIDEOS = 4  # files that are kept open
_KEPT_FRAMES = 24  # of each, not yet converted to RGB: threads that read ahead ask slightly out of order


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
    container, stream = _opened(path)
    with container:
        fps = float(stream.average_rate or stream.guessed_rate or _DEFAULT_FPS)
        header = VideoHeader((stream.height, stream.width), stream.frames, fps)
        yield header, _frames(path, container, stream, fps)


def _opened(path: str | os.PathLike) -> tuple[Any, Any]:
    """Returns the container of a file, which the caller closes, and its video stream."""
    import av

    try:
        # "file:", because FFmpeg takes what stands before a colon for a protocol.
        container = av.open(f"file:{os.fspath(path)}", options=_FILES_ONLY)
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path}: not a video that can be decoded ({_reason(error)})") from None
    if not container.streams.video:
        found = ", ".join({stream.type for stream in container.streams}) or "nothing"
        container.close()
        raise UserError(f"{path}: holds no video, only {found}")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, stream


def _frames(path: str | os.PathLike, container: Any, stream: Any, fps: float) -> Iterator[VideoFrame]:
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    number, seconds, start = -1, 0.0, None
    try:
        for number, frame in enumerate(container.decode(stream)):
            start = frame.time if start is None else start
            seconds = number / fps if frame.time is None or start is None else frame.time - start
            yield VideoFrame(number, _upright(frame, reformatter), seconds)
    except av.FFmpegError as error:
        log(f"{path}: cannot be decoded after frame {number} ({_reason(error)})")
    if 0 <= number < stream.frames - 1:
        log(f"{path}: {number + 1} of the {stream.frames} frames that it announces could be decoded")


def _upright(frame: Any, reformatter: Any) -> np.ndarray:
    """Returns a decoded frame [H, W, 3] uint8 RGB as it is shown.

    PyAV 19 has one reformatter per thread, which a forked process inherits without the threads that it waits for: each
    reader has its own.
    """
    rgb = reformatter.reformat(frame, format="rgb24").to_ndarray()
    # Phones store pictures lying; the container says by how many degrees, counter-clockwise, to turn them.
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# ---- frames by number


def frame_name(number: int) -> str:
    """Returns the name of a frame of a video in a dataset, and in what `vss predict` writes of a video: 00000012."""
    return f"{number:08d}"


def place_of_frame(path: str | os.PathLike) -> tuple[str, int] | None:
    """Returns (video file, number of the frame from 0) of `clips/a.mp4#00000012`; None for any other path."""
    match = _FRAME.fullmatch(os.fspath(path))
    return None if match is None else (match[1], int(match[2]))


def read_frame(path: str | os.PathLike, number: int) -> np.ndarray:
    """Returns a frame of a video, upright [H, W, 3] uint8 RGB.

    Files stay open, and the frames last decoded are kept, so that neighbouring frames are decoded once whatever the
    thread that asks; another place is sought from the keyframe before it.

    Raises:
        UserError: not a video that FFmpeg can decode, or not up to this frame.
        ImportError: PyAV is not installed.
    """
    return _OPEN.reader(os.fspath(path)).read(number)


def size_of_frames(path: str | os.PathLike) -> tuple[int, int]:
    """Returns (height, width) of a video's frames, upright, by its first one; errors as `read_frame`."""
    return _OPEN.reader(os.fspath(path)).size


def count_frames(path: str | os.PathLike) -> int:
    """Returns the number of frames of a video, without decoding any; errors as `read_frame`."""
    with contextlib.closing(_FrameReader(os.fspath(path))) as reader:
        return reader.count


class _FrameReader:
    """Frames of one video file by number, for any thread."""

    def __init__(self, path: str) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._lock, self._reformatter = path, threading.Lock(), VideoReformatter()
        self._container, self._stream = _opened(path)
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        # Packets come in the order of decoding; sorted by the time they are shown, the n-th is frame n.
        packets = [packet for packet in self._demuxed() if packet.size and not packet.is_discard]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        self.count = len(packets)
        # Without a time of its own for each frame (AVI), frames are only counted from the start.
        self._times = times if len(set(times)) == len(packets) else []
        keyframes = (packet for packet in packets if packet.is_keyframe and self._times)
        self._keyframes = sorted({0, *(bisect.bisect_left(times, packet.pts) for packet in keyframes)})
        if not packets:
            self._container.close()
            raise UserError(f"{path}: holds no frame that can be decoded")
        self._seek(0)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame, upright."""
        height, width = self.read(0).shape[:2]
        return height, width

    def _demuxed(self) -> Iterator[Any]:
        import av

        with contextlib.suppress(av.FFmpegError):  # cut: what there is counts, and the rest is found missing
            yield from self._container.demux(self._stream)

    def _seek(self, number: int) -> None:
        """Makes the next decoded frame the keyframe at or before `number`, or frame 0."""
        start = self._times[self._keyframes[bisect.bisect_right(self._keyframes, number) - 1]] if self._times else 0
        self._container.seek(start, stream=self._stream, backward=True, any_frame=False)
        self._decoded = self._container.decode(self._stream)
        self._next = 0

    def read(self, number: int) -> np.ndarray:
        """Returns a frame; see `read_frame`."""
        import av

        with self._lock:
            if number not in self._kept:
                try:
                    self._decode(number)
                except (av.FFmpegError, StopIteration) as error:
                    why = "" if isinstance(error, StopIteration) else f" ({_reason(error)})"
                    raise UserError(f"{self._path}: frame {number} of {self.count} cannot be decoded{why}") from None
            return _upright(self._kept[number], self._reformatter)

    def _decode(self, number: int) -> None:
        """Decodes up to a frame, from where the last one was or from the keyframe before it."""
        keyframe = self._keyframes[bisect.bisect_right(self._keyframes, number) - 1]
        if not self._next <= number or keyframe > self._next:
            self._seek(number)
        found = -1
        while found < number:
            frame = next(self._decoded)
            found = bisect.bisect_left(self._times, frame.pts) if self._times else self._next
            self._next = found + 1
            self._kept[found] = frame
            if len(self._kept) > _KEPT_FRAMES:
                self._kept.popitem(last=False)
        if number not in self._kept:
            raise StopIteration

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
            self._container.close()


class _OpenVideos:
    """The videos last read, kept open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: collections.OrderedDict[tuple[str, int, int], _FrameReader] = collections.OrderedDict()

    def reader(self, path: str) -> _FrameReader:
        """Returns the reader of a file, which may have been open; one that is no longer used is closed."""
        try:
            found = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        key = (path, found.st_size, found.st_mtime_ns)
        with self._lock:
            if key not in self._readers:
                self._readers[key] = _FrameReader(path)
            self._readers.move_to_end(key)
            reader = self._readers[key]
            if len(self._readers) > _OPEN_VIDEOS:
                # Closed where no thread has it any more: one may be waiting for its lock.
                self._readers.popitem(last=False)
            return reader


_OPEN = _OpenVideos()
_OF_PARENTS: list[_OpenVideos] = []


def _start_afresh() -> None:
    """Leaves the parent's open videos alone in a forked process: their decoding threads are not there to be joined."""
    global _OPEN
    _OF_PARENTS.append(_OPEN)
    _OPEN = _OpenVideos()


os.register_at_fork(after_in_child=_start_afresh)
