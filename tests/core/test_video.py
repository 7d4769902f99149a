"""Frames of a video by number: the same pixels as in order, from any thread, in a forked process as well."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.video import count_frames, frame_name, open_video, place_of_frame, read_frame, size_of_frames
from vss.infer.video import video_writer

pytest.importorskip("av")
FRAMES = 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of noise that moves, with several keyframes."""
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with video_writer(path, noise.shape[:2], 25) as write:
        for number in range(FRAMES):
            write(np.roll(noise, number, axis=1), number / 25)
    return path


@pytest.fixture(scope="module")
def in_order(clip: Path) -> list[np.ndarray]:
    with open_video(clip) as (_, frames):
        return [frame.image for frame in frames]


def test_frames_in_any_order_are_those_in_order(clip: Path, in_order: list[np.ndarray]) -> None:
    assert count_frames(clip) == len(in_order) == FRAMES and size_of_frames(clip) == (64, 96)
    numbers = [*range(FRAMES), *random.Random(1).sample(range(FRAMES), 30), 0, FRAMES - 1]
    for number in numbers:
        np.testing.assert_array_equal(read_frame(clip, number), in_order[number])
    np.testing.assert_array_equal(read_image(f"{clip}#{frame_name(7)}"), in_order[7])


def test_threads_share_one_reader(clip: Path, in_order: list[np.ndarray]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number, image in enumerate(pool.map(lambda number: read_frame(clip, number), range(FRAMES))):
            np.testing.assert_array_equal(image, in_order[number])


def _sum_of_frame(path: Path, number: int, sums: multiprocessing.Queue) -> None:
    sums.put(int(read_frame(path, number).sum()))


def test_a_forked_process_opens_its_own(clip: Path, in_order: list[np.ndarray]) -> None:
    read_frame(clip, 3)
    context = multiprocessing.get_context("fork")
    sums = context.Queue()
    child = context.Process(target=_sum_of_frame, args=(clip, 40, sums))
    child.start()
    assert sums.get(timeout=60) == in_order[40].sum()
    child.join()


def test_what_is_no_frame(clip: Path, tmp_path: Path) -> None:
    assert place_of_frame("clips/a.MP4#00000012") == ("clips/a.MP4", 12)
    assert place_of_frame("clips/a#1.png") is None and place_of_frame("a.mp4") is None
    with pytest.raises(UserError, match=r"a\.mp4: frame 60 of 60 cannot be decoded"):
        read_frame(clip, FRAMES)
    with pytest.raises(UserError, match=r"none\.mp4: No such file"):
        read_frame(tmp_path / "none.mp4", 0)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"text\.mp4: not a video"):
        count_frames(tmp_path / "text.mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut\.mp4: (frame 59 of \d+ cannot|holds no frame that can) be decoded"):
        read_frame(cut, FRAMES - 1)
