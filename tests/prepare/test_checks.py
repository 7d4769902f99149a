"""Checking files: what fast sees and does not, several processes, sizes from headers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.raw_dataset import FRAMES, save_image, save_mask
from vss.core.labels import VSPW
from vss.core.masks import PLAIN_IDS
from vss.prepare import checks
from vss.prepare.checks import MaskLabels, check_frame, check_frames
from vss.prepare.listing import RawFrame, printable, why_refused

LABELS = MaskLabels("vspw", VSPW, PLAIN_IDS)
FRAME = RawFrame("v", "0", "val", "v.jpg", "v.png")


def checked(root, mode):
    return check_frame(FRAME, root=str(root), labels=LABELS, checks=mode)


@pytest.fixture
def files(tmp_path):
    save_image(tmp_path / "v.jpg", (40, 50))
    save_mask(tmp_path / "v.png", np.random.default_rng(0).integers(0, 125, (40, 50)), (40, 50))
    return tmp_path


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_a_sound_frame(files, mode) -> None:
    result = checked(files, mode)
    assert (result.height, result.width, result.problems) == (40, 50, ())


@pytest.mark.parametrize("mode", ["full", "fast"])
@pytest.mark.parametrize("name", ["v.jpg", "v.png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_cut_files_are_found_by_both(files, mode, name, share) -> None:
    data = (files / name).read_bytes()
    (files / name).write_bytes(data[: int(len(data) * share)])
    (problem,) = checked(files, mode).problems
    assert (problem.file, problem.kind) == (name, "image_broken" if name == "v.jpg" else "mask_broken")


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_bytes_after_the_end_of_an_image_are_harmless(files, mode) -> None:
    for name in ("v.jpg", "v.png"):
        with open(files / name, "ab") as file:
            file.write(b"\0" * 500)
    assert checked(files, mode).problems == ()


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_sizes_are_compared_by_both(files, mode) -> None:
    save_mask(files / "v.png", 3, (50, 40))
    (problem,) = checked(files, mode).problems
    assert (problem.kind, problem.found) == ("mask_size", "40x50, image 50x40")


def test_only_full_sees_label_values_and_counts_pixels(files) -> None:
    values = np.ones((40, 50))
    values[0, :7], values[1, :2] = 252, 200
    save_mask(files / "v.png", values, (40, 50))
    assert checked(files, "fast").problems == ()
    assert {p.found for p in checked(files, "full").problems} == {"252 on 7 pixels", "200 on 2 pixels"}


def test_damage_inside_a_mask_is_seen_by_full(files) -> None:
    data = bytearray((files / "v.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (files / "v.png").write_bytes(bytes(data))
    assert [p.kind for p in checked(files, "full").problems] == ["mask_broken"]


def test_unreadable_by_permission_is_named(files) -> None:
    (files / "v.jpg").unlink()
    (files / "v.jpg").mkdir()
    assert [p.kind for p in checked(files, "full").problems] == ["image_broken"]


def test_processes_give_the_same_in_the_same_order(vspw, monkeypatch) -> None:
    monkeypatch.setattr(checks, "_FRAMES_WORTH_PROCESSES", {"full": 2})
    frames = [
        RawFrame("t0", f, "train", f"data/t0/origin/{f}.jpg", f"data/t0/mask/{f}.png")
        for _ in range(100)
        for f in FRAMES
    ]
    vspw.mask("t0", FRAMES[1]).write_bytes(b"")
    alone = list(check_frames(frames, root=vspw.root, labels=LABELS, checks="full", workers=1))
    together = list(check_frames(frames, root=vspw.root, labels=LABELS, checks="full", workers=2))
    assert alone == together
    assert [item.frame for item in alone] == frames
    assert sum(len(item.problems) for item in alone) == 100


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../x", "a\nb", "a\0", "\udcff", "\x85"])
def test_names_that_are_no_path_component(name) -> None:
    assert why_refused(name)
    assert printable(name).isprintable()


@pytest.mark.parametrize("name", ["a--b", " ", "...", ".x", "\u00e9", "C:\\x", "\u2028", "*", "a b"])
def test_names_that_are_data(name) -> None:
    assert why_refused(name) is None
