"""The digest of a dataset's files: it changes with a split's files, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vss.configs.datasets import read_dataset_row
from vss.core.dataset_content import contents, dataset_content
from vss.core.dataset_layout import DatasetLayout

VSPW, COCO_STUFF = (read_dataset_row(name, {}).layout for name in ("vspw", "coco_stuff"))


def touch(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (1, 1))


@pytest.fixture
def vspw(tmp_path: Path) -> Path:
    for split, video in (("train", "t"), ("val", "v"), ("test", "x")):
        (tmp_path / f"{split}.txt").write_text(f"{video}\n")
        for frame in ("1", "2"):
            touch(tmp_path / "data" / video / "origin" / f"{frame}.jpg")
            touch(tmp_path / "data" / video / "mask" / f"{frame}.png")
    return tmp_path


CHANGES = {
    "mask replaced by one of its size": lambda root: os.utime(root / "data/v/mask/1.png", (2, 2)),
    "image fixed": lambda root: touch(root / "data/v/origin/1.jpg", b"whole"),
    "frame added": lambda root: touch(root / "data/v/origin/3.jpg"),
    "frame renamed": lambda root: (root / "data/v/origin/1.jpg").rename(root / "data/v/origin/0.jpg"),
    "mask removed": lambda root: (root / "data/v/mask/1.png").unlink(),
    "list changed": lambda root: (root / "val.txt").write_text("t\n"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_shows_in_its_split_alone(vspw: Path, change) -> None:
    before = dataset_content(VSPW, vspw)
    assert set(before) == {"train", "val", "test"}
    change(vspw)
    after = dataset_content(VSPW, vspw)
    assert {split for split in before if before[split] != after[split]} == {"val"}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_images_alone_do_not_change_with_masks(vspw: Path, change) -> None:
    whole, images = contents(VSPW, vspw)
    assert whole == dataset_content(VSPW, vspw)
    change(vspw)
    changed = {split for split, digest in contents(VSPW, vspw)[1].items() if digest != images[split]}
    assert changed == (
        set() if change in (CHANGES["mask replaced by one of its size"], CHANGES["mask removed"]) else {"val"}
    )


def test_what_no_stage_reads_changes_nothing(vspw: Path) -> None:
    before = dataset_content(VSPW, vspw)
    touch(vspw / "data/v/origin/Thumbs.db")
    touch(vspw / "data/x/mask/3.png")  # the test split has no masks
    touch(vspw / "data/unlisted/origin/1.jpg")
    (vspw / "val.txt").write_text("v\n../v\n")
    (vspw / "data/t/origin/1.jpg").rename(vspw / "moved.jpg")
    (vspw / "data/t/origin/1.jpg").symlink_to(vspw / "moved.jpg")
    assert dataset_content(VSPW, vspw) == before


def test_coco_stuff(tmp_path: Path) -> None:
    for split in ("train", "val"):
        touch(tmp_path / f"images/{split}2017/1.jpg")
        touch(tmp_path / f"stuffthingmaps/{split}2017/1.png")
    before = dataset_content(COCO_STUFF, tmp_path)
    touch(tmp_path / "stuffthingmaps/train2017/1.png", b"other")
    after = dataset_content(COCO_STUFF, tmp_path)
    assert before["train"] != after["train"] and before["val"] == after["val"]


@pytest.mark.parametrize(
    ("images", "masks", "of_clip_b"),
    [
        ("frames/{video}_{frame}.png", "masks/{video}_{frame}.png", "masks/b_2.png"),
        ("clips/{video}.mp4", "masks/{video}/{frame}.png", "clips/b.mp4"),
        ("frames/{frame}.png", "masks/{frame}.png", "masks/b.png"),
    ],
)
def test_lists_of_what_lies_in_one_folder_change_with_their_own_files(
    tmp_path: Path, images: str, masks: str, of_clip_b: str
) -> None:
    content = {"images": images, "masks": masks, "splits": {"train": "t.txt", "val": "v.txt"}, "ignore": []}
    layout = DatasetLayout.from_json(content, where="data.street")
    for name, split in (("a", "t"), ("b", "v")):
        (tmp_path / f"{split}.txt").write_text(f"{name}\n")
        for pattern in (images, masks):
            for frame in (name,) if "{video}" not in images else ("1", "2"):
                touch(tmp_path / pattern.format(video=name, frame=frame))
    before = contents(layout, tmp_path)
    touch(tmp_path / of_clip_b, b"other")
    after = contents(layout, tmp_path)
    for one, other, changes in zip(before, after, (True, not of_clip_b.startswith("masks")), strict=True):
        assert one["train"] == other["train"] and (one["val"] != other["val"]) == changes
