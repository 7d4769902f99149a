"""How mask files hold raw ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vss.core.errors import UserError
from vss.core.images import read_mask, read_raw_mask, unknown_mask_colours
from vss.core.masks import MaskCoding, train_ids

COLOURS = ((0, 0, 0), (128, 64, 128), (1, 2, 3))


def save(folder: Path, array: np.ndarray) -> Path:
    path = folder / "m.png"
    Image.fromarray(array).save(path)
    return path


def test_sixteen_bits(tmp_path: Path) -> None:
    raw = np.array([[0, 255, 256, 40_000]], np.uint16)
    path = save(tmp_path, raw)
    with pytest.raises(UserError, match="mode I;16, expected P or L"):
        read_raw_mask(path)
    coding = MaskCoding(bits=16)
    found = read_raw_mask(path, coding)
    assert found.dtype == np.uint16 and np.array_equal(found, raw)
    table = np.array([3, *[255] * 255, 7], np.uint8)  # 257 entries: what lies beyond is ignored
    assert read_mask(path, table, coding).tolist() == [[3, 255, 7, 255]]


def test_instances_are_read_as_their_class(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[0, 1, 124, 6100, 6112, 12400]], np.uint16))
    coding = MaskCoding(bits=16, things_from=125, divisor=100)
    assert read_raw_mask(path, coding).tolist() == [[0, 1, 124, 61, 61, 124]]


def test_ids_in_the_red_channel(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[[13, 0, 7], [255, 1, 0]]], np.uint8))
    assert read_raw_mask(path, MaskCoding("red")).tolist() == [[13, 255]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_become_the_numbers_of_their_rows(tmp_path: Path, mode: str) -> None:
    rgb = np.array([[(128, 64, 128), (0, 0, 0)], [(1, 2, 3), (128, 64, 129)]], np.uint8)
    path = tmp_path / "m.png"
    image = Image.fromarray(rgb)
    (image.quantize(8) if mode == "P" else image.convert(mode)).save(path)
    coding = MaskCoding("colours", colours=COLOURS)
    assert read_raw_mask(path, coding).tolist() == [[1, 0], [2, 255]]
    assert unknown_mask_colours(path, coding) == {(128, 64, 129): 1}
    with pytest.raises(UserError, match="mode L, expected RGB, RGBA or P"):
        read_raw_mask(save(tmp_path, np.zeros((2, 2), np.uint8)), coding)


def test_more_colours_than_a_byte_counts(tmp_path: Path) -> None:
    colours = tuple((n & 255, n >> 8, 9) for n in range(400))
    rgb = np.array([[colours[399], colours[0], (0, 0, 0)]], np.uint8)
    coding = MaskCoding("colours", colours=colours)
    raw = read_raw_mask(save(tmp_path, rgb), coding)
    assert raw.dtype == np.uint16 and raw.tolist() == [[399, 0, 65_535]]
    assert train_ids(raw, np.array([5, *[255] * 398, 6], np.uint8)).tolist() == [[6, 5, 255]]
