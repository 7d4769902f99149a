"""Datasets as patterns: every published layout drawn as it is released, a user's own folders, and mistakes in both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vss.configs.datasets import formats, read_dataset_row
from vss.core.dataset_content import contents
from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.index import read_card, read_index
from vss.prepare.recheck import check_masks

SIZE = (4, 6)


def save(path: Path, value: Any, dtype: type = np.uint8) -> None:
    """Writes a picture of one grey value, id or RGB colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = np.asarray(value, dtype)
    Image.fromarray(np.broadcast_to(value, (*SIZE, *value.shape)).copy()).save(path)


def read(done: Any) -> dict[tuple[str, str, str], str]:
    """Returns the class (or "" without, "-" without a mask) of every frame of a prepared dataset."""
    card, found = read_card(done.card), {}
    for row in read_index(done.index).itertuples():
        train = int(card.read_mask(row.mask)[0, 0]) if row.mask else None
        name = "-" if train is None else "" if train == 255 else card.classes[train]
        found[row.split, row.video, row.frame] = name
    return found


# format -> files (path, value, dtype), what is found, number of classes
GREY = (90, 90, 90)
PUBLISHED: dict[str, tuple[list[tuple], dict[tuple[str, str, str], str], int]] = {
    "vspw": (
        [
            ("data/1_a/origin/00000001.jpg", GREY), ("data/1_a/mask/00000001.png", 1), ("train.txt", "1_a\n"),
            ("data/2_b/origin/00000001.jpg", GREY), ("data/2_b/mask/00000001.png", 124), ("val.txt", "2_b\n"),
            ("data/3_c/origin/00000001.jpg", GREY), ("test.txt", "3_c\n"),
        ],
        {("train", "1_a", "00000001"): "wall", ("val", "2_b", "00000001"): "train", ("test", "3_c", "00000001"): "-"},
        124,
    ),
    "coco_stuff": (
        [
            ("images/train2017/000000000009.jpg", GREY), ("stuffthingmaps/train2017/000000000009.png", 0),
            ("images/val2017/000000000139.jpg", GREY), ("stuffthingmaps/val2017/000000000139.png", 181),
        ],
        {
            ("train", "000000000009", "000000000009"): "person",
            ("val", "000000000139", "000000000139"): "wood",
        },
        171,
    ),
    "ade20k": (
        [
            ("images/training/ADE_train_00000001.jpg", GREY), ("annotations/training/ADE_train_00000001.png", 1),
            ("images/validation/ADE_val_00000001.jpg", GREY), ("annotations/validation/ADE_val_00000001.png", 150),
        ],
        {
            ("train", "ADE_train_00000001", "ADE_train_00000001"): "wall",
            ("val", "ADE_val_00000001", "ADE_val_00000001"): "flag",
        },
        150,
    ),
    "cityscapes": (
        [
            ("leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png", GREY),
            ("gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", 7),
            ("gtFine/train/aachen/aachen_000000_000019_gtFine_color.png", (128, 64, 128)),
            ("leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png", GREY),
            ("gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png", 33),
            ("leftImg8bit/test/bonn/bonn_000000_000019_leftImg8bit.png", GREY),
            ("gtFine/test/bonn/bonn_000000_000019_gtFine_labelIds.png", 0),
        ],
        {
            ("train", "aachen_000000_000019", "aachen_000000_000019"): "road",
            ("val", "ulm_000001_000019", "ulm_000001_000019"): "bicycle",
            ("test", "bonn_000000_000019", "bonn_000000_000019"): "-",
        },
        19,
    ),
    "cityscapes_sequence": (
        [
            *[(f"leftImg8bit_sequence/{split}/ulm/ulm_00000{number}_0000{frame}_leftImg8bit.png", GREY)
              for split, number in (("train", 0), ("val", 1)) for frame in (18, 19, 20)],
            ("gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png", 26),
            ("gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png", 11),
        ],
        {
            (split, f"ulm_00000{number}", f"0000{frame}"): name if frame == 19 else "-"
            for split, number, name in (("train", 0, "car"), ("val", 1, "building")) for frame in (18, 19, 20)
        },
        19,
    ),
    "camvid": (
        [
            ("train/0001TP_006690.png", GREY), ("train_labels/0001TP_006690_L.png", (128, 0, 192)),
            ("val/0016E5_07959.png", GREY), ("val_labels/0016E5_07959_L.png", (192, 0, 192)),
        ],
        {
            ("train", "0001TP_006690", "0001TP_006690"): "road",
            ("val", "0016E5_07959", "0016E5_07959"): "bicyclist",
        },
        11,
    ),
    "vipseg": (
        [
            ("images/1_a/00000001.jpg", GREY), ("panomasks/1_a/00000001.png", 6112, np.uint16), ("train.txt", "1_a\n"),
            ("images/2_b/00000001.jpg", GREY), ("panomasks/2_b/00000001.png", 124, np.uint16), ("val.txt", "2_b\n"),
            ("images/3_c/00000001.jpg", GREY), ("test.txt", "3_c\n"),
        ],
        {("train", "1_a", "00000001"): "person", ("val", "2_b", "00000001"): "train", ("test", "3_c", "00000001"): "-"},
        124,
    ),
    "kitti_step": (
        [
            ("images/train/0000/000000.png", GREY), ("panoptic_maps/train/0000/000000.png", (13, 0, 7)),
            ("images/val/0002/000000.png", GREY), ("panoptic_maps/val/0002/000000.png", (255, 0, 0)),
            ("images/val/0002/000001.png", GREY), ("panoptic_maps/val/0002/000001.png", (18, 0, 0)),
        ],
        {
            ("train", "0000", "000000"): "car",
            ("val", "0002", "000000"): "",
            ("val", "0002", "000001"): "bicycle",
        },
        19,
    ),
    "mmseg": (
        [
            ("img_dir/train/a.jpg", GREY), ("ann_dir/train/a.png", 1), ("classes.csv", "id,name\n0,sky\n1,road\n"),
            ("img_dir/val/b.png", GREY), ("ann_dir/val/b.png", 0),
        ],
        {("train", "a", "a"): "road", ("val", "b", "b"): "sky"},
        2,
    ),
    "images_masks": (
        [
            *[(f"images/{n}.jpg", GREY) for n in range(5)], *[(f"masks/{n}.png", 1) for n in range(5)],
            ("classes.csv", "id,name\n0,sky\n1,road\n"),
        ],
        {("val" if n == 0 else "train", f"{n}", f"{n}"): "road" for n in range(5)},
        2,
    ),
}  # fmt: skip


