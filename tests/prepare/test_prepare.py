"""The prepare stage on whole folders: what it writes, each kind of problem, stop and skip."""

from __future__ import annotations

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.raw_dataset import FRAMES, save_image, save_mask
from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file
from vss.core.images import read_mask, read_raw_mask
from vss.core.index import LeftOut, read_card, read_index
from vss.core.labels import VSPW
from vss.prepare.listing import PROBLEM_KINDS
from vss.prepare.run import stopped_report


def test_index_card_and_report_of_a_clean_folder(vspw, run_prepare) -> None:
    done = run_prepare(vspw.root)
    table = read_index(done.index)
    assert len(table) == 12
    assert done.rows()[:3] == [("test", "x0", frame) for frame in FRAMES]
    first = table[table["split"] == "train"].iloc[0]
    assert (first["image"], first["mask"]) == ("data/t0/origin/00000001.jpg", "data/t0/mask/00000001.png")
    assert (first["height"], first["width"]) == (24, 32)
    assert set(table[table["split"] == "test"]["mask"]) == {""}
    card = read_card(done.card)
    assert (card.name, card.root, card.drawn) == ("vspw", str(vspw.root), False)
    assert card.frames == {"train": 6, "val": 3, "test": 3}
    assert card.classes == list(VSPW.classes) and card.label_map == VSPW.raw_to_train().tolist()
    assert card.sha256 == sha256_of_file(done.index)
    report = done.report()
    assert report["problems"] == [] and report["counts"]["videos"] == {"train": 2, "val": 1, "test": 1}


def test_nothing_is_copied(vspw, run_prepare) -> None:
    done = run_prepare(vspw.root)
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "check.html",
        "check.json",
        "class_counts.npz",
        "dataset.json",
        "index.csv",
    ]


# ---- every kind of problem: how to make it, and what is left of the index under `skip`


