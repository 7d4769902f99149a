"""Decoding images and masks: exact where they are whole, refused where they are not."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.images import read_image, read_mask, read_raw_mask
from vss.core.labels import COCO_STUFF, VSPW


def test_palette_mask_gives_indices_not_colours(tmp_path) -> None:
    raw = np.array([[0, 1, 124], [252, 255, 7]], np.uint8)
    mask = Image.fromarray(raw)
    mask.putpalette([int(v) for v in np.random.default_rng(0).integers(0, 256, 768)])
    assert mask.mode == "P"
    mask.save(tmp_path / "m.png")
    assert np.array_equal(read_raw_mask(tmp_path / "m.png"), raw)
    assert read_mask(tmp_path / "m.png", VSPW.raw_to_train()).tolist() == [[255, 0, 123], [255, 255, 6]]
    assert read_mask(tmp_path / "m.png", COCO_STUFF.raw_to_train())[0].tolist() == [0, 1, 124 - 11]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1", "LA"])
def test_mask_of_another_mode_is_refused(tmp_path, mode) -> None:
    array = np.zeros((4, 4), np.uint16) if mode == "I;16" else None
    (Image.fromarray(array) if array is not None else Image.new(mode, (4, 4))).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=rf"m\.png.*{mode}"):
        read_raw_mask(tmp_path / "m.png")


def _encoded(format_: str) -> bytes:
    rng = np.random.default_rng(3)
    shape = (40, 56) if format_ == "PNG" else (40, 56, 3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize(("format_", "read"), [("PNG", read_raw_mask), ("JPEG", read_image)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.99])
def test_truncated_files_are_refused(tmp_path, format_, read, share) -> None:
    data = _encoded(format_)
    path = tmp_path / f"cut.{format_}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="cut"):
        read(path)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 120), value=st.integers(0, 255), cut=st.integers(0, 4000))
def test_damaged_masks_raise_nothing_but_user_errors(tmp_path_factory, position, value, cut) -> None:
    data = bytearray(_encoded("PNG"))
    data[position] = value
    path = tmp_path_factory.mktemp("mask") / "m.png"
    path.write_bytes(data[: max(cut, position)])
    with contextlib.suppress(UserError):  # any other exception fails the test
        assert read_raw_mask(path).dtype == np.uint8


def test_image_is_rgb_and_ignores_exif_rotation(tmp_path) -> None:
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    path = tmp_path / "\u00fc --.jpg"
    Image.fromarray(picture).save(path, quality=95, exif=exif)
    image = read_image(path)
    assert image.shape == (8, 16, 3)
    assert image[..., 0].min() > 150 and image[..., 2].max() < 60


def test_missing_files_are_named(tmp_path) -> None:
    for read in (read_image, read_raw_mask, read_json):
        with pytest.raises(UserError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "frame.jpg")
    for read in (read_image, read_raw_mask):
        with pytest.raises(UserError, match=r"frame\.jpg: is a pipe or a device"):
            read(tmp_path / "frame.jpg")


def test_a_saved_error_page_is_no_image(tmp_path) -> None:
    (tmp_path / "frame.jpg").write_text("<html>404 Not Found</html>")
    with pytest.raises(UserError, match=r"frame\.jpg: not a readable image$"):
        read_image(tmp_path / "frame.jpg")


def test_the_content_says_what_an_image_is_and_not_the_name(tmp_path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(drawn).save(tmp_path / "frame.jpg", "PNG")
    assert np.array_equal(read_image(tmp_path / "frame.jpg"), drawn)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp * 257).save(tmp_path / "frame.png")
    assert np.array_equal(read_image(tmp_path / "frame.png"), np.repeat(ramp[..., None], 3, axis=2))


def test_transparency_of_a_palette_changes_no_label(tmp_path) -> None:
    raw = np.array([[0, 1, 124], [252, 255, 7]], np.uint8)
    mask = Image.fromarray(raw)
    mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    mask.save(tmp_path / "m.png", transparency=bytes([0, 128] + [255] * 254))
    assert np.array_equal(read_raw_mask(tmp_path / "m.png"), raw)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_decode_as_opencv_decodes_them(tmp_path, mode) -> None:
    path = tmp_path / "image.jpg"
    shape = (37, 51) if mode == "L" else (37, 51, len(mode))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8), mode).save(path, quality=90)
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path))[..., ::-1])


def test_a_jpeg_damaged_inside_is_refused_and_a_harmless_flaw_is_not(tmp_path) -> None:
    whole = _encoded("JPEG")
    half = len(whole) // 2
    path = tmp_path / "image.jpg"
    path.write_bytes(whole[:half] + bytes(len(whole) - half - 2) + whole[-2:])  # a lost block, the end marker in place
    with pytest.raises(UserError, match=r"image.jpg: damaged image \(Corrupt JPEG data"):
        read_image(path)
    path.write_bytes(whole[:-2] + b"ab" + whole[-2:])
    stray = read_image(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(stray, read_image(path))


def test_a_flipped_bit_of_a_png_is_seen(tmp_path) -> None:
    data = bytearray(_encoded("PNG"))
    data[data.index(b"IDAT") + 40] ^= 1
    (tmp_path / "mask.png").write_bytes(data)
    for read in (read_image, read_raw_mask):
        with pytest.raises(UserError, match=r"mask\.png: not a readable"):
            read(tmp_path / "mask.png")


def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path) -> None:
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    for read in (read_image, read_raw_mask):
        with pytest.raises(UserError, match=r"a\.png: .*2500000000 pixels"):
            read(tmp_path / "a.png")