def lay_out(root: Path, files: list[tuple]) -> None:
    for path, content, *dtype in files:
        if isinstance(content, str):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        else:
            save(root / path, content, *dtype)


def test_every_format_is_drawn_below() -> None:
    assert PUBLISHED.keys() | {"folders"} == formats().keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_layout_needs_its_root_alone(tmp_path: Path, run_prepare: Callable, name: str) -> None:
    files, expected, num_classes = PUBLISHED[name]
    lay_out(tmp_path / "raw", files)
    own = {"classes": "classes.csv"} if name in ("mmseg", "images_masks") else {}
    done = run_prepare(tmp_path / "raw", dataset=name, **own)
    assert done.kinds() == []
    found = read(done)
    if name == "images_masks":  # which one is val is a matter of the seed
        assert sorted(split for split, _, _ in found) == sorted(split for split, _, _ in expected)
        found, expected = ({key[1:]: value for key, value in each.items()} for each in (found, expected))
    assert found == expected
    card = read_card(done.card)
    assert len(card.classes) == num_classes and card.name == name and not card.drawn
    # What is there later is compared by the card alone.
    check_masks(index=done.index, card=done.card, split="val", out=tmp_path / "masks.json")
    assert read_json(tmp_path / "masks.json")["content"].keys() == {"val"}


# ---- a user's own folders

TABLE = "colour,name,shown,train_name\n#000000,void,,\n128 64 128,road,,road\n#464646,house,,building\n"
OWN = {
    "images": "{split}/{video}/rgb/{frame}.jpg",
    "masks": "{split}/{video}/gt/{frame}.png",
    "classes": "classes.csv",
}


@pytest.fixture
def street(tmp_path: Path) -> Path:
    root = tmp_path / "street"
    files: list[tuple] = [("classes.csv", TABLE)]
    for split, video in (("train", "a"), ("val", "b")):
        files += [(f"{split}/{video}/rgb/{frame}.jpg", GREY) for frame in "123"]
        files += [(f"{split}/{video}/gt/1.png", (128, 64, 128)), (f"{split}/{video}/gt/3.png", (70, 70, 70))]
    lay_out(root, files)
    return root


