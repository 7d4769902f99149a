"""Shards: which videos are one job."""

from __future__ import annotations

import hashlib


def shard_of(video: str, shards: int) -> int:
    """Returns the shard 0..shards-1 of a video: a hash of its id, so that adding videos moves no other."""
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") % shards
