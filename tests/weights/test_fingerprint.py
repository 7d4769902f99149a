"""The fingerprint beside weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.weights.fingerprint import Fingerprint, read_fingerprint, sha256_of_weights, write_fingerprint


def write_fingerprint_beside(weights: Path) -> Path:
    path = weights.with_name("fingerprint.json")
    digest = sha256_of_file(weights)
    write_fingerprint(path, Fingerprint(digest, "finetune", "m", {}, None))
    return path


def test_weights_are_compared_with_the_fingerprint_beside_them(tmp_path) -> None:
    weights, published = tmp_path / "weights.safetensors", tmp_path / "published.pth"
    weights.write_bytes(bytes(range(200)))
    published.write_bytes(b"other")
    digest = sha256_of_file(weights)
    assert sha256_of_weights(weights) == digest  # nothing to compare with
    write_fingerprint_beside(weights)
    assert sha256_of_weights(weights) == digest
    assert sha256_of_weights(published) == sha256_of_file(published)
    weights.write_bytes(bytes(200))
    with pytest.raises(UserError, match=rf"weights\.safetensors: .*fingerprint\.json beside it says {digest[:8]}"):
        sha256_of_weights(weights)
    weights.unlink()
    with pytest.raises(UserError, match="no such weights file"):
        sha256_of_weights(weights)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}"])
def test_a_broken_fingerprint_is_named(tmp_path, text) -> None:
    path = tmp_path / "fingerprint.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"fingerprint\.json: not "):
        read_fingerprint(path)