def test_frames_without_a_mask_are_listed(street: Path, run_prepare: Callable) -> None:
    done = run_prepare(street, dataset="street", **OWN)
    assert done.kinds() == []
    assert read(done) == {
        (split, video, frame): {"1": "road", "2": "-", "3": "building"}[frame]
        for split, video in (("train", "a"), ("val", "b"))
        for frame in "123"
    }
    with pytest.raises(UserError, match=r"mask_missing: no mask val/b/gt/2\.png"):
        run_prepare(street, dataset="street", **OWN, annotation="full")


def test_classes_are_another_datasets_by_name_or_by_table(street: Path, run_prepare: Callable) -> None:
    card = read_card(run_prepare(street, dataset="street", **OWN, map={"to": "vspw"}).card)
    assert (card.name, card.label_space, len(card.classes)) == ("street", "vspw", 124)
    assert card.read_mask("val/b/gt/1.png")[0, 0] == card.classes.index("road")
    (street / "map.csv").write_text("from,to\nbuilding,house\n")
    done = run_prepare(street, dataset="street", **OWN, map={"to": "vspw", "table": "map.csv"})
    card = read_card(done.card)
    assert card.read_mask("val/b/gt/3.png")[0, 0] == card.classes.index("house")
    assert card.read_mask("val/b/gt/1.png")[0, 0] == 255


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": "lists/t.txt", "val": "lists/v.txt"}, {"a": "train", "c": "train", "b": "val"}),
        ({"val": "lists/v.txt"}, {"b": "val"}),
        ({"train": 0.5, "val": 0.25, "test": 0.25, "seed": 3}, None),
    ],
)
@pytest.mark.parametrize("by_video", [True, False])
def test_splits_by_list_and_by_share(
    tmp_path: Path, run_prepare: Callable, splits: dict, expected: dict | None, by_video: bool
) -> None:
    files: list[tuple] = [("lists/t.txt", "a\nc\n"), ("lists/v.txt", "b\n"), ("c.csv", "id,name\n1,one\n")]
    for name in "abcd":
        files += [(f"rgb/{name}/0.png" if by_video else f"rgb/{name}.png", GREY)]
        files += [(f"gt/{name}/0.png" if by_video else f"gt/{name}.png", 1)]
    lay_out(tmp_path / "raw", files)
    pattern = "{video}/{frame}" if by_video else "{frame}"
    row = {"images": f"rgb/{pattern}.*", "masks": f"gt/{pattern}.png", "classes": "c.csv", "splits": splits}
    found = {video: split for split, video, _ in run_prepare(tmp_path / "raw", dataset="x", **row).rows()}
    if expected is not None:
        assert found == expected
    else:
        assert sorted(found) == list("abcd") and sorted(found.values()) == ["test", "train", "train", "val"]
        again = run_prepare(tmp_path / "raw", dataset="x", **row)
        assert {video: split for split, video, _ in again.rows()} == found


def test_a_number_in_the_name_tells_the_frame(tmp_path: Path, run_prepare: Callable) -> None:
    lay_out(tmp_path / "raw", [("val/a_b_7.png", GREY), ("gt/val/a_b_7_gt.png", 1), ("c.csv", "id,name\n1,one\n")])
    row = {"images": "{split}/{video}_{frame}.png", "masks": "gt/{split}/{video}_{frame}_gt.png", "classes": "c.csv"}
    done = run_prepare(tmp_path / "raw", dataset="x", **row, splits={"val": "val"})
    assert read(done) == {("val", "a_b", "7"): "one"}


