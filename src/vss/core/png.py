"""Decodes PNGs of one byte per pixel, such as label maps, in a fifth of OpenCV's time.

OpenCV and Pillow spend it on zlib and on undoing the filters of rows pixel by pixel. Only whole and ordinary files are
decoded here; all others are left to those two, and so is saying what is wrong with them.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path

import numpy as np

from vss.core import compiled
from vss.core.inflate import crc32, inflate

_SOURCE = Path(__file__).with_name("png.c")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_MOST_PIXELS = 1 << 26  # 8192 x 8192; Pillow warns of more


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled functions of png.c, None where they were not built."""
    functions = compiled.load(_SOURCE)
    if functions is not None:
        functions.unfilter_rows.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return functions


def decode_bytes(data: bytes) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Decodes a PNG of 8-bit grey values or palette indices that is not interlaced.

    Args:
        data: the file.

    Returns:
        The values [H, W] uint8, and the palette [N, 3] uint8, None of grey values. None in place of both where the
        file is another, has chunks beyond those of pixels and palette, is damaged, or png.c was not built.
    """
    functions = library()
    if functions is None or not data.startswith(_SIGNATURE):
        return None
    chunks = _whole_chunks(data)
    kinds = [kind for kind, _ in chunks]
    if len(chunks) < 3 or kinds[0] != b"IHDR" or len(chunks[0][1]) != 13 or kinds[-1] != b"IEND":
        return None
    width, height, bits, colour, *methods = struct.unpack(">IIBBBBB", chunks[0][1])
    if bits != 8 or colour not in (_GREY, _PALETTE) or any(methods) or not 0 < width * height <= _MOST_PIXELS:
        return None
    begin = 1 if colour == _GREY else 2
    if set(kinds[begin:-1]) != {b"IDAT"}:
        return None
    palette = None
    if colour == _PALETTE:
        if kinds[1] != b"PLTE" or len(chunks[1][1]) not in range(3, 769, 3):
            return None
        palette = np.frombuffer(chunks[1][1], np.uint8).reshape(-1, 3)
    try:
        filtered = inflate(b"".join(content for _, content in chunks[begin:-1]), height * (width + 1))
    except ValueError:
        return None
    rows = np.empty((height + 1, width), np.uint8)
    rows[0] = 0  # what is above the first row
    if functions.unfilter_rows(filtered, height, width, rows.ctypes.data):
        return None
    return rows[1:], palette


def _whole_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the kind and content of the chunks up to IEND; none where one is cut or its checksum is another."""
    chunks, at = [], len(_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return []
        chunks.append((kind, data[at + 8 : end]))
        if kind == b"IEND":
            return chunks
        at = end + 4
    return []
