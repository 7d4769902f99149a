"""Plain PNGs are decoded as Pillow decodes them; all others are left to it."""

from __future__ import annotations

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vss.core import compiled, png
from vss.core.images import read_raw_mask

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(autouse=True, scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VSS_SCORE_BUILD_DIR", str(tmp_path_factory.mktemp("build")))
        patch.delenv("VSS_SCORE", raising=False)
        png.library.cache_clear()
        assert compiled.build(png._SOURCE)
        yield
    png.library.cache_clear()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def file_of(*, width=8, height=2, bits=8, colour=0, interlaced=0, rows=None, between=b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    rows = bytes(height * (width + 1)) if rows is None else rows
    parts = chunk(b"IHDR", header) + between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("width", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("zeros", [0.0, 0.9, 0.99])
def test_every_filter_is_undone_as_pillow_does(width, zeros) -> None:
    rng = np.random.default_rng(width)
    rows = rng.integers(0, 256, (60, width + 1)).astype(np.uint8)
    rows[rng.random(rows.shape) < zeros] = 0
    rows[:, 0] = [*range(5), *rng.integers(0, 5, 55)]
    for first in range(5):  # nothing is above the first row
        rows[0, 0] = first
        data = file_of(width=width, height=60, rows=rows.tobytes())
        values, palette = png.decode_bytes(data)
        np.testing.assert_array_equal(values, np.array(Image.open(io.BytesIO(data))))
        assert values.flags.c_contiguous and values.flags.writeable and palette is None


def test_files_of_pillow_give_values_and_palette(tmp_path) -> None:
    raw = np.repeat(np.random.default_rng(0).integers(0, 256, (50, 7)), 9, axis=1).astype(np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    mask = Image.fromarray(raw)
    mask.putpalette(colours.tobytes())
    mask.save(tmp_path / "mask.png")
    values, palette = png.decode_bytes((tmp_path / "mask.png").read_bytes())
    np.testing.assert_array_equal(values, raw)
    np.testing.assert_array_equal(palette, colours)
    np.testing.assert_array_equal(read_raw_mask(tmp_path / "mask.png"), raw)


@pytest.mark.parametrize(
    "data",
    [
        file_of(interlaced=1),
        file_of(bits=16, rows=bytes(2 * 17)),
        file_of(bits=4, rows=bytes(2 * 5)),
        file_of(colour=2, rows=bytes(2 * 25)),
        file_of(colour=3),
        file_of(colour=3, between=chunk(b"PLTE", bytes(4))),
        file_of(between=chunk(b"tRNS", bytes(2))),
        file_of(width=0),
        file_of(width=1 << 20, height=1 << 20, rows=b""),
        file_of(rows=bytes([5, *bytes(17)])),
        file_of(rows=bytes(17)),
        file_of(rows=bytes(19)),
        file_of()[:-1],
        file_of()[:-12],
        file_of()[:40] + b"\xff" + file_of()[41:],
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
    ],
)
def test_other_and_damaged_files_are_left_to_others(data) -> None:
    assert png.decode_bytes(data) is None


def test_an_ordinary_file_made_in_the_same_way_is_taken() -> None:
    assert png.decode_bytes(file_of()) is not None
    assert png.decode_bytes(file_of(colour=3, between=chunk(b"PLTE", bytes(3)))) is not None