MISTAKES = [
    # change of the row, words of the line
    ({"images": "{split}/{vidoe}/{frame}.jpg"}, ["data.street.images: unknown placeholder {vidoe}", "'video'"]),
    ({"images": "{split}/{video}/rgb.jpg"}, ["data.street.images", "must hold {frame}"]),
    ({"images": "/data/{video}/{frame}.jpg"}, ["data.street.images", "must be a path below root"]),
    ({"images": "../{split}/{video}/{frame}.jpg"}, ["data.street.images", "must be a path below root"]),
    ({"images": "{split}/{video}/{frame}"}, ["data.street.images", "must end in a file type"]),
    ({"images": "{split}/{frame}.jpg"}, ["data.street.masks", "must both hold {video}, or neither"]),
    ({"images": None}, ["data.street.images", "is missing"]),
    ({"classes": "clases.csv"}, ["data.street.classes: no file 'clases.csv'", "did you mean 'classes.csv'", "camvid"]),
    ({"classes": "cityscape"}, ["data.street.classes", "did you mean 'cityscapes'"]),
    ({"splits": {"train": 0.8, "val": 0.4}}, ["data.street.splits", "at most 1"]),
    ({"splits": {"train": 0.8, "val": "val.txt"}}, ["data.street.splits", "shares must be given for all splits"]),
    ({"splits": {"vla": "val"}}, ["data.street.splits", "unknown key 'vla'", "did you mean 'val'"]),
    ({"map": {"to": "vspv"}}, ["data.street.map.to", "did you mean 'vspw'"]),
    ({"map": {"to": "kitti_step", "table": "no.csv"}}, ["data.street.map.table: no file 'no.csv'"]),
    ({"mask_values": "ids"}, ["data.street.mask_values: is 'ids', but the class table is by colours"]),
    ({"format": "citiscapes"}, ["data.street.format", "'citiscapes'", "'cityscapes'"]),
    # what is on disk
    ({"images": "{split}/{video}/img/{frame}.jpg"}, ["split_missing", "no img in val/b, which holds gt, rgb"]),
    ({"images": "{split}/{video}/rgb/{frame}.png"}, ["split_missing", "no {frame}.png in val/b/rgb, which"]),
    ({"masks": "{split}/{video}/label/{frame}.png"}, ["split_without_masks", "no label in train/a", "gt, rgb"]),
    ({"splits": {"train": "train", "val": "valid"}}, ["split_missing", "no valid in the root", "train, val"]),
    ({"masks": "{split}/{video}/gtt/{frame}.png"}, ["split_without_masks", "which holds gt, rgb (did you mean 'gt'?)"]),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line_with_the_nearest_fix(
    street: Path, run_prepare: Callable, change: dict[str, Any], words: list[str]
) -> None:
    row = {key: value for key, value in {**OWN, **change}.items() if value is not None}
    with pytest.raises(UserError) as caught:
        run_prepare(street, dataset="street", **row)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_colour_that_the_table_lacks_is_named_with_the_nearest(street: Path, run_prepare: Callable) -> None:
    save(street / "val/b/gt/1.png", (128, 64, 120))
    with pytest.raises(UserError) as caught:
        run_prepare(street, dataset="street", **OWN)
    expected = "val/b/gt/1.png: label_value: colour #804078 on 24 pixels, the nearest in classes.csv is #804080"
    assert expected in str(caught.value)


def test_two_files_of_one_frame_are_named(street: Path, run_prepare: Callable) -> None:
    save(street / "val/b/rgb/1.png", GREY)
    row = {**OWN, "images": "{split}/{video}/rgb/{frame}.*"}
    with pytest.raises(UserError, match=r"rgb/1\.png: frame_duplicate: also val/b/rgb/1\.jpg"):
        run_prepare(street, dataset="street", **row)


def test_a_listed_frame_that_is_not_there_is_named_with_the_nearest(tmp_path: Path, run_prepare: Callable) -> None:
    files = [("rgb/frame1.png", GREY), ("gt/frame1.png", 1), ("v.txt", "frame1\nframe2\n"), ("c.csv", "id,name\n1,a\n")]
    lay_out(tmp_path / "raw", files)
    row = {"images": "rgb/{frame}.png", "masks": "gt/{frame}.png", "classes": "c.csv", "splits": {"val": "v.txt"}}
    with pytest.raises(UserError, match=r"v\.txt: video_absent: no image for 'frame2' \(did you mean 'frame1'\?\)"):
        run_prepare(tmp_path / "raw", dataset="x", **row)


def test_the_digest_of_a_users_folders_follows_images_and_masks(street: Path) -> None:
    layout = read_dataset_row("street", {**OWN, "root": str(street)}).layout
    whole, images = contents(layout, street)
    save(street / "val/b/gt/2.png", (70, 70, 70))
    later, images_later = contents(layout, street)
    assert whole["train"] == later["train"] and whole["val"] != later["val"] and images == images_later


def test_what_is_drawn_for_a_row_is_read_by_it(tmp_path: Path, run_prepare: Callable) -> None:
    (tmp_path / "t.csv").write_text("colour,name,train_name\n#000000,void,\n#0a0b0c,sky,sky\n#804080,road,road\n")
    drawn = {"train_videos": 2, "val_videos": 1, "train_frames": 2, "val_frames": 3, "mask_every": 2, "height": 32}
    row = {**OWN, "classes": str(tmp_path / "t.csv"), "drawn": drawn}
    done = run_prepare(None, dataset="street", **row)
    card = read_card(done.card)
    assert card.drawn and card.frames == {"train": 4, "val": 3} and done.kinds() == []
    masks = [mask for mask in read_index(done.index)["mask"] if mask]
    assert len(masks) == 2 + 2
    assert {int(value) for mask in masks for value in np.unique(card.read_mask(mask))} <= {0, 1, 255}


# ---- what is sound and yet may be a mistake


def test_the_report_counts_pixels_and_warns_of_unseen_classes_and_shared_frames(
    street: Path, run_prepare: Callable
) -> None:
    save(street / "train/a/gt/3.png", (128, 64, 128))
    for number, split in enumerate(("train/a", "val/b"), start=20):  # all frames of the fixture are alike
        for frame in "123":
            save(street / split / "rgb" / f"{frame}.jpg", (number, int(frame), 7))
    save(street / "val/b/rgb/2.jpg", (20, 3, 7))
    report = run_prepare(street, dataset="street", **OWN).report()
    assert report["pixels"] == {"train": {"road": 48}, "val": {"road": 24, "building": 24}}
    assert report["warnings"] == [
        "val has 1 class that train has not: building",
        "1 image is in two splits: val/b/rgb/2.jpg = train/a/rgb/3.jpg",
    ]
    assert run_prepare(street, dataset="street", **OWN, checks="fast").report()["warnings"] == []


def test_ids_that_are_shifted_against_the_table_are_told_from_stray_ones(tmp_path: Path, run_prepare: Callable) -> None:
    table = "id,name\n0,sky\n1,road\n2,car\n"
    files: list[tuple] = [(f"images/{n}.png", (n, 0, 0)) for n in range(5)] + [("classes.csv", table)]
    lay_out(tmp_path / "raw", [*files, *((f"masks/{n}.png", 1 + n % 3) for n in range(5))])
    row = {"dataset": "x", "format": "images_masks", "classes": "classes.csv", "splits": {"train": 1}}
    with pytest.raises(UserError, match=r"train: mask values 1\.\.3 do not fit .* if each were one less: its ids"):
        run_prepare(tmp_path / "raw", **row)
    save(tmp_path / "raw/masks/0.png", 9)
    with pytest.raises(UserError) as caught:
        run_prepare(tmp_path / "raw", **row)
    assert "label_value" in str(caught.value) and "against the masks" not in str(caught.value)


def test_a_lying_image_with_an_upright_mask_is_explained(street: Path, run_prepare: Callable) -> None:
    lying = Image.new("RGB", (4, 6))
    lying.getexif()[0x0112] = 6
    lying.save(street / "val/b/rgb/1.jpg", exif=lying.getexif())
    with pytest.raises(UserError, match=r"mask_size: 6x4, image 4x6 \(stored lying, by EXIF orientation 6"):
        run_prepare(street, dataset="street", **OWN)


def test_an_image_that_exif_flips_is_named_next_to_a_mask_that_fits_either_way(
    street: Path, run_prepare: Callable
) -> None:
    for name, orientation in (("1", 3), ("2", 1)):
        image = Image.new("RGB", (6, 4))
        image.getexif()[0x0112] = orientation
        image.save(street / f"val/b/rgb/{name}.jpg", exif=image.getexif())
    for checks in ("full", "fast"):
        warnings = run_prepare(street, dataset="street", **OWN, checks=checks).report()["warnings"]
        flipped = [line for line in warnings if "EXIF" in line]
        assert len(flipped) == 1 and "1 image with a mask is mirrored or turned by 180 degrees" in flipped[0]
        assert flipped[0].endswith("val/b/rgb/1.jpg")


def test_the_report_is_a_page_too(street: Path, run_prepare: Callable) -> None:
    save(street / "val/b/gt/1.png", (9, 9, 9))
    (street / "train/a/rgb/<b>.jpg").write_bytes(b"")
    done = run_prepare(street, dataset="street", **OWN, on_problem="skip")
    page = done.check.with_suffix(".html").read_text()
    assert "2 problems" in page and "colour #090909 on 24 pixels" in page and "train/a/rgb/&lt;b&gt;.jpg" in page
    assert page.count("data:image/png;base64,") == 1  # of the mask; the image cannot be decoded
    assert done.report()["counts"]["sizes"] == {"6x4": 6} and ">6x4</th>" in page
    assert ">road</th>" in page and "50.00%" in page  # of the labelled pixels of train
