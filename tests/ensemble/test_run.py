"""The weighted mean: against numpy on dense probabilities, its symmetries, and what it refuses."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ensemble.drawn_members import CLASSES, smooth_probabilities, write_index_of, write_scores
from tests.stopped_jobs import stopped_and_run_again
from vss.cli import main
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.core.labels_file import LabelsReader
from vss.core.scores_file import ScoresReader
from vss.ensemble.run import ensemble

KEYS = [("a", "1"), ("a", "2"), ("b--c", "1")]
SIZE = (20, 31)


def run(tmp_path: Path, members: list[dict[str, Any]], scores: Sequence, keys=KEYS, size=SIZE, **more: Any) -> dict:
    """Runs the stage over all frames and returns the labels by key."""
    index = write_index_of(tmp_path / "index.csv", dict.fromkeys(keys, size))
    out = tmp_path / "out.labels.h5"
    arguments = {"split": "val", "shard": 0, "shards": 1, "out": [out], **more}
    ensemble(settings={"members": members}, scores=scores, index=index, **arguments)
    with LabelsReader(out) as reader:
        return {key: reader.read(*key) for key in reader.keys()}  # noqa: SIM118


def stored(files: Sequence[Sequence[Path]], key) -> list[np.ndarray]:
    """The dense probabilities of a frame as each member's first file gives them back."""
    dense = []
    for path, *_ in files:
        with ScoresReader(path) as reader:
            dense.append(reader.read(*key))
    return dense


def test_one_member_gives_its_own_labels(tmp_path, make_members) -> None:
    files = make_members(["m"], KEYS)
    found = run(tmp_path, [{"name": "m", "weight": 0.3, "temperature": 2.5}], files)
    for k, key in enumerate(KEYS):
        np.testing.assert_array_equal(found[key], smooth_probabilities(k, SIZE).argmax(axis=0))


def test_a_stopped_shard_goes_on_and_is_equal_to_the_bit(tmp_path, make_members, monkeypatch) -> None:
    files = make_members(["m", "n"], KEYS)
    index = write_index_of(tmp_path / "index.csv", dict.fromkeys(KEYS, SIZE))
    settings = {"members": [{"name": name, "weight": 1} for name in "mn"]}

    def job(folder: Path) -> None:
        out = [folder / "out.labels.h5", folder / "out.scores.h5"]
        ensemble(settings=settings, scores=files, index=index, split="val", shard=0, shards=1, out=out)

    job(tmp_path / "whole")
    expected = tuple(path.read_bytes() for path in sorted((tmp_path / "whole").glob("*.h5")))
    assert stopped_and_run_again(job, tmp_path / "stopped", monkeypatch, frames=4) == expected


def test_weighted_mean_of_dense_probabilities(tmp_path, make_members) -> None:
    files = make_members(["m", "n", "o"], KEYS)
    weights = [1, 2.5, 0.5]
    members = [{"name": n, "weight": w} for n, w in zip("mno", weights, strict=True)]
    found = run(tmp_path, members, files, out=[tmp_path / "out.labels.h5", tmp_path / "out.scores.h5"])
    for key in KEYS:
        mean = sum(w * p for w, p in zip(weights, stored(files, key), strict=True)) / sum(weights)
        two = np.sort(mean, axis=0)[-2:]
        clear = two[1] - two[0] > 1e-5
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(found[key][clear], mean.argmax(axis=0)[clear])
        with ScoresReader(tmp_path / "out.scores.h5") as reader:
            np.testing.assert_allclose(reader.read(*key), mean, atol=0.012)
            np.testing.assert_array_equal(reader.read(*key).argmax(axis=0), found[key])


def test_temperature_and_class_weights(tmp_path, make_members) -> None:
    files = make_members(["m", "n"], KEYS)
    members = [
        {"name": "m", "weight": 2, "class_weights": {CLASSES[0]: 0, CLASSES[3]: 4}},
        {"name": "n", "weight": 1, "temperature": 1.7},
    ]
    found = run(tmp_path, members, files)
    w = np.full((2, len(CLASSES), 1, 1), [[[[2]]], [[[1]]]], float)
    w[0, 0], w[0, 3] = 0, 8
    for key in KEYS:
        p, q = stored(files, key)
        q = q ** (1 / 1.7)
        mean = (w[0] * p + w[1] * (q / q.sum(axis=0))) / w.sum(axis=0)
        two = np.sort(mean, axis=0)[-2:]
        clear = two[1] - two[0] > 1e-5
        np.testing.assert_array_equal(found[key][clear], mean.argmax(axis=0)[clear])


