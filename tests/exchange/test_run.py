"""Importing: what is written, what is refused in one line, class probabilities and votes."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.exchange.conftest import SHAPE, Labels, assert_same, labels_of
from tests.exchange.test_layouts import as_coco_panoptic, as_vspw, save
from vss.configs.layouts import import_source
from vss.core import unfinished
from vss.core.errors import UserError
from vss.core.files import read_json
from vss.core.index import shard_of
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsReader
from vss.core.scores_file import ScoresReader, ScoresWriter
from vss.exchange import run
from vss.exchange.run import import_prediction

PATTERN = "{video}/{frame}.png"


@pytest.fixture
def peer(tmp_path: Path, labels: Labels) -> Path:
    """A folder of palette PNGs of train ids."""
    as_vspw(tmp_path / "peer", labels)
    return tmp_path / "peer"


def first_file(peer: Path) -> Path:
    return sorted(peer.glob("*/*.png"))[0]


def test_a_pattern_is_imported_with_its_provenance(peer, labels, imported) -> None:
    folder = imported("config.json", labels=f"{peer}/{PATTERN}")
    assert_same(labels_of(folder / "00.labels.h5"), labels)
    config = read_json(folder / "00.config.json")
    assert config["files"] == f"{peer}/{PATTERN}" and config["stage"] == "import"
    assert config["settings"] == {"prediction": "peer", "labels": f"{peer}/{PATTERN}"}
    assert config["imported"]["files"] == 6 and config["imported"]["resized"] == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", config["imported"]["time"])
    with LabelsReader(folder / "00.labels.h5") as reader:
        assert reader.provenance["settings"]["prediction"] == "peer"
    save(first_file(peer), np.zeros(SHAPE, np.uint8))
    again = read_json(imported("config.json", labels=f"{peer}/{PATTERN}") / "00.config.json")
    assert again["imported"]["sha256"] != config["imported"]["sha256"]


def test_ids_may_be_raw_or_in_a_table(tmp_path, labels, imported) -> None:
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            save(tmp_path / "raw" / video / f"{at:08d}.png", frame + 1)
            save(
                tmp_path / "own" / video / f"{at:08d}.png",
                np.select([frame == 0, frame == 4], [9, 200], 77).astype(np.uint8),
            )
    assert_same(labels_of(imported(labels=str(tmp_path / "raw"), ids="raw") / "00.labels.h5"), labels)
    (tmp_path / "ids.csv").write_text(
        "id,name,train_name\n9,wall,wall\n200,steps,ladder\n\n77,other,\n", encoding="utf-8"
    )
    expected = {video: [np.where(f > 4, 255, f) for f in frames] for video, frames in labels.items()}
    folder = imported(labels=str(tmp_path / "own"), ids=str(tmp_path / "ids.csv"))
    assert_same(labels_of(folder / "00.labels.h5"), expected)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("id,name\n9,wal\n", "ids.csv: the dataset has no class 'wal' (did you mean 'wall'?)"),
        ("id,name\n9,wall\n9,door\n", "ids.csv line 3: id 9 again, first on line 2"),
        ("id,nam\n9,wall\n", "ids.csv line 1: unknown column 'nam' (did you mean 'name'?)"),
        ("id,name\n9,wall\n", "holds the ids 0, 4, 60, 123; it is not in"),
        (None, "ids.csv: cannot be read (No such file or directory)"),
    ],
)
def test_a_mistake_in_a_table_of_ids_is_one_line(peer, tmp_path, imported, table, words) -> None:
    if table is not None:
        (tmp_path / "ids.csv").write_text(table)
    refused(words, imported, labels=str(peer), ids=str(tmp_path / "ids.csv"))


def refused(words: str, imported: Callable[..., Path], *kinds: str, **row: object) -> None:
    with pytest.raises(UserError) as caught:
        imported(*kinds, **row)
    line = str(caught.value)
    assert words in line
    assert "\n" not in line


def test_colours_are_read_by_a_class_table(tmp_path, labels, imported) -> None:
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 4, 60, 123]] = [(1, 2, 3), (255, 0, 0), (0, 0, 255), (9, 9, 9)]
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            save(tmp_path / "peer" / video / f"{at:08d}.png", colours[frame])
    rows = "colour,name,train_name\n1 2 3,wall,wall\n#ff0000,steps,ladder\n#0000ff,person,person\n"
    table = tmp_path / "colours.csv"
    table.write_text(f"{rows}9 9 9,none,\n")
    expected = {video: [np.where(f > 100, 255, f) for f in frames] for video, frames in labels.items()}
    folder = imported(labels=str(tmp_path / "peer"), ids=str(table))
    assert_same(labels_of(folder / "00.labels.h5"), expected)
    table.write_text(rows)
    refused("holds colours that are no class: #090909", imported, labels=str(tmp_path / "peer"), ids=str(table))


def test_missing_and_extra_frames_are_named(peer, imported) -> None:
    video = sorted(path.name for path in peer.iterdir())[0]
    save(peer / video / "00000002.png", np.zeros(SHAPE, np.uint8))
    save(peer / "unknown" / "00000000.png", np.zeros(SHAPE, np.uint8))
    words = "2 predictions belong to no frame of the dataset: "
    refused(words, imported, labels=str(peer))
    refused(f"{video}/00000002.png", imported, labels=str(peer))
    imported(labels=str(peer), on_extra="skip")
    # every shard names what is its own
    shard = shard_of("unknown", 2)
    refused("unknown/00000000.png", imported, labels=str(peer), shard=shard, shards=2)
    (peer / video / "00000001.png").unlink()
    refused(
        f"no prediction for 1 of 6 frames: {peer}/{video}/00000001.png", imported, labels=str(peer), on_extra="skip"
    )


def test_other_sizes_are_refused_or_resized(peer, labels, imported) -> None:
    path = first_file(peer)
    small = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save(path, small)
    refused(f"{path}: is 4x3, its image is 9x6; resize: nearest would resize it", imported, labels=str(peer))
    folder = imported("config.json", labels=str(peer), resize="nearest")
    rows, columns = np.arange(6) * 3 // 6, ((np.arange(9) + 0.5) * 4 / 9).astype(int)
    np.testing.assert_array_equal(labels_of(folder / "00.labels.h5")[path.parent.name][0], small[rows][:, columns])
    assert read_json(folder / "00.config.json")["imported"]["resized"] == 1


def test_values_that_are_no_ids_are_refused(peer, imported) -> None:
    path = first_file(peer)
    save(path, np.full(SHAPE, 124, np.uint8))
    refused(f"{path}: holds the id 124; train ids are 0..123, and 255 for no class", imported, labels=str(peer))
    refused("holds the id 0; raw ids of classes are among 1..124", imported, labels=str(peer), ids="raw")
    path.write_bytes(b"no png")
    refused(f"{path}: not a readable mask", imported, labels=str(peer))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "needs exactly one of labels and scores; found none"),
        ({"labels": "x", "scores": "y/{frame}.npz"}, "found both"),
        ({"labels": "x/{vidoe}/{frame}.png"}, "no placeholder '{vidoe}' (did you mean 'video'?)"),
        ({"labels": "x/{video}/{frame.png"}, "a brace has no partner"),
        ({"labels": "x/{video}/{frame}.jpg"}, "must end in .png or .labels.h5"),
        ({"labels": "x/{video}.png"}, "has no {frame}"),
        ({"labels": "x/{video}/{shard}.labels.h5"}, "{video} has no meaning for files ending in .labels.h5"),
        ({"labels": "x/{frame}.png", "layout": "dvis"}, "layout: allowed only where labels is a folder"),
        ({"labels": "x", "layout": "dvsi"}, "layout: is 'dvsi', must be one of 'vspw'"),
        ({"labels": "x", "ids": "trian"}, "ids: is 'trian' (did you mean 'train'?), must be train, raw"),
        ({"labels": "x", "ids": "categories"}, "allowed only next to segments"),
        ({"labels": "x", "layout": "vss", "ids": "train"}, "our own files hold train ids"),
        ({"labels": "x", "resize": "bilinear"}, "label maps are resized by 'nearest', or refused"),
        ({"scores": "x/{frame}.npy", "confidence": 0.9}, "confidence: allowed only next to labels"),
        ({"scores": "x/{frame}.npy", "segments": "x.json"}, "segments: allowed only next to labels"),
        ({"labels": "x", "confidense": 0.9}, "unknown key 'confidense' (did you mean 'confidence'?)"),
        ({"labels": "x", "confidence": 1.5}, "confidence: is 1.5, must be at most 1"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line(imported, row, words) -> None:
    refused(words, imported, **row)


def probabilities(labels: Labels, classes: int = 124) -> dict[str, list[np.ndarray]]:
    """Class probabilities whose argmax are the labels."""
    rng = np.random.default_rng(6)
    made = {}
    for video, frames in labels.items():
        made[video] = []
        for frame in frames:
            planes = rng.random((classes, *SHAPE), np.float32)
            np.put_along_axis(planes, frame[None].astype(int), 90, 0)
            made[video].append(planes / planes.sum(axis=0))
    return made


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_class_probabilities_are_imported(suffix, tmp_path, labels, imported) -> None:
    planes = probabilities(labels)
    for video, frames in planes.items():
        for at, frame in enumerate(frames):
            path = tmp_path / "peer" / video / f"{at:08d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, frame) if suffix == "npy" else np.savez_compressed(path, frame.astype(np.float16))
    folder = imported("scores.h5", scores=f"{tmp_path}/peer/{{video}}/{{frame}}.{suffix}")
    assert_same(labels_of(folder / "00.labels.h5"), labels)
    with ScoresReader(folder / "00.scores.h5") as reader:
        for video, frames in planes.items():
            np.testing.assert_array_equal(reader.read_encoded(video, "00000001").labels, labels[video][1])
            np.testing.assert_allclose(reader.read(video, "00000001"), frames[1], atol=0.01)


@pytest.mark.parametrize(
    ("planes", "words"),
    [
        (np.ones((124, *SHAPE), np.float32), "they must be at least 0 and sum to 1 over the first axis"),
        (np.full((124, *SHAPE), np.nan, np.float32), "holds no class probabilities"),
        (np.full((100, *SHAPE), 0.01, np.float32), "has 100 planes, none for train id 100"),
        (np.full((125, *SHAPE), 1 / 125, np.float32), "of its 125 planes, one: holds the id 124"),
        (np.ones((124, *SHAPE), np.int64), "holds int64 of shape (124, 6, 9), must be floating-point [C, H, W]"),
        (np.full((124, 3, 4), 1 / 124, np.float32), "is 4x3, its image is 9x6; resize: bilinear would resize it"),
        (b"\x93NUMPY\x01", "not a readable array"),
    ],
)
def test_what_is_no_class_probability_is_refused(planes, words, tmp_path, labels, imported) -> None:
    for video in labels:
        for at in range(2):
            path = tmp_path / "peer" / video / f"{at:08d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(planes) if isinstance(planes, bytes) else np.save(path, planes)
    refused(words, imported, scores=f"{tmp_path}/peer/{{video}}/{{frame}}.npy")


def test_planes_follow_the_table_of_ids(tmp_path, labels, imported) -> None:
    """Two planes of one class are added, those of no class dropped, and the rest sums to 1."""
    (tmp_path / "ids.csv").write_text("id,name,train_name\n0,none,\n1,wall,wall\n2,door,door\n3,bricks,wall\n")
    planes = np.array([0.5, 0.2, 0.2, 0.1], np.float32)[:, None, None] * np.ones((4, *SHAPE), np.float32)
    planes[:, 0] = np.array([1, 0, 0, 0])[:, None]
    for video in labels:
        for at in range(2):
            path = tmp_path / "peer" / video / f"{at:08d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, planes)
    pattern = f"{tmp_path}/peer/{{video}}/{{frame}}.npy"
    folder = imported("scores.h5", scores=pattern, ids=str(tmp_path / "ids.csv"))
    with ScoresReader(folder / "00.scores.h5") as reader:
        found = reader.read(next(iter(labels)), "00000000")
    np.testing.assert_allclose(found[[0, 2], 1:].mean(axis=(1, 2)), [0.6, 0.4], atol=0.004)
    np.testing.assert_allclose(found[:, 0], 1 / 124, atol=0.004)


def test_our_own_scores_are_kept_as_they_are(tmp_path, labels, imported) -> None:
    planes = probabilities(labels)
    with ScoresWriter(tmp_path / "theirs.scores.h5", classes=VSPW.classes, provenance={}) as writer:
        for video, frames in planes.items():
            for at, frame in enumerate(frames):
                writer.write(video, f"{at:08d}", frame)
    folder = imported("scores.h5", scores=f"{tmp_path}/{{shard}}.scores.h5")
    assert_same(labels_of(folder / "00.labels.h5"), labels)
    with ScoresReader(folder / "00.scores.h5") as ours, ScoresReader(tmp_path / "theirs.scores.h5") as theirs:
        assert ours.keys() == theirs.keys()
        for key in ours.keys():  # noqa: SIM118
            np.testing.assert_array_equal(ours.read(*key), theirs.read(*key))


def test_label_maps_vote_with_the_confidence(peer, labels, imported) -> None:
    path = first_file(peer)
    frame = labels[path.parent.name][0].copy()
    frame[0] = 255
    save(path, frame)
    folder = imported("scores.h5", labels=str(peer), confidence=0.8)
    np.testing.assert_array_equal(labels_of(folder / "00.labels.h5")[path.parent.name][0], frame)
    with ScoresReader(folder / "00.scores.h5") as reader:
        found = reader.read(path.parent.name, "00000000")
    of_label = np.take_along_axis(found[:, 1:], frame[None, 1:].astype(int), 0)
    np.testing.assert_allclose(of_label, 0.8, atol=0.01)
    np.testing.assert_allclose(found[:, 0], 1 / 124, atol=0.004)


def test_a_shard_without_frames_is_valid(peer, labels, imported) -> None:
    empty = next(shard for shard in range(20) if all(shard_of(video, 20) != shard for video in labels))
    folder = imported("scores.h5", labels=str(peer), shard=empty, shards=20)
    assert labels_of(folder / f"{empty:02d}.labels.h5") == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "has no categories; set ids to train, raw or a class table"),
        (lambda c: c["categories"][0].update(name="wal"), "the dataset has no class 'wal' (did you mean 'wall'?)"),
        (lambda c: c["annotations"][0]["segments_info"].pop(), "which {json} does not describe"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=125), "holds the id 125; its categories"),
        (lambda c: c["annotations"].pop(0), "no prediction for 1 of 6 frames"),
        (lambda c: c.pop("annotations"), "is no panoptic JSON in COCO's format (KeyError: 'annotations')"),
        (lambda c: c.update(annotations=5), "is no panoptic JSON in COCO's format"),
    ],
)
def test_a_mistake_in_a_panoptic_json_is_one_line(change, words, tmp_path, labels, imported) -> None:
    as_coco_panoptic(tmp_path / "peer", labels)
    path = tmp_path / "peer" / "panoptic.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    refused(words.replace("{json}", str(path)), imported, labels=str(tmp_path / "peer"), layout="coco_panoptic")


def test_our_files_of_other_classes_are_refused(tmp_path, labels, imported) -> None:
    with ScoresWriter(tmp_path / "a.scores.h5", classes=["a", "b"], provenance={}):
        pass
    refused("predicts 2 classes that are not the dataset's", imported, scores=f"{tmp_path}/{{shard}}.scores.h5")


def test_a_frame_in_two_of_our_files_is_refused(tmp_path, labels, imported) -> None:
    planes = probabilities(labels)
    for name in ("a", "b"):
        with ScoresWriter(tmp_path / f"{name}.scores.h5", classes=VSPW.classes, provenance={}) as writer:
            writer.write("v_0-x", "00000000", planes["v_0-x"][0])
    refused("frame '00000000' of video 'v_0-x' is also in", imported, scores=f"{tmp_path}/{{shard}}.scores.h5")


def test_an_image_of_16_bits_or_colours_is_named(peer, imported) -> None:
    path = first_file(peer)
    Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(path)
    refused(str(path), imported, labels=str(peer))


def test_a_zip_is_read_like_the_folder_in_it(peer, labels, imported, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "peer.zip", "w") as archive:
        for file in sorted(peer.glob("*/*.png")):
            archive.write(file, f"result/{file.parent.name}/{file.name}")
    folder = imported("config.json", labels=f"{tmp_path}/peer.zip/result")
    assert_same(labels_of(folder / "00.labels.h5"), labels)
    assert read_json(folder / "00.config.json")["imported"]["files"] == 6
    with pytest.raises(UserError, match=r"no prediction for 6 of 6 frames: .*peer\.zip/v_0-x/00000000\.png"):
        imported(labels=f"{tmp_path}/peer.zip")
    with zipfile.ZipFile(tmp_path / "peer.zip", "a") as archive:
        archive.writestr("result/v_0-x/extra.png", b"")
    with pytest.raises(UserError, match="belong to no frame"):
        imported(labels=f"{tmp_path}/peer.zip/result")
    source = import_source({"labels": f"{tmp_path}/peer.zip/result"}, where="here").files
    assert source.mistake() is None and len(source.contents("video")) == 3
    data = bytearray((tmp_path / "peer.zip").read_bytes())
    data[data.index(b"IDAT") + 8] ^= 255
    (tmp_path / "peer.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"peer\.zip/result/v_0-x/00000000\.png: cannot be read \(Bad CRC-32"):
        imported(labels=f"{tmp_path}/peer.zip/result", on_extra="skip")
    (tmp_path / "peer.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"peer\.zip: not a readable zip file"):
        imported(labels=f"{tmp_path}/peer.zip/result")


def test_a_killed_import_goes_on_after_its_frames(peer, labels, imported, monkeypatch) -> None:
    monkeypatch.setattr(unfinished, "KEPT_EVERY", 0.0)
    monkeypatch.setattr(run, "_WORKERS", 1)
    read, killed_at, calls = run._read_frame, ["v_2-x"], []

    def killed_once(reader: Any, source: Any, row: Any, *rest: Any, **kwargs: Any) -> Any:
        calls.append((row.video, row.frame))
        if row.video in killed_at:
            killed_at.clear()
            raise KeyboardInterrupt
        return read(reader, source, row, *rest, **kwargs)

    monkeypatch.setattr(run, "_read_frame", killed_once)
    settings = {"labels": f"{peer}/{PATTERN}", "resize": "nearest"}
    with pytest.raises(KeyboardInterrupt):
        imported("scores.h5", "config.json", **settings)
    calls.clear()
    folder = imported("scores.h5", "config.json", **settings)
    assert 2 <= len(calls) < 6 and len(set(calls)) == len(calls)  # what had not been written, and nothing twice
    assert_same(labels_of(folder / "00.labels.h5"), labels)
    with ScoresReader(folder / "00.scores.h5") as reader:
        assert len(reader.keys()) == 6
    assert read_json(folder / "00.config.json")["imported"]["files"] == 6
    assert not list(folder.glob(".unfinished*"))


def test_nothing_is_written_where_it_fails(peer, imported, dataset, tmp_path) -> None:
    first_file(peer).unlink()
    with pytest.raises(UserError):
        import_prediction(
            settings={"labels": str(peer)},
            index=dataset.index,
            card=dataset.card,
            split="val",
            shard=0,
            shards=1,
            out=[tmp_path / "out" / "00.labels.h5"],
        )
    assert not (tmp_path / "out").exists()
