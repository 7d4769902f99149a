"""Deflated bytes come back whole or not at all."""

from __future__ import annotations

import zlib

import pytest

from vss.core.inflate import crc32, inflate


def test_what_zlib_deflated_comes_back() -> None:
    content = b"label maps " * 1000
    assert inflate(zlib.compress(content), len(content)) == content
    assert crc32(content, 7) == zlib.crc32(content, 7)


@pytest.mark.parametrize(
    "damaged",
    [
        zlib.compress(b"short"),
        zlib.compress(b"label maps" * 10),
        zlib.compress(bytes(1 << 24)),
        zlib.compress(b"label maps")[:-1],
        b"not deflated",
        b"",
    ],
    ids=["short", "long", "bomb", "cut", "other", "empty"],
)
def test_damaged_data_are_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="data"):
        inflate(damaged, len(b"label maps"))
