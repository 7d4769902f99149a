"""A dataset whose frames are in video files, which are read in place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vss.configs.datasets import read_dataset_row
from vss.core.dataset_content import contents
from vss.core.errors import UserError
from vss.core.images import read_image
from vss.core.index import read_card, read_index
from vss.infer.video import video_writer

pytest.importorskip("av")
ROW = {
    "images": "clips/{video}.mp4",
    "masks": "masks/{video}/{frame}.png",
    "classes": "classes.csv",
    "splits": {"train": "train.txt", "val": "val.txt", "test": "test.txt"},
}
FRAMES = 6


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips of six frames, getting lighter; every third one of train and val has a mask."""
    root = tmp_path / "clips"
    for split, video, first in (("train", "a", 20), ("val", "b", 100), ("test", "c", 180)):
        (root / "clips").mkdir(parents=True, exist_ok=True)
        with video_writer(root / f"clips/{video}.mp4", (32, 48), 25) as write:
            for number in range(FRAMES):
                write(np.full((32, 48, 3), first + 8 * number, np.uint8), number / 25)
        if split != "test":
            (root / "masks" / video).mkdir(parents=True)
            for number in range(0, FRAMES, 3):
                Image.fromarray(np.ones((32, 48), np.uint8)).save(root / f"masks/{video}/{number:08d}.png")
        (root / f"{split}.txt").write_text(f"{video}\n")
    (root / "classes.csv").write_text("id,name\n0,sky\n1,road\n")
    return root


def test_frames_are_numbered_and_read_in_place(clips: Path, run_prepare: Callable) -> None:
    done = run_prepare(clips, dataset="mine", **ROW)
    rows, card = read_index(done.index), read_card(done.card)
    assert card.frames == {"train": FRAMES, "val": FRAMES, "test": FRAMES}
    train = rows[rows["split"] == "train"]
    assert train["frame"].tolist() == [f"{number:08d}" for number in range(FRAMES)]
    assert train["image"].tolist()[2] == "clips/a.mp4#00000002"
    assert train["mask"].tolist() == ["masks/a/00000000.png", "", "", "masks/a/00000003.png", "", ""]
    assert set(zip(rows["height"], rows["width"], strict=True)) == {(32, 48)}
    for number, row in enumerate(train.itertuples()):
        assert abs(int(read_image(Path(card.root) / row.image).mean()) - (20 + 8 * number)) <= 2
    assert read_index(run_prepare(clips, dataset="mine", **ROW, checks="fast").index).equals(rows)


def test_broken_and_replaced_files_are_seen(clips: Path, run_prepare: Callable) -> None:
    layout = read_dataset_row("mine", {"root": str(clips), **ROW}).layout
    before = contents(layout, clips)
    (clips / "clips/b.mp4").write_bytes(b"no video")
    after = contents(layout, clips)
    for was, now in zip(before, after, strict=True):
        assert {split for split in was if now[split] != was[split]} == {"val"}
    with pytest.raises(UserError, match=r"clips/b\.mp4#00000000: image_broken: not a video"):
        run_prepare(clips, dataset="mine", **ROW)
    done = run_prepare(clips, dataset="mine", **ROW, on_problem="skip")
    assert {split for split, *_ in done.rows()} == {"train", "test"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"images": "clips/{video}/{frame}.mp4"},
            r"images: is .* a video file, which must hold {video} and no {frame}",
        ),
        ({"masks": "masks/{video}.mp4"}, r"masks: is .*; masks are PNGs, one for each frame"),
    ],
)
def test_mistakes(clips: Path, keys: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_dataset_row("mine", {"root": str(clips), **ROW, **keys})
