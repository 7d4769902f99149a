"""Boolean maps, 64 pixels to a word: an operation on many pixels reads and writes one bit of each.

A bitmap of [H, W] pixels is [H, ceil(W / 64)] little-endian uint64; pixel x of a row is bit x % 64 of word x // 64, and
the bits beyond W are 0.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vss.core import compiled
from vss.core.label_space import ignore_index

_WORD = np.dtype("<u8")
_BITS = 64
_SOURCE = Path(__file__).with_name("bitmap.c")
_MOST_PAIRS = 2_048  # of truth and label that a frame is counted by in compiled code; real ones have below 300


@functools.cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled functions of bitmap.c, None where they were not built."""
    functions = compiled.load(_SOURCE)
    if functions is not None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        functions.equal_pixels.argtypes = [pointer, pointer, number, number, pointer]
        functions.equal_pixels.restype = None
        functions.changed_pixels.argtypes = [pointer, number, number, pointer, pointer]
        functions.changed_pixels.restype = None
        functions.labelled_pixels.argtypes = [pointer, pointer, number, number, *[pointer] * 3]
        functions.labelled_pixels.restype = None
        functions.widened_bits.argtypes = [pointer, number, number, number, pointer]
        functions.count_runs.argtypes = [*[pointer] * 2, *[number] * 2, *[pointer] * 2, *[number] * 2, *[pointer] * 2]
        functions.count_runs.restype = number
    return functions


