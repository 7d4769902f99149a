"""Inflates bytes and takes checksums by zlib-ng, in a third of zlib's time, or where it is not installed by zlib."""

from __future__ import annotations

try:
    from zlib_ng.zlib_ng import crc32, decompressobj, error
except ImportError:  # an extra; its checksums and content are zlib's
    from zlib import crc32, decompressobj, error

__all__ = ["crc32", "inflate"]


def inflate(data: bytes, size: int) -> bytes:
    """Returns what zlib deflated, `size` bytes.

    Raises:
        ValueError: the data are damaged, or not of that size; no more than that is ever inflated.
    """
    stream = decompressobj()
    try:
        content = stream.decompress(data, size + 1)  # a bomb ends here
    except error as damage:
        raise ValueError(f"damaged data ({damage})") from None
    if len(content) != size or not stream.eof:
        raise ValueError(f"{len(content)} bytes of data or more, expected {size}")
    return content
