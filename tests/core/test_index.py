"""The dataset index, its card and the shards."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vss.core.errors import UserError
from vss.core.files import sha256_of_file, write_json
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
from vss.core.labels import VSPW
from vss.core.order import natural_key

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


@settings(max_examples=80, deadline=None)
@given(keys=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8, unique=True))
def test_index_keeps_every_name(keys, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("index") / "index.csv"
    rows = frame_rows(keys)
    write_index(path, rows)
    read = read_index(path)
    order = sorted(range(len(keys)), key=lambda row: (keys[row][0], natural_key(keys[row][1])))
    expected = rows.iloc[order].reset_index(drop=True)
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
        ("video,frame,split,image,mask,height,width\na,b,val,i,m,99999999999999999999,2\n", "whole numbers"),
        (
            "video,frame,split,image,mask,height,width\na,b,val,i,m,0,2\n",
            "'a', 'b': height and width must be",
        ),
        ("video,frame,split,image,mask,height,width\n" + "a,b,val,i,m,1,2\n" * 2, "there twice"),
        ("video,frame,split,image,mask,height,width\na,b,val,x/../../i,m,1,2\n", "image must be below"),
        ("video,frame,split,image,mask,height,width\na,b,val,i,/etc/m,1,2\n", "mask must be below"),
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


def test_an_index_in_text_order_is_read_in_the_order_of_the_numbers(tmp_path) -> None:
    lines = [f"v,f_{n},val,v/f_{n}.jpg,,2,3" for n in (1, 10, 2)]
    (tmp_path / "index.csv").write_text("\n".join([",".join(INDEX_COLUMNS), *lines]) + "\n")
    rows = read_index(tmp_path / "index.csv")
    assert list(rows["frame"]) == ["f_1", "f_2", "f_10"]
    assert list(rows.index) == [0, 1, 2]


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


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"label_map": [0, 300, *[255] * 254]}, "label_map holds 300"),
        ({"label_map": [0, 1.5, *[255] * 254]}, "label_map holds 1.5"),
        ({"label_map": [0, 7, *[255] * 254]}, "label_map holds 7, must hold train ids of the 2 classes or 255"),
        ({"label_map": [0, 1]}, "label_map has 2 entries"),
        ({"classes": 5}, "classes must be a list"),
        ({"root": "a\0b"}, "root is"),
        ({"content": [1]}, "content and frames"),
    ],
)
def test_a_card_with_impossible_values_is_refused(tmp_path, changed, says) -> None:
    card = Card("vspw", "root", ["a", "b"], [0, 1, *[255] * 254], False, {"val": 3}, "00ff")
    write_json(tmp_path / "dataset.json", asdict(card) | changed)
    with pytest.raises(UserError, match=rf"dataset\.json: not a dataset card \({says}"):
        read_card(tmp_path / "dataset.json")


def test_an_index_that_its_card_was_not_written_for_is_refused(tmp_path) -> None:
    index, card = tmp_path / "index.csv", tmp_path / "dataset.json"
    write_index(index, frame_rows([("a", "1"), ("b", "1")]))
    write_card(card, Card("vspw", "", [], [], False, {"val": 2}, sha256_of_file(index)))
    rows, read = read_dataset(index, card)
    assert (len(rows), read) == (2, read_card(card))
    write_index(index, frame_rows([("a", "1")]))
    with pytest.raises(UserError, match=r"index\.csv: not the index that .*dataset\.json was written for.*prepare"):
        read_dataset(index, card)


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


@pytest.mark.parametrize(("shard", "shards"), [(2, 2), (-1, 2), (0, 0), (0, -1)])
def test_there_is_no_such_shard(shard, shards) -> None:
    with pytest.raises(UserError, match=f"found shard {shard} of {shards}"):
        shard_rows(frame_rows([("a", "1")]), split="val", shard=shard, shards=shards)
