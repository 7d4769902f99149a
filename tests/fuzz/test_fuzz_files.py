"""Masks, images, checkpoints, stored files and archives, flipped, cut or replaced: one line, or what was written."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.fuzz.test_fuzz_text import one_line_or_fine
from vss.core import codec
from vss.core.files import read_json, write_json
from vss.core.images import read_image, read_mask
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.negatives import Negatives, read_negatives, write_negatives
from vss.core.scores_file import ScoresReader, ScoresWriter
from vss.score.counts import TABLES, Counts, load_counts, save_counts
from vss.weights.tensor_files import read_tensor_file

harm = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "zero", "insert", "encrypt"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1, max_size=4,
)  # fmt: skip
LABELS = (np.arange(20 * 30).reshape(20, 30) // 97).astype(np.uint8)
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
SCORES = np.random.default_rng(1).dirichlet([0.5] * 3, (20, 30)).transpose(2, 0, 1).astype(np.float32)


def harmed(data: bytes, edits: list) -> bytes:
    content = bytearray(data)
    for how, where, byte in edits:
        at = int(where * max(0, len(content) - 1))
        if how == "encrypt" and b"PK\1\2" in content:  # of a zip's first file
            listed = content.find(b"PK\1\2")
            content[listed + 8 : listed + 9] = b"\1"
        elif how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = bytes([byte]) * 5
        elif len(content):
            content[at] = content[at] ^ (byte or 1) if how == "flip" else 0
    return bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One whole file of every kind, by its name."""
    folder = tmp_path_factory.mktemp("whole")
    cv2.imwrite(str(folder / "mask.png"), LABELS)
    cv2.imwrite(str(folder / "image.jpg"), IMAGE)
    cv2.imwrite(str(folder / "image.png"), IMAGE)
    write_json(folder / "some.json", {"scores": [0.1, 0.2], "name": "x"})
    with LabelsWriter(folder / "0.labels.h5", classes=list("abc"), provenance={}) as writer:
        writer.write("v", "1", LABELS % 3)
    with ScoresWriter(folder / "0.scores.h5", classes=list("abc"), provenance={}) as scores:
        scores.write_encoded("v", "1", codec.encode(SCORES))
    tables = {name: np.ones((3, len(columns)), np.int64) for name, columns in TABLES.items()}
    about = {"split": "val", "shards": 1, "members": (0,), "classes": ("a", "b"), "flow": None, "videos": ("v",)}
    save_counts(folder / "counts.npz", Counts(**about, **tables, frames=np.ones(1, int), trimap=np.ones((1, 2), int)))
    write_negatives(folder / "negatives.npz", Negatives(LABELS % 2, np.eye(1, 3, dtype=bool)))
    save_file({"layer.weight": torch.ones(3, 4)}, folder / "some.safetensors")
    pickled = io.BytesIO()
    torch.save({"state_dict": {"layer.weight": torch.ones(3, 4)}}, pickled)
    (folder / "some.pth").write_bytes(pickled.getvalue())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_labels(path: Path) -> np.ndarray:
    with LabelsReader(path) as reader:
        return reader.read("v", "1")


def read_scores(path: Path) -> np.ndarray:
    with ScoresReader(path) as reader:
        return reader.read("v", "1")


IDENTITY = np.arange(256, dtype=np.uint8)
READERS = {
    "counts.npz": lambda path: load_counts(path).cells,
    "negatives.npz": lambda path: read_negatives(path, 3).wrong,
    "mask.png": lambda path: read_mask(path, IDENTITY),
    "image.jpg": read_image,
    "image.png": read_image,
    "some.json": read_json,
    "0.labels.h5": read_labels,
    "0.scores.h5": read_scores,
    "some.safetensors": read_tensor_file,
    "some.pth": read_tensor_file,
}
# What their content carries a checksum of: read at all, they are what was written.
SEALED = {"counts.npz", "negatives.npz", "mask.png", "0.labels.h5", "0.scores.h5", "some.json"}


@pytest.mark.parametrize("name", READERS)
@given(edits=harm)
def test_a_harmed_file(whole, tmp_path_factory, name: str, edits: list) -> None:
    file = tmp_path_factory.getbasetemp() / f"harmed-{name}"
    file.write_bytes(harmed(whole[name], edits))
    found = one_line_or_fine(READERS[name], file)
    if found is None or name not in SEALED:
        return
    file.write_bytes(whole[name])
    expected = READERS[name](file)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
    elif isinstance(found, dict) and found != expected:  # the name of the checksum was damaged as well
        assert expected.items() < found.items() and len(found) == len(expected) + 1
    else:  # a number in its place is no damage but another file
        assert found == expected or isinstance(found, int | float)
