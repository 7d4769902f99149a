"""Index, card, masks, shards and whole files. Predictions are tested with the stages that write them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.damaged_files import told_of_damage
from vss.core import codec
from vss.core.errors import UserError
from vss.core.files import atomic_path, canonical_json, read_json, sha256_of_file, write_json, write_text
from vss.core.images import read_image, read_mask, read_raw_mask
from vss.core.index import (
    INDEX_COLUMNS,
    Card,
    read_card,
    read_dataset,
    read_index,
    shard_of,
    shard_rows,
    write_card,
    write_index,
)
from vss.core.labels import COCO_STUFF, VSPW
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.scores_file import ScoresReader, ScoresWriter
from vss.weights.fingerprint import Fingerprint, read_fingerprint, sha256_of_weights, write_fingerprint

# Any name a file system takes and prepare accepts: no separator, no control character, valid UTF-8.
NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=12
) | st.sampled_from(
    ["NA", "null", "nan", "None", "True", "00000001", "1e5", "-0", "--", "a--b", " lead", "trail ", ".hidden", "..a",
     "a,b", '"', "'", "#x", "\u2028", "\ufeffx", "\u00e9", "e\u0301", "\U0001f600", "=1+1", "-rf"]
)  # fmt: skip


def frame_rows(keys: list[tuple[str, str]]) -> pd.DataFrame:
    rows = [(v, f, "val", f"data/{v}/origin/{f}.jpg", f"data/{v}/mask/{f}.png", 480, 853) for v, f in keys]
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS))


# ---- index and card


@settings(max_examples=80, deadline=None)
@given(keys=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8, unique=True))
def test_index_keeps_every_name(keys, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("index") / "index.csv"
    rows = frame_rows(keys)
    write_index(path, rows)
    read = read_index(path)
    expected = rows.sort_values(["split", "video", "frame"], kind="stable").reset_index(drop=True)
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)


def test_index_order_and_missing_mask(tmp_path) -> None:
    rows = frame_rows([("b", "2"), ("a", "10"), ("a", "01")])
    rows.loc[0, ["split", "mask"]] = ["test", ""]
    write_index(tmp_path / "index.csv", rows)
    read = read_index(tmp_path / "index.csv")
    assert list(zip(read["split"], read["video"], read["frame"], strict=True)) == [
        ("test", "b", "2"), ("val", "a", "01"), ("val", "a", "10")]  # fmt: skip
    assert read["mask"][0] == ""
    assert read["height"].dtype.kind == "i"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "prepare"),
        ("", "not a dataset index"),
        ("video,frame\na,b\n", "columns"),
        ("video,frame,split,image,mask,height,width\na,b,val,i,m,high,2\n", "whole numbers"),
        ('video,frame,split,image,mask,height,width\n"a,b,val,i,m,1,2\n', "not a dataset index"),
    ],
)
def test_broken_index_is_one_clear_line(tmp_path, content, says) -> None:
    path = tmp_path / "index.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=says) as raised:
        read_index(path)
    assert str(path) in str(raised.value)


def test_card_round_trip(tmp_path) -> None:
    card = Card("vspw", "some where/VSPW", list(VSPW.classes), VSPW.raw_to_train().tolist(), False,
                        {"val": 3}, "00ff")  # fmt: skip
    write_card(tmp_path / "dataset.json", card)
    assert read_card(tmp_path / "dataset.json") == card


@pytest.mark.parametrize("text", ["{", "{}", '{"name": "vspw", "colour": 3}', "[1]", "3"])
def test_broken_card_names_the_file(tmp_path, text) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json"):
        read_card(path)


def test_an_index_that_its_card_was_not_written_for_is_refused(tmp_path) -> None:
    index, card = tmp_path / "index.csv", tmp_path / "dataset.json"
    write_index(index, frame_rows([("a", "1"), ("b", "1")]))
    write_card(card, Card("vspw", "", [], [], False, {"val": 2}, sha256_of_file(index)))
    rows, read = read_dataset(index, card)
    assert (len(rows), read) == (2, read_card(card))
    write_index(index, frame_rows([("a", "1")]))
    with pytest.raises(UserError, match=r"index\.csv: not the index that .*dataset\.json was written for.*prepare"):
        read_dataset(index, card)


# ---- images and masks


def test_palette_mask_gives_indices_not_colours(tmp_path) -> None:
    raw = np.array([[0, 1, 124], [252, 255, 7]], np.uint8)
    mask = Image.fromarray(raw)
    mask.putpalette([int(v) for v in np.random.default_rng(0).integers(0, 256, 768)])
    assert mask.mode == "P"
    mask.save(tmp_path / "m.png")
    assert np.array_equal(read_raw_mask(tmp_path / "m.png"), raw)
    assert read_mask(tmp_path / "m.png", VSPW.raw_to_train()).tolist() == [[255, 0, 123], [255, 255, 6]]
    assert read_mask(tmp_path / "m.png", COCO_STUFF.raw_to_train().tolist())[0].tolist() == [0, 1, 124 - 11]


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


# ---- shards


@settings(max_examples=30, deadline=None)
@given(videos=st.lists(NAMES, min_size=1, max_size=20, unique=True), shards=st.integers(1, 9), other=NAMES)
def test_shards_are_a_partition_that_a_new_video_does_not_move(videos, shards, other) -> None:
    index = frame_rows([(video, frame) for video in videos for frame in ("0", "1")])
    parts = [shard_rows(index, split="val", shard=k, shards=shards) for k in range(shards)]
    assert sorted(i for part in parts for i in part.index) == list(range(len(index)))
    for part in parts:
        assert part.index.is_monotonic_increasing
    where = {video: k for k, part in enumerate(parts) for video in part["video"]}
    more = pd.concat([index, frame_rows([(other + "x" * 13, "0")])], ignore_index=True)
    for k in range(shards):
        for video in shard_rows(more, split="val", shard=k, shards=shards)["video"]:
            assert where.get(video, k) == k


def test_shards_take_one_split_only_and_are_stable() -> None:
    index = frame_rows([("a", "0"), ("b", "0")])
    index.loc[1, "split"] = "train"
    assert shard_rows(index, split="val", shard=0, shards=1)["video"].tolist() == ["a"]
    # The first eight bytes of SHA-256 of the id, big-endian; sha256("a") begins ca978112ca1bbdca.
    assert shard_of("a", 1000) == 0xCA978112CA1BBDCA % 1000


# ---- whole files


@pytest.mark.parametrize(("shard", "shards"), [(2, 2), (-1, 2), (0, 0), (0, -1)])
def test_there_is_no_such_shard(shard, shards) -> None:
    with pytest.raises(UserError, match=f"found shard {shard} of {shards}"):
        shard_rows(frame_rows([("a", "1")]), split="val", shard=shard, shards=shards)


def test_prediction_files_carry_little_of_their_own(tmp_path) -> None:
    labels = np.zeros((2, 2), np.uint8)
    encoded = codec.encode(np.full((3, 2, 2), 1 / 3, np.float32), labels)
    with ScoresWriter(tmp_path / "0.scores.h5", classes=list("abc"), provenance={}) as writer:
        for frame in range(50):
            writer.write_encoded("v", str(frame), encoded)
    assert (tmp_path / "0.scores.h5").stat().st_size < 50 * 4000


@pytest.mark.parametrize("kind", ["labels", "scores"])
def test_damaged_predictions_raise_nothing_but_user_errors_that_name_them(tmp_path, kind) -> None:
    writer, reader = {
        "labels": (LabelsWriter, LabelsReader),
        "scores": (ScoresWriter, ScoresReader),
    }[kind]
    rng = np.random.default_rng(0)
    path = tmp_path / f"0.{kind}.h5"
    with writer(path, classes=list("abc"), provenance={"x": 1}) as file:
        for frame in range(6):
            scores = rng.dirichlet([0.3] * 3, (24, 30)).transpose(2, 0, 1).astype(np.float32)
            file.write("v", str(frame), scores if kind == "scores" else scores.argmax(0).astype(np.uint8))

    def read(broken) -> None:
        with reader(broken) as file:
            for key in file.keys():  # noqa: SIM118
                file.read(*key)

    assert len(told_of_damage(path, range(120), read)) > 60


def test_a_folder_that_takes_no_file_is_told_with_the_file_s_own_name(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/result\.json: cannot be written there"):
        write_text(tmp_path / "file" / "result.json", "text")


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path) -> None:
    path = tmp_path / "deep" / "result.json"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as aside:
            aside.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_atomic_path_keeps_the_suffix_and_the_umask(tmp_path) -> None:
    previous = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.b.png") as aside:
            assert aside.suffix == ".png" and aside.parent == tmp_path
            assert not (tmp_path / "a.b.png").exists()
            aside.write_bytes(b"x")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.b.png").stat().st_mode) == 0o640


def test_json_is_canonical_and_refuses_nan(tmp_path) -> None:
    assert canonical_json({"b": 1, "a": [1.5, "\u00e9"]}) == '{"a":[1.5,"\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})
    write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["a", "b"]
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_sha256_of_file(tmp_path) -> None:
    Path(tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of_file(tmp_path / "abc") == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


# ---- weights


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
