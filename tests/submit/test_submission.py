"""A submission read back with other tools: every frame, its bytes, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import write_dataset, write_labels

from vss import cli
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.index import LeftOut, read_card, read_index, shard_of, write_card, write_index
from vss.submit.run import check_submission, submit

VIDEOS = ("1001_3iEIq5HBY1s", "a--b", "with space", ".leading dot", "\u0432\u0438\u0434\u00e9o")


@pytest.fixture
def frames() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    return {video: [rng.integers(0, 124, (4 + n, 7), np.uint8) for _ in range(2)] for n, video in enumerate(VIDEOS)}


@pytest.fixture
def dataset(tmp_path, frames):
    return write_dataset(tmp_path, frames, split="test", with_masks=False)


def labels_in_shards(folder, frames, shards=2):
    paths = []
    for shard in range(shards):
        mine = {video: maps for video, maps in frames.items() if shard_of(video, shards) == shard}
        paths.append(write_labels(folder / f"{shard}.labels.h5", mine))
    return paths


def run(dataset, labels, out):
    submit(labels=labels, index=dataset.index, card=dataset.card, out=out)
    return out


def test_every_frame_is_there_as_predicted(tmp_path, dataset, frames):
    out = run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(f"{video}/{n:08d}.png" for video in VIDEOS for n in range(2))
        for video, maps in frames.items():
            for n, labels in enumerate(maps):
                image = Image.open(io.BytesIO(archive.read(f"{video}/{n:08d}.png")))
                assert (image.format, image.mode, image.size) == ("PNG", "P", labels.shape[::-1])
                np.testing.assert_array_equal(np.array(image), labels)
    check_submission(out, dataset.index)


@pytest.mark.golden
def test_palette_is_the_official_one(tmp_path, dataset, frames, golden_tables):
    official = json.loads((golden_tables / "labels" / "vspw.json").read_text())["palette_256_rgb"]
    out = run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")
    with zipfile.ZipFile(out) as archive:
        image = Image.open(io.BytesIO(archive.read(f"{VIDEOS[0]}/00000000.png")))
    assert image.getpalette() == np.array(official).ravel().tolist()


def test_bytes_depend_on_content_only(tmp_path, dataset, frames):
    first = run(dataset, labels_in_shards(tmp_path, frames, 2), tmp_path / "first.zip")
    second = run(dataset, labels_in_shards(tmp_path, frames, 3)[::-1], tmp_path / "second.zip")
    assert first.read_bytes() == second.read_bytes()


def test_missing_frames_are_counted_and_named(tmp_path, dataset, frames):
    frames["a--b"] = frames["a--b"][:1]
    del frames["with space"]
    labels = labels_in_shards(tmp_path, frames)
    with pytest.raises(UserError, match=r"3 of 10 .*a--b/00000001, with space/00000000"):
        run(dataset, labels, tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_an_index_that_was_cut_does_not_shrink_the_submission(tmp_path, dataset, frames):
    dataset.index.write_text("".join(dataset.index.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(UserError, match=r"index\.csv: not the index that .*dataset\.json was written for"):
        run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize("label", [124, 255])
def test_labels_that_are_no_class_are_refused(tmp_path, dataset, frames, label):
    frames["a--b"][1][2, 3] = label
    with pytest.raises(UserError, match=rf"'00000001' of video 'a--b' holds label {label}; .* 0\.\.123"):
        run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip"))
    assert not list(tmp_path.glob(".writing*"))


def test_another_size_is_refused(tmp_path, dataset, frames):
    frames["a--b"][0] = frames["a--b"][0][:, :-1]
    with pytest.raises(UserError, match="is 6x5, its image is 7x5"):
        run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")


def test_a_frame_in_two_files_is_refused(tmp_path, dataset, frames):
    one = write_labels(tmp_path / "one.labels.h5", frames)
    two = write_labels(tmp_path / "two.labels.h5", {"a--b": frames["a--b"]})
    with pytest.raises(UserError, match=r"two\.labels\.h5.*also in .*one\.labels\.h5"):
        run(dataset, [one, two], tmp_path / "submission.zip")


@pytest.mark.parametrize("video", ["..", "../up", "/root", "a\\b", "."])
def test_names_that_leave_the_folder_are_refused(tmp_path, video):
    maps = {video: [np.zeros((2, 2), np.uint8)]}
    dataset = write_dataset(tmp_path, maps, split="test", with_masks=False)
    labels = write_labels(tmp_path / "0.labels.h5", maps)
    with pytest.raises(UserError, match="cannot be a file name"):
        run(dataset, [labels], tmp_path / "submission.zip")


def test_what_was_written_is_read_back(tmp_path, dataset, frames, monkeypatch):
    monkeypatch.setattr("vss.submit.run.png_of_labels", lambda *_: b"\x89PNG\r\n\x1a\n half")
    with pytest.raises(UserError, match="not a readable submission"):
        run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_a_dataset_without_the_split_is_refused(tmp_path):
    maps = {"a": [np.ones((2, 2), np.uint8)]}
    dataset = write_dataset(tmp_path, maps, split="val")
    with pytest.raises(UserError, match="'test'"):
        run(dataset, [write_labels(tmp_path / "0.labels.h5", maps)], tmp_path / "submission.zip")


def _rewrite(path, out, change):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            for new_name, data in change(name, old.read(name)):
                new.writestr(new_name, data)
    return out


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_check_finds_what_others_did_wrong(tmp_path, dataset, frames):
    good = run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "good.zip")
    target = "a--b/00000000.png"

    def as_rgb(data):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()

    def only_target(new):
        return lambda name, data: new(name, data) if name == target else [(name, data)]

    wrong = {
        "missing": only_target(lambda name, data: []),
        "not a frame": only_target(lambda name, data: [(name, data), ("__MACOSX/x", b"")]),
        "there twice": only_target(lambda name, data: [(name, data), (name, data)]),
        "mode RGB": only_target(lambda name, data: [(name, as_rgb(data))]),
        "not a readable": only_target(lambda name, data: [(name, data[:40])]),
    }
    for words, change in wrong.items():
        with pytest.raises(UserError, match=words):
            check_submission(_rewrite(good, tmp_path / "bad.zip", change), dataset.index)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(UserError, match="not a readable"):
        check_submission(tmp_path / "text.zip", dataset.index)


def test_a_zip_is_checked_against_a_raw_dataset_without_an_index(tmp_path, dataset, frames, capfd):
    good = run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "good.zip")
    raw = tmp_path / "VSPW_480p"
    for video, maps in frames.items():
        (raw / "data" / video / "origin").mkdir(parents=True)
        for n, labels in enumerate(maps):
            Image.new("RGB", labels.shape[::-1]).save(raw / "data" / video / "origin" / f"{n:08d}.jpg")
    (raw / "test.txt").write_text("".join(f"{video}\n" for video in frames), encoding="utf-8")
    assert cli.main(["check-submission", str(good), str(raw)]) == 0
    assert f"10 frames of 5 videos, each as listed in {raw}" in capfd.readouterr().err

    Image.new("RGB", (9, 9)).save(raw / "data" / "a--b" / "origin" / "00000001.jpg")
    with pytest.raises(UserError, match=r"a--b/00000001\.png is 7x5, its image is 9x9"):
        check_submission(good, raw)
    Image.new("RGB", (7, 5)).save(raw / "data" / "a--b" / "origin" / "00000002.jpg")
    with pytest.raises(UserError, match="1 of 11 frames are missing: a--b/00000002"):
        check_submission(good, raw)


@pytest.fixture
def thinned(tmp_path, dataset, frames):
    """The dataset without frame 1 of "a--b" and frame 0 of "with space", which its card says were left out."""
    gone = {("a--b", "00000001"), ("with space", "00000000")}
    table = read_index(dataset.index)
    write_index(dataset.index, table[[key not in gone for key in zip(table["video"], table["frame"], strict=True)]])
    left_out = tuple(LeftOut("test", video, frame, "image_broken") for video, frame in sorted(gone))
    other = LeftOut("val", "another split", "1", "image_broken")
    card = read_card(dataset.card)
    write_card(
        dataset.card, dataclasses.replace(card, left_out=(*left_out, other), sha256=sha256_of_file(dataset.index))
    )
    return dataset


def test_listed_frames_that_were_left_out_are_named(tmp_path, thinned, frames):
    words = r"2 listed .* left out .*: a--b/00000001 \(image_broken\), with space/00000000 .*; .*submit\.fill: previous"
    with pytest.raises(UserError, match=words):
        run(thinned, labels_in_shards(tmp_path, frames), tmp_path / "submission.zip")
    assert not list(tmp_path.glob("*.zip"))


def test_fill_takes_the_frame_before_or_the_first(tmp_path, thinned, frames, capsys):
    out = tmp_path / "submission.zip"
    labels = labels_in_shards(tmp_path, frames)
    submit(labels=labels, index=thinned.index, card=thinned.card, out=out, fill="previous")
    with zipfile.ZipFile(out) as archive:
        assert len(archive.namelist()) == 2 * len(VIDEOS)
        for name, (video, at) in {"a--b/00000001": ("a--b", 0), "with space/00000000": ("with space", 1)}.items():
            image = Image.open(io.BytesIO(archive.read(f"{name}.png")))
            np.testing.assert_array_equal(np.array(image), frames[video][at])
    assert "a--b/00000001 was left out of the index; filled with frame '00000000'" in capsys.readouterr().err


def test_a_whole_video_cannot_be_filled(tmp_path, thinned, frames):
    card = read_card(thinned.card)
    gone = LeftOut("test", "gone", "", "video_absent")
    write_card(thinned.card, dataclasses.replace(card, left_out=(*card.left_out, gone)))
    with pytest.raises(UserError, match=r"1 listed .*: gone \(video_absent\); repair them$"):
        submit(
            labels=labels_in_shards(tmp_path, frames), index=thinned.index, card=thinned.card,
            out=tmp_path / "submission.zip", fill="previous",
        )  # fmt: skip


def test_another_palette_is_refused(tmp_path, dataset, frames):
    def grey(data):
        image = Image.open(io.BytesIO(data))
        image.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    good = run(dataset, labels_in_shards(tmp_path, frames), tmp_path / "good.zip")
    bad = _rewrite(good, tmp_path / "bad.zip", lambda name, data: [(name, grey(data))])
    with pytest.raises(UserError, match="another palette"):
        check_submission(bad, dataset.index)