def _truncate(path) -> None:
    if path.suffix == ".png":
        save_mask(path, np.random.default_rng(0).integers(0, 125, (24, 32)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _circle(path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_to_nothing(path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


def _overwrite(path, mode: str) -> None:
    array = np.zeros((24, 32), np.uint16) if mode == "I;16" else None
    image = Image.fromarray(array) if array is not None else Image.new(mode, (32, 24))
    image.save(path)


def _grey_palette(path) -> None:
    image = Image.fromarray(np.full((24, 32), 1, np.uint8), "P")
    image.putpalette([0, 0, 0, 19, 19, 19])
    image.save(path)


def _zero_tail(path) -> None:
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half - 2) + b"\xff\xd9")


def _grey_png(bits: int, row: bytes, size: tuple[int, int]) -> bytes:
    """A grey PNG of any depth, which Pillow cannot write; all rows are alike."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size[1], size[0], bits, 0, 0, 0, 0)
    data = zlib.compress((b"\0" + row) * size[0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PNG_4_BITS = _grey_png(4, b"\x33" * 16, (24, 32))

BROKEN = {
    "image zero bytes": ("image_broken", "empty", lambda v: v.image("v0", FRAMES[0]).write_bytes(b""), 11),
    "image truncated": ("image_broken", "Premature end", lambda v: _truncate(v.image("v0", FRAMES[0])), 11),
    "image is text": ("image_broken", "not a readable", lambda v: v.image("v0", FRAMES[0]).write_text("<html>"), 11),
    "image is a GIF": (
        "image_broken",
        "GIF",
        lambda v: Image.new("L", (9, 9)).save(v.image("v0", FRAMES[0]), "GIF"),
        11,
    ),
    "image is a dangling link": ("image_broken", "link", lambda v: _link_to_nothing(v.image("x0", FRAMES[0])), 11),
    "image is a link in a circle": ("image_broken", "levels of sym", lambda v: _circle(v.image("x0", FRAMES[0])), 11),
    "image is a pipe": ("image_broken", "is a pipe or a device", lambda v: _pipe(v.image("x0", FRAMES[0])), 11),
    "list is a pipe": ("list_missing", "is a pipe or a device", lambda v: _pipe(v.root / "test.txt"), 9),
    "mask missing": ("mask_missing", "no mask", lambda v: v.mask("t0", FRAMES[1]).unlink(), 11),
    "no mask folder": ("mask_missing", "no mask", lambda v: shutil.rmtree(v.mask("t0", "x").parent), 9),
    "mask zero bytes": ("mask_broken", "empty", lambda v: v.mask("t0", FRAMES[1]).write_bytes(b""), 11),
    "mask truncated": ("mask_broken", "Truncated", lambda v: _truncate(v.mask("t0", FRAMES[1])), 11),
    "mask is a JPEG": (
        "mask_broken",
        "JPEG",
        lambda v: Image.new("L", (32, 24)).save(v.mask("t0", FRAMES[1]), "JPEG"),
        11,
    ),
    "mask in colours": ("mask_meaning", "RGB", lambda v: _overwrite(v.mask("t0", FRAMES[1]), "RGB"), 11),
    "mask of 16 bits": ("mask_meaning", "I;16", lambda v: _overwrite(v.mask("t0", FRAMES[1]), "I;16"), 11),
    "mask of widened greys": ("mask_meaning", "4 bits", lambda v: v.mask("t0", FRAMES[1]).write_bytes(PNG_4_BITS), 11),
    "mask of a grey palette": (
        "mask_meaning",
        "palette of greys",
        lambda v: _grey_palette(v.mask("t0", FRAMES[1])),
        11,
    ),
    "image of zeros in its second half": (
        "image_broken",
        "Corrupt JPEG",
        lambda v: _zero_tail(v.image("v0", FRAMES[0])),
        11,
    ),
    "mask of another size": (
        "mask_size",
        "31x24, image 32x24",
        lambda v: save_mask(v.mask("v0", FRAMES[2]), 1, (24, 31)),
        11,
    ),
    "mask value 252": ("label_value", "252 on 768 pixels", lambda v: save_mask(v.mask("v0", FRAMES[2]), 252), 12),
    "mask without image": ("image_missing", "no image", lambda v: save_mask(v.mask("v0", "00000002")), 12),
    "two images of a frame": (
        "frame_duplicate",
        "also",
        lambda v: save_image(v.image("v0", FRAMES[0]).with_suffix(".png")),
        12,
    ),
    "video without images": (
        "video_empty",
        "no image",
        lambda v: [p.unlink() for p in v.image("v0", "x").parent.iterdir()],
        9,
    ),
    "video without folder origin": ("video_empty", "no image", lambda v: shutil.rmtree(v.image("v0", "x").parent), 9),
    "video listed but absent": ("video_absent", "data/gone", lambda v: v.write_list("val", "v0\ngone\n"), 12),
    "video listed by a near name": ("video_absent", "mean 'v0'", lambda v: v.write_list("val", "v0\nv0a\n"), 12),
    "list missing": ("list_missing", "No such file", lambda v: (v.root / "test.txt").unlink(), 9),
    "video in two splits": ("split_overlap", "val.txt", lambda v: v.write_list("train", "t0\nt1\nv0\n"), 12),
    "id climbs out": ("name_refused", "separator", lambda v: v.write_list("val", "v0\n../data/t0\n"), 12),
    "id is absolute": ("name_refused", "separator", lambda v: v.write_list("val", "v0\n/etc\n"), 12),
    "id is the parent": ("name_refused", "not a name", lambda v: v.write_list("val", "v0\n..\n"), 12),
    "id is not UTF-8": ("name_refused", "UTF-8", lambda v: v.write_list("val", b"v0\n\xff\xfe\n"), 12),
    "id is too long": ("name_refused", "300 bytes", lambda v: v.write_list("val", "v0\n" + "é" * 150 + "\n"), 12),
    "id holds a NUL": ("name_refused", "control", lambda v: v.write_list("val", b"v0\na\x00b\n"), 12),
}


def test_every_kind_that_stops_is_broken_below() -> None:
    made = {kind for kind, _, _, _ in BROKEN.values()}
    assert made == {kind for kind, meaning in PROBLEM_KINDS.items() if not meaning.note} - {
        "split_missing",
        "split_unlabelled",
        "split_without_masks",
    }  # below, COCO-Stuff's


@pytest.mark.parametrize("name", BROKEN)
def test_stop_names_the_problem_and_leaves_a_report_but_no_output(vspw, run_prepare, outputs, name) -> None:
    kind, found, break_it, _ = BROKEN[name]
    break_it(vspw)
    with pytest.raises(UserError) as raised:
        run_prepare(vspw.root, on_problem="stop")
    message = str(raised.value)
    assert "\n" not in message
    assert kind in message and "on_problem: skip" in message and str(stopped_report(outputs.check)) in message
    assert not any(path.exists() for path in (outputs.index, outputs.card, outputs.check))
    problems = read_json(stopped_report(outputs.check))["problems"]
    matching = [p for p in problems if p["kind"] == kind]
    assert matching and found in matching[0]["found"]
    assert matching[0]["allowed"] == PROBLEM_KINDS[kind].allowed and matching[0]["action"] == "stopped"


@pytest.mark.parametrize("name", BROKEN)
def test_skip_reports_and_goes_on_without_what_is_broken(vspw, run_prepare, name) -> None:
    kind, found, break_it, frames_left = BROKEN[name]
    break_it(vspw)
    done = run_prepare(vspw.root, on_problem="skip")
    assert len(done.rows()) == frames_left
    assert sum(read_card(done.card).frames.values()) == frames_left
    matching = [p for p in done.report()["problems"] if p["kind"] == kind]
    assert matching and found in matching[0]["found"] and matching[0]["action"] == PROBLEM_KINDS[kind].remedy
    assert done.report()["counts"]["problems"][kind] == len(matching)
    assert not stopped_report(done.check).exists()
    # Every frame that was there is in the index, or the card names it, its video or its split.
    left_out = {(item.split, item.video, item.frame): item.reason for item in read_card(done.card).left_out}
    for split, video in (("train", "t0"), ("train", "t1"), ("val", "v0"), ("test", "x0")):
        for frame in FRAMES:
            reasons = [left_out.get(key) for key in ((split, video, frame), (split, video, ""), (split, "", ""))]
            assert (split, video, frame) in done.rows() or kind in reasons


def test_the_card_names_what_is_left_out_and_why(vspw, run_prepare) -> None:
    vspw.image("v0", FRAMES[0]).write_bytes(b"")
    vspw.mask("v0", FRAMES[1]).unlink()
    vspw.write_list("train", "t0\nt1\ngone\n")
    assert read_card(run_prepare(vspw.root, on_problem="skip").card).left_out == (
        LeftOut("train", "gone", "", "video_absent"),
        LeftOut("val", "v0", FRAMES[1], "mask_missing"),
        LeftOut("val", "v0", FRAMES[0], "image_broken"),
    )


def test_a_whole_dataset_leaves_nothing_out(vspw, run_prepare) -> None:
    assert read_card(run_prepare(vspw.root).card).left_out == ()


def test_label_252_keeps_its_frame_and_reads_as_ignore(vspw, run_prepare) -> None:
    values = np.full((24, 32), 5)
    values[0, :4] = 252
    save_mask(vspw.mask("v0", FRAMES[0]), values)
    done = run_prepare(vspw.root, on_problem="skip")
    assert ("val", "v0", FRAMES[0]) in done.rows()
    assert [p["found"] for p in done.report()["problems"]] == ["252 on 4 pixels"]
    card = read_card(done.card)
    labels = read_mask(vspw.mask("v0", FRAMES[0]), card.raw_to_train)
    assert np.unique(labels).tolist() == [4, 255] and (labels == 255).sum() == 4


def test_all_problems_are_listed_before_stopping(vspw, run_prepare, outputs) -> None:
    for video in ("t0", "t1"):
        for frame in FRAMES:
            vspw.mask(video, frame).unlink()
    vspw.image("v0", FRAMES[0]).write_bytes(b"")
    with pytest.raises(UserError, match="and 4 more") as raised:
        run_prepare(vspw.root)
    assert "7 problems" in str(raised.value)
    assert len(read_json(stopped_report(outputs.check))["problems"]) == 7
    # Once all is fixed, the old report goes.
    for video in ("t0", "t1"):
        for frame in FRAMES:
            save_mask(vspw.mask(video, frame))
    save_image(vspw.image("v0", FRAMES[0]))
    run_prepare(vspw.root)
    assert outputs.check.exists() and not stopped_report(outputs.check).exists()


# ---- what is reported but never stops


@pytest.mark.parametrize(
    ("kind", "split", "text"),
    [
        ("list_final_newline", "train", "t0\nt1"),
        ("list_duplicate", "train", "t0\nt1\nt0\n"),
    ],
)
def test_harmless_list_flaws_are_notes(vspw, run_prepare, kind, split, text) -> None:
    vspw.write_list(split, text)
    done = run_prepare(vspw.root, on_problem="stop")
    assert len(done.rows()) == 12
    assert done.kinds() == [kind]
    assert done.report()["problems"][0]["action"] == PROBLEM_KINDS[kind].remedy


@pytest.mark.parametrize("text", ["t0\r\nt1\r\n", "\nt0\n\n  \nt1\n\n", "\ufefft0\nt1\n"])
def test_line_ends_blank_lines_and_a_byte_order_mark_are_no_data(vspw, run_prepare, text) -> None:
    vspw.write_list("train", text)
    done = run_prepare(vspw.root)
    assert len(done.rows()) == 12 and done.kinds() == []


def test_frames_of_several_sizes_are_noted(vspw, run_prepare) -> None:
    save_image(vspw.image("v0", FRAMES[0]), (20, 32))
    save_mask(vspw.mask("v0", FRAMES[0]), 3, (20, 32))
    done = run_prepare(vspw.root)
    assert done.kinds() == ["frame_size"]
    assert done.report()["problems"][0]["found"] == "2 of 32x24, 1 of 32x20"


def test_frames_are_in_the_order_of_their_numbers(vspw, run_prepare) -> None:
    vspw.add_video("t2", ["frame_9", "frame_10", "frame_010", "frame_1"])
    vspw.write_list("train", "t0\nt1\nt2\n")
    frames = [frame for _, video, frame in run_prepare(vspw.root).rows() if video == "t2"]
    assert frames == ["frame_1", "frame_9", "frame_010", "frame_10"]


def test_a_split_without_a_labelled_pixel_stops(vspw, run_prepare) -> None:
    for frame in FRAMES:
        save_mask(vspw.mask("v0", frame), 255)
    with pytest.raises(UserError, match="val: split_unlabelled: 3 masks without a pixel of any class"):
        run_prepare(vspw.root)


# ---- names are data


NAMES = ["a--b", "--", " lead", "trail ", "two  words", ".hidden", "..x", "\u00fc\u4e2d\U0001f600", "e\u0301", "007",
         "1e5", "NA", "#1", "it's", 'say "x"', "a,b", "-rf", "$HOME", "a\\b", "\u2028", "x" * 120]  # fmt: skip


def test_odd_names_survive_from_folder_to_index(vspw, run_prepare) -> None:
    for name in NAMES:
        vspw.add_video(name, NAMES)
    vspw.write_list("train", "".join(f"{name}\n" for name in NAMES))
    done = run_prepare(vspw.root)
    assert done.kinds() == []
    expected = {("train", video, frame) for video in NAMES for frame in NAMES}
    assert {row for row in done.rows() if row[0] == "train"} == expected
    table = read_index(done.index)
    for path in (*table["image"], *(mask for mask in table["mask"] if mask)):
        assert (vspw.root / path).is_file()


def test_file_names_that_are_not_text_are_named(vspw, run_prepare) -> None:
    folder = os.fsencode(vspw.image("v0", "x").parent)
    shutil.copy(vspw.image("v0", FRAMES[0]), os.path.join(folder, b"bad\xff.jpg"))
    shutil.copy(vspw.image("v0", FRAMES[0]), os.path.join(folder, b"line\nbreak.jpg"))
    done = run_prepare(vspw.root, on_problem="skip")
    assert done.kinds() == ["name_refused", "name_refused"]
    assert len(done.rows()) == 12


def test_links_are_followed(vspw, run_prepare, tmp_path) -> None:
    shutil.move(vspw.root / "data" / "v0", tmp_path / "elsewhere")
    (vspw.root / "data" / "v0").symlink_to(tmp_path / "elsewhere")
    linked = vspw.image("t0", FRAMES[0])
    shutil.move(linked, tmp_path / "far.jpg")
    linked.symlink_to(tmp_path / "far.jpg")
    (tmp_path / "link").symlink_to(vspw.root)
    done = run_prepare(tmp_path / "link")
    assert len(done.rows()) == 12 and done.kinds() == []


def test_what_systems_leave_in_a_folder_is_passed_over(vspw, run_prepare) -> None:
    origin, mask = vspw.image("t0", FRAMES[0]).parent, vspw.mask("t0", FRAMES[0]).parent
    (origin / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (mask / "desktop.ini").write_text("[.ShellClassInfo]")
    (origin / "up").symlink_to("..")  # a walk that follows links would not end
    (origin.parent / "self").symlink_to(".")
    done = run_prepare(vspw.root)
    assert len(done.rows()) == 12 and done.kinds() == []


def test_suffixes_may_be_in_capitals(vspw, run_prepare) -> None:
    for frame in FRAMES:
        for path in (vspw.image("t0", frame), vspw.mask("t0", frame)):
            path.rename(path.with_suffix(path.suffix.upper()))
    done = run_prepare(vspw.root)
    assert len(done.rows()) == 12 and done.kinds() == []


def test_one_name_in_two_unicode_forms_is_two_names(vspw, run_prepare) -> None:
    # macOS writes an accent as a character of its own; a mask drawn elsewhere has both in one.
    image, mask = vspw.image("t0", FRAMES[0]), vspw.mask("t0", FRAMES[0])
    image.rename(image.with_stem("e\u0301"))
    mask.rename(mask.with_stem("\u00e9"))
    with pytest.raises(UserError, match="1 image_missing, 1 mask_missing"):
        run_prepare(vspw.root)


def test_a_resized_mask_with_blended_edges_stops(vspw, run_prepare) -> None:
    path = vspw.mask("t0", FRAMES[0])
    raw = np.repeat(np.array([[1, 255]], np.uint8), 12, axis=0)
    Image.fromarray(raw).resize((32, 24), Image.Resampling.BILINEAR).save(path)
    with pytest.raises(UserError, match="label_value"):
        run_prepare(vspw.root)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_problem": "ignore"}, r"data\.vspw\.on_problem: is 'ignore', must be one of 'stop', 'skip'"),
        ({"checks": "none"}, r"checks: is 'none', must be one of 'full', 'fast'"),
        ({"chekcs": "full"}, r"unknown key 'chekcs'"),
        ({"drawn": {"sede": 1}}, r"drawn: unknown key 'sede'"),
        ({"drawn": {"height": 8}}, r"drawn\.height: is 8, must be at least 32"),
        ({"drawn": {"train_videos": -1}}, r"drawn\.train_videos: is -1"),
        ({"drawn": {"seed": True}}, r"drawn\.seed: is True"),
        ({"drawn": {"seed": "0"}}, r"drawn\.seed: is '0'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(run_prepare, settings, says) -> None:
    with pytest.raises(UserError, match=says):
        run_prepare(None, **settings)


def test_missing_root_and_unknown_dataset(run_prepare, tmp_path) -> None:
    with pytest.raises(UserError, match=r"data\.vspw\.root: .*nowhere is not a folder"):
        run_prepare(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data\.vspv\.images: is missing, which format 'folders' needs .*'vspw'"):
        run_prepare(tmp_path, dataset="vspv")


def test_a_folder_that_is_no_vspw_says_what_was_looked_for(run_prepare, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for on_problem in ("stop", "skip"):
        with pytest.raises(UserError, match=r"train\.txt: list_missing"):
            run_prepare(tmp_path / "empty", on_problem=on_problem)


# ---- real data


def test_real_vspw(real_data, run_prepare) -> None:
    done = run_prepare(real_data / "VSPW_480p", on_problem="stop")
    assert read_card(done.card).frames == {"train": 80, "val": 61, "test": 60}
    assert done.kinds() == []
    table = read_index(done.index)
    assert set(zip(table["height"], table["width"], strict=True)) == {(360, 480), (480, 853)}


def test_real_coco_stuff(real_data, run_prepare) -> None:
    done = run_prepare(real_data / "coco_stuff", dataset="coco_stuff", on_problem="stop")
    assert read_card(done.card).frames == {"train": 10, "val": 3}
    table = read_index(done.index)
    assert (table["video"] == table["frame"]).all()
    card = read_card(done.card)
    for mask in table["mask"]:
        path = real_data / "coco_stuff" / mask
        raw, labels = read_raw_mask(path), read_mask(path, card.raw_to_train)
        assert np.array_equal(labels == 255, raw == 255)  # nothing else is lost: person is raw 0 and train id 0
        assert np.array_equal(labels == 0, raw == 0)