def test_order_and_scale_of_the_weights_change_nothing(tmp_path, make_members) -> None:
    names, weights = ["m", "n", "o"], [0.3, 0.45, 0.25]
    files = make_members(names, KEYS)
    members = [{"name": n, "weight": w} for n, w in zip(names, weights, strict=True)]
    expected = run(tmp_path, members, files)
    turned = run(tmp_path, members[::-1], files[::-1])
    scaled = run(tmp_path, [{**m, "weight": 40 * m["weight"]} for m in members], files)
    for key in KEYS:
        np.testing.assert_array_equal(turned[key], expected[key])
        np.testing.assert_array_equal(scaled[key], expected[key])


def test_frames_are_paired_by_key_whatever_the_order_and_the_shards(tmp_path, make_members) -> None:
    files = make_members(["m", "n"], KEYS)
    members = [{"name": "m", "weight": 1}, {"name": "n", "weight": 1}]
    expected = run(tmp_path, members, files)
    split = [
        write_scores(tmp_path / f"n{k}.scores.h5", {key: smooth_probabilities(100 + k, SIZE)})
        for k, key in reversed(list(enumerate(KEYS)))
    ]
    found = run(tmp_path, members, [files[0], split])
    for key in KEYS:
        np.testing.assert_array_equal(found[key], expected[key])


def test_the_command_takes_members_of_other_shard_counts(tmp_path, make_members) -> None:
    (whole,) = make_members(["m"], KEYS)
    halves = [
        write_scores(tmp_path / f"n{k}.scores.h5", {key: smooth_probabilities(100 + k, SIZE)})
        for k, key in enumerate(KEYS)
    ]
    settings = {"members": [{"name": "m", "weight": 1}, {"name": "n", "weight": 2}]}
    expected = run(tmp_path, settings["members"], [whole, halves])

    def command(*scores: Sequence[Path]) -> int:
        options = [word for files in scores for word in ("--scores", *map(str, files))]
        where = ["--index", str(tmp_path / "index.csv"), "--split", "val", "--shard", "0", "--shards", "1"]
        out = ["--out", str(tmp_path / "command.labels.h5")]
        return main(["ensemble", "--settings", json.dumps(settings), *options, *where, *out])

    assert command(whole, halves) == 0
    with LabelsReader(tmp_path / "command.labels.h5") as reader:
        for key in KEYS:
            np.testing.assert_array_equal(reader.read(*key), expected[key])
    assert command([*whole, *halves]) == 2  # m's frames would be n's as well
    assert command([*whole, *halves[:2]]) == 2  # three files, two members
    assert command(whole, halves[:1], halves[1:]) == 2


def test_scores_of_another_prediction_are_refused(tmp_path) -> None:
    frames = {("a", "1"): smooth_probabilities(0, SIZE)}
    files = [[write_scores(tmp_path / f"{name}.scores.h5", frames, prediction=f"{name}.single")] for name in "mn"]
    members = [{"name": "m.single"}, {"name": "n.single"}]
    run(tmp_path, members, files, keys=[("a", "1")])
    with pytest.raises(UserError, match=r"member 'm\.single': .*n\.scores\.h5 holds the class scores of 'n\.single'"):
        run(tmp_path, members, files[::-1], keys=[("a", "1")])