def pack(values: np.ndarray) -> np.ndarray:
    """Returns the bitmap of [H, W] bool."""
    height, width = values.shape
    packed = np.zeros((height, -(-width // _BITS) * _WORD.itemsize), np.uint8)
    packed[:, : -(-width // 8)] = np.packbits(values, axis=1, bitorder="little")
    return packed.view(_WORD)


def equal(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns which pixels of [H, W] have the same value in both, a bitmap."""
    functions = _library_for(values, others)
    if functions is None:
        return pack(values == others)
    found = _empty(values.shape)
    functions.equal_pixels(values.ctypes.data, others.ctypes.data, *values.shape, found.ctypes.data)
    return found


def labelled(truth: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which pixels of [H, W] have a class in the truth and which of them the labels have right, two bitmaps.

    And the labels [H, W], with no class (the ignore index) where the truth has none.
    """
    functions = _library_for(truth, labels)
    if functions is None:
        without = truth == ignore_index(truth.dtype)
        known = pack(~without)
        return known, equal(truth, labels) & known, labels | without * truth.dtype.type(ignore_index(truth.dtype))
    known, right, seen = _empty(truth.shape), _empty(truth.shape), np.empty_like(labels)
    functions.labelled_pixels(
        *(truth.ctypes.data, labels.ctypes.data, *truth.shape, *(each.ctypes.data for each in (known, right, seen)))
    )
    return known, right, seen


def positions(bitmap: np.ndarray, width: int) -> np.ndarray:
    """Returns the flat positions [N] int64 of the pixels that are set, in an image of `width` pixels per row."""
    values = np.unpackbits(bitmap.view(np.uint8), axis=1, bitorder="little", count=width)
    return np.flatnonzero(values.view(bool))  # a third of the time that numbers take


def count(bitmap: np.ndarray) -> int:
    """Returns how many pixels of a bitmap are set."""
    return int(np.bitwise_count(bitmap).sum())


def joined_at(bitmaps: Sequence[np.ndarray], positions: np.ndarray, width: int) -> np.ndarray:
    """Returns numbers [N] uint64 of which bit k is the pixel of the k-th of at most 8 bitmaps.

    Args:
        bitmaps: of one size.
        positions: flat positions [N] int64 in an image of `width` pixels per row.
        width: see `positions`.
    """
    # The bytes of all bitmaps that hold the same 8 pixels lie side by side in one word.
    joined = np.zeros((*bitmaps[0].shape, _WORD.itemsize, 8), np.uint8)
    for number, bitmap in enumerate(bitmaps):
        joined[..., number] = bitmap.view(np.uint8).reshape(joined.shape[:-1])
    place = positions + positions // width * (bitmaps[0].shape[1] * _BITS - width)
    found = joined.view(_WORD).ravel().take(place >> 3)
    # One bit of each byte stays; the product moves the one of byte k to bit 56 + k.
    found >>= (place & 7).astype(_WORD)
    found &= np.uint64(0x0101010101010101)
    found *= np.uint64(0x0102040810204080)
    found >>= np.uint64(56)
    return found


def changes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pixels of [H, W] differ from the one to their right and from the one below, two bitmaps."""
    height, width = values.shape
    if (functions := _library_for(values)) is not None:
        found = _empty(values.shape), _empty(values.shape)
        functions.changed_pixels(values.ctypes.data, height, width, *(each.ctypes.data for each in found))
        return found
    right = np.zeros(values.size, bool)
    np.not_equal(values.ravel()[:-1], values.ravel()[1:], out=right[:-1])
    right = right.reshape(height, width)
    right[:, -1] = False
    below = np.zeros((height, width), bool)
    np.not_equal(values[:-1], values[1:], out=below[:-1])
    return pack(right), pack(below)


def shifted_right(bitmap: np.ndarray) -> np.ndarray:
    """Returns a bitmap of which each pixel has what the one to its left had; the first ones of rows are not set."""
    moved = bitmap << np.uint64(1)
    moved[:, 1:] |= bitmap[:, :-1] >> np.uint64(_BITS - 1)
    return moved


def widened(bitmap: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the bitmap dilated by a square window, from `pixels` before each pixel to `pixels` - 1 after it.

    Bits beyond the width of the image may be set.
    """
    height, words = bitmap.shape
    if (functions := library()) is not None and bitmap.flags.c_contiguous:
        found = np.empty_like(bitmap)
        if functions.widened_bits(bitmap.ctypes.data, height, words, pixels, found.ctypes.data):
            raise MemoryError
        return found
    rows = np.zeros((height + 2 * pixels, words), _WORD)
    rows[pixels:-pixels] = bitmap
    for step in _steps(2 * pixels):
        rows = rows[:-step] | rows[step:]
    # Rows lie one after the other here, with enough empty words between them that none reaches into another.
    between = -(-pixels // _BITS)
    columns = np.zeros((height + 1, between + words), _WORD)
    columns[:-1, between:] = rows[:height]
    flat = columns.ravel()
    for step in _steps(2 * pixels):
        flat = flat | _moved(flat, -step)
    return _moved(flat, pixels).reshape(columns.shape)[:-1, between:]


def counted_runs(
    truth: np.ndarray, labels: np.ndarray, changed: Sequence[np.ndarray], maps: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Counts pixels by truth, label and the bitmaps that they are set in, run by run of equal pixels in rows.

    Args:
        truth, labels: [H, W].
        changed: which pixels differ from the one to their right: of the truth, of the labels.
        maps: at most 8 bitmaps.

    Returns:
        The pairs of truth and label [K, 2], ascending, and the pixels of each [K, 2 ** number of maps] float64: bit
        k of the column for the k-th bitmap. None where the compiled library cannot count them.
    """
    functions = _library_for(truth, labels)
    if functions is None or not all(each.flags.c_contiguous for each in (*changed, *maps)):
        return None
    pairs, pixels = np.empty(_MOST_PAIRS, np.uint16), np.empty((_MOST_PAIRS, 1 << len(maps)))
    found = functions.count_runs(
        *(truth.ctypes.data, labels.ctypes.data, *truth.shape, _pointers(changed), _pointers(maps), len(maps)),
        *(_MOST_PAIRS, pairs.ctypes.data, pixels.ctypes.data),
    )
    if found < 0:
        return None
    order = np.argsort(pairs[:found])
    return np.stack([pairs[order] >> 8, pairs[order] & 255], axis=1), pixels[order]


def _pointers(bitmaps: Sequence[np.ndarray]) -> ctypes.Array:
    return (ctypes.c_void_p * len(bitmaps))(*(each.ctypes.data for each in bitmaps))


def _library_for(*maps: np.ndarray) -> ctypes.CDLL | None:
    """Returns the compiled library where it is there and takes these maps."""
    fit = all(each.dtype == np.uint8 and each.flags.c_contiguous for each in maps)
    return library() if fit else None


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty((shape[0], -(-shape[1] // _BITS)), _WORD)


def _steps(length: int) -> list[int]:
    """Returns the shifts, one after the other, that join `length` places by doubling."""
    steps, joined = [], 1
    while joined < length:
        steps.append(min(joined, length - joined))
        joined += steps[-1]
    return steps


def _moved(flat: np.ndarray, pixels: int) -> np.ndarray:
    """Returns words [N] of which each pixel has what the one `pixels` before it had; those after it if negative."""
    words, bits = divmod(abs(pixels), _BITS)
    rest, end = np.uint64(_BITS - bits), len(flat) - words
    bits, nothing = np.uint64(bits), flat[:0] if not words else np.zeros(words, _WORD)
    if pixels > 0:
        moved = np.concatenate([nothing, flat[:end] << bits])
        if bits:
            moved[words + 1 :] |= flat[: end - 1] >> rest
    else:
        moved = np.concatenate([flat[words:] >> bits, nothing])
        if bits:
            moved[: end - 1] |= flat[words + 1 :] << rest
    return moved