def test_a_member_stored_at_another_size_is_resized(tmp_path) -> None:
    small, full = smooth_probabilities(0, (11, 15)), smooth_probabilities(1, SIZE)
    files = [
        [write_scores(tmp_path / "s.scores.h5", {("a", "1"): small})],
        [write_scores(tmp_path / "f.scores.h5", {("a", "1"): full})],
    ]
    found = run(tmp_path, [{"name": "s", "weight": 1}, {"name": "f", "weight": 1}], files, keys=[("a", "1")])
    p, q = stored(files, ("a", "1"))
    mean = np.stack([cv2.resize(plane, SIZE[::-1], interpolation=cv2.INTER_LINEAR) for plane in p]) + q
    two = np.sort(mean, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5
    np.testing.assert_array_equal(found["a", "1"][clear], mean.argmax(axis=0)[clear])


def test_every_frame_is_in_one_shard(tmp_path, make_members) -> None:
    files = make_members(["m"], KEYS)
    found = {}
    for shard in range(3):
        part = run(tmp_path, [{"name": "m", "weight": 1}], files, shard=shard, shards=3)
        assert not part.keys() & found.keys()
        found |= part
    assert sorted(found) == sorted(KEYS)


def test_chosen_weights_replace_those_of_the_settings(tmp_path, make_members) -> None:
    files = make_members(["m", "n"], KEYS)
    write_json(tmp_path / "chosen.json", {"members": [{"name": "n", "weight": 0.0}, {"name": "m", "weight": 1.0}]})
    members = [{"name": "m", "weight": 1}, {"name": "n", "weight": 9}]
    found = run(tmp_path, members, files, chosen=tmp_path / "chosen.json")
    np.testing.assert_array_equal(found["a", "1"], smooth_probabilities(0, SIZE).argmax(axis=0))
    with pytest.raises(UserError, match=r"chosen\.json.*\['m', 'n'\].*\['m'\]"):
        run(tmp_path, members[:1], files[:1], chosen=tmp_path / "chosen.json")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([], "must be a list of at least 1"),
        ([{"name": "m", "weight": 1}, {"name": "m", "weight": 1}], "'m' is listed twice"),
        ([{"name": "m", "weight": -1}], "at least 0"),
        ([{"name": "m", "weight": float("nan")}], "must be a finite number"),
        ([{"name": "m", "weight": 0}], "all weights are 0"),
        ([{"name": "m", "weight": 1, "temperature": 0}], "temperature: is 0"),
        ([{"name": "m", "wieght": 1}], "unknown key 'wieght'"),
        ([{"name": "m", "class_weights": {"bird": 2}}], "'bird' is no class"),
        ([{"name": "m", "class_weights": {CLASSES[4]: 0}}], f"all weights of class '{CLASSES[4]}' are 0"),
    ],
)
def test_mistakes_in_the_settings(tmp_path, make_members, members, says) -> None:
    files = make_members(["m"], KEYS)
    with pytest.raises(UserError, match=says):
        run(tmp_path, members, files * max(len(members), 1))


@pytest.mark.parametrize("out", [[], ["o.scores.h5"], ["a.labels.h5", "b.labels.h5"], ["o.labels.h5", "o.config.json"]])
def test_mistakes_in_outputs(tmp_path, make_members, out) -> None:
    files = make_members(["m"], KEYS)
    with pytest.raises(UserError, match=r"^out: .*expected one \*\.labels\.h5, at most one \*\.scores\.h5$"):
        run(tmp_path, [{"name": "m"}], files, out=[tmp_path / name for name in out])


def test_a_missing_frame_names_member_and_frame(tmp_path, make_members) -> None:
    files = make_members(["whole"], KEYS) + make_members(["part.single"], KEYS[:1])
    members = [{"name": "whole"}, {"name": "part.single"}]
    with pytest.raises(UserError, match=r"member 'part\.single': no class scores for frame '2' of video 'a'"):
        run(tmp_path, members, files)
    assert not (tmp_path / "out.labels.h5").exists()


def test_other_classes_are_refused(tmp_path, make_members) -> None:
    files = make_members(["m"], KEYS)
    for classes, says in ((["sky", *CLASSES[1:]], "class 0 is 'sky'"), (CLASSES[:5], "scores 5 classes")):
        frames = {key: smooth_probabilities(5, SIZE, len(classes)) for key in KEYS}
        other = write_scores(tmp_path / "other.scores.h5", frames, classes)
        with pytest.raises(UserError, match=f"member 'other': {says}"):
            run(tmp_path, [{"name": "m"}, {"name": "other"}], [*files, [other]])


def test_the_same_frame_in_two_files_is_refused(tmp_path, make_members) -> None:
    (path,), (again,) = make_members(["m", "n"], KEYS)
    with pytest.raises(UserError, match=r"member 'm': .*n\.scores\.h5: frame .* is also in .*m\.scores\.h5"):
        run(tmp_path, [{"name": "m"}], [[path, again]])


def test_broken_files_are_user_errors(tmp_path, make_members) -> None:
    ((path,),) = make_members(["m"], KEYS)
    data = path.read_bytes()
    broken = tmp_path / "broken.scores.h5"
    for content in (b"", data[: len(data) // 2], b"no HDF5 at all" * 100):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.scores\.h5"):
            run(tmp_path, [{"name": "m"}], [[broken]])


def test_memory_grows_neither_with_frames_nor_with_members(tmp_path, make_members) -> None:
    size = (96, 160)

    def peak(names: list[str], count: int) -> int:
        keys = [("v", str(k)) for k in range(count)]
        files = make_members(names, keys, size)
        tracemalloc.start()
        run(tmp_path, [{"name": name} for name in names], files, keys=keys, size=size)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    one_frame = len(CLASSES) * 96 * 160 * 4
    smallest = peak(["m", "n"], 2)
    assert smallest > one_frame  # the measure sees numpy's arrays
    assert peak(["m", "n"], 10) < smallest + one_frame / 4
    assert peak(["m", "n", "o", "p", "q", "r"], 2) < smallest + one_frame / 4
