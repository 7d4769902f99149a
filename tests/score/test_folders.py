"""Folders of predictions, scored and compared without a workflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_dataset import write_labels

from vss.cli import main
from vss.core.errors import UserError
from vss.core.files import read_json, write_json
from vss.prepare.run import prepare
from vss.score.compare import compare, print_comparison
from vss.score.folders import score_folder

SHAPE = (6, 8)


@pytest.fixture
def videos() -> dict[str, list[np.ndarray]]:
    """Raw masks of four videos of nine frames."""
    rng = np.random.default_rng(4)
    return {f"v {n}": [np.array([0, 1, 2, 5, 255], np.uint8)[rng.integers(0, 5, SHAPE)]] * 9 for n in range(4)}


@pytest.fixture
def labels(videos) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(5)
    return {
        video: [np.where(rng.random(SHAPE) < 0.3, 7, np.where(m % 255, m - 1, 9)).astype(np.uint8) for m in masks]
        for video, masks in videos.items()
    }


@pytest.fixture
def root(tmp_path, videos) -> Path:
    """A dataset of VSPW_480p's layout."""
    folder = tmp_path / "VSPW_480p"
    for video, masks in videos.items():
        for kind in ("origin", "mask"):
            (folder / "data" / video / kind).mkdir(parents=True)
        for at, mask in enumerate(masks):
            assert cv2.imwrite(
                str(folder / "data" / video / "origin" / f"{at:08d}.jpg"), np.full((*SHAPE, 3), 9, np.uint8)
            )
            assert cv2.imwrite(str(folder / "data" / video / "mask" / f"{at:08d}.png"), mask)
    (folder / "val.txt").write_text("".join(f"{video}\n" for video in videos))
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text("")
    return folder


@pytest.fixture
def pngs(tmp_path, labels) -> Path:
    folder = tmp_path / "predicted"
    for video, frames in labels.items():
        (folder / video).mkdir(parents=True)
        for at, frame in enumerate(frames):
            assert cv2.imwrite(str(folder / video / f"{at:08d}.png"), frame)
    return folder


def test_a_folder_has_the_figures_of_the_stage(tmp_path, root, pngs, videos, labels, score):
    staged = score(videos, labels, shards=2).scores
    (tmp_path / "ours").mkdir()
    write_labels(tmp_path / "ours" / "00.labels.h5", labels)
    for folder in (pngs, tmp_path / "ours"):
        found = score_folder(folder, root, split="val")
        assert found == {key: staged[key] for key in found}
        assert found["mIoU"] > 0.3 and found["intervals"]["mIoU"] is not None


def test_a_folder_in_another_layout_has_the_same_scores(tmp_path, root, pngs, labels):
    expected = score_folder(pngs, root)
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            (tmp_path / "mmseg").mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / "mmseg" / f"{video}_{at:08d}.png"), frame + 1)
    assert score_folder(tmp_path / "mmseg", root, layout="mmseg") == expected
    assert score_folder(f"{tmp_path}/mmseg/{{video}}_{{frame}}.png", root, ids="raw") == expected
    with pytest.raises(UserError, match=r"score\.layout: is 'mmsg', must be one of 'vspw'"):
        score_folder(pngs, root, layout="mmsg")
    with pytest.raises(UserError, match=r"holds the id 0; raw ids of classes are among 1\.\.124"):
        score_folder(pngs, root, ids="raw")


def test_scores_are_printed_and_written(tmp_path, root, pngs, capsys):
    assert main(["score", str(pngs), str(root), "--out", str(tmp_path / "scores.json")]) == 0
    scores = read_json(tmp_path / "scores.json")
    low, high = scores["intervals"]["mIoU"]
    line = f"mIoU                {100 * scores['mIoU']:6.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    assert line in capsys.readouterr().out.splitlines()


def test_what_cannot_be_scored_is_named(tmp_path, root, pngs):
    with pytest.raises(UserError, match="only 'train' and 'val'"):
        score_folder(pngs, root, split="test")
    with pytest.raises(UserError, match="absent: no such folder of predictions"):
        score_folder(tmp_path / "absent", root)
    with pytest.raises(UserError, match=r"train\.txt: lists no frame"):
        score_folder(pngs, root, split="train")
    (pngs / "v 2" / "00000003.png").unlink()
    with pytest.raises(UserError, match=r"no prediction for 1 of 36 frames: .*v 2/00000003\.png$"):
        score_folder(pngs, root)
    (root / "data" / "v 2" / "mask" / "00000003.png").unlink()
    with pytest.raises(UserError, match=r"v 2.*mask_missing"):
        score_folder(pngs, root)


@pytest.fixture
def results(tmp_path, videos, labels, score):
    """Two results folders: `net` is the same in both, `better` has fewer wrong pixels in the second."""
    better = {
        video: [np.where((frame == 7) & (np.arange(SHAPE[1]) < 6), np.where(m % 255, m - 1, 9), frame).astype(np.uint8)
                for frame, m in zip(frames, videos[video], strict=True)]
        for video, frames in labels.items()
    }  # fmt: skip
    score(videos, labels)
    score(videos, better)
    folders = []
    for number in (0, 1):
        folders.append(tmp_path / f"results{number}")
        for name, source in (("net", 0), ("better", number)):
            target = folders[-1] / "score" / name / "val"
            target.mkdir(parents=True)
            shutil.copy(tmp_path / str(source) / "0.npz", target / "00.npz")
            shutil.copy(tmp_path / str(source) / "scores.json", target)
            settings = {"tta": {"flip": bool(number)}, "shards": number + 1, "views": [number]}
            if number and name == "net":
                settings = {"of": {**settings, "shard": 0}, "settings": {"method": "crf"}, "flow": {"split": "val"}}
            write_labels(folders[-1] / "predictions" / name / "val" / "00.labels.h5", {}, provenance=settings)
    return folders


def test_results_folders_are_compared_by_prediction(results, tmp_path, capsys):
    (results[1] / "score" / "new" / "val").mkdir(parents=True)
    write_json(results[1] / "score" / "new" / "val" / "scores.json", {})
    found = compare(*results)
    better, net = found["predictions"]
    assert (better["name"], net["name"]) == ("better", "net")
    assert found["only_first"] == [] and found["only_second"] == ["new"]
    assert better["settings"] == {"tta.flip": [False, True]}
    assert net["settings"] == {"tta.flip": [False, True]} and net["only_first"] == {}
    assert net["only_second"] == {"refinement": {"settings": {"method": "crf"}}}
    assert net["figures"]["mIoU"]["noise"] is True and net["figures"]["mIoU"]["sentence"] == "is the same"
    figure = better["figures"]["mIoU"]
    scores = [read_json(folder / "score" / "better" / "val" / "scores.json")["mIoU"] for folder in results]
    assert [figure["first"], figure["second"]] == scores
    low, high = figure["interval"]
    assert figure["noise"] is False and 0 < low < figure["difference"] == scores[1] - scores[0] < high
    assert figure["sentence"] == f"{100 * (scores[1] - scores[0]):+.2f} mIoU [{100 * low:.2f}, {100 * high:.2f}]"
    assert [row["video"] for row in better["per_video"]] and all(row["difference"] > 0 for row in better["per_video"])
    assert better["frames"]["lost"] == [] and len(better["frames"]["gained"]) == 20
    gained = [frame["difference"] for frame in better["frames"]["gained"]]
    assert gained == sorted(gained, reverse=True) and gained[-1] > 0
    print_comparison(*results, out=tmp_path / "comparison.json", page=tmp_path / "comparison.html")
    assert read_json(tmp_path / "comparison.json") == found
    printed = capsys.readouterr().out
    best = better["frames"]["gained"][0]
    assert (
        f"frames that gained (pixel_acc): {best['video']}/{best['frame']} {100 * best['difference']:+.1f}, " in printed
    )
    page = (tmp_path / "comparison.html").read_text()
    for text in (
        f"[{100 * low:.2f}, {100 * high:.2f}]",
        "tta.<wbr>flip",
        "<summary>Only the second has: refinement</summary>",
        "Only in",
        f"{best['video']} / {best['frame']}",
    ):
        assert text in page
    assert "://" not in page, "the page needs no other file"
    assert main(["compare", *map(str, results), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    for text in (figure["sentence"], "tta.flip: false -> true", "videos that gained: v ", "second has: refinement {"):
        assert text in printed


def test_two_predictions_are_compared(results):
    found = compare(results[1] / "score" / "net", results[1] / "score" / "better" / "val")
    assert [prediction["name"] for prediction in found["predictions"]] == ["net -> better"]
    back = compare(results[1] / "score" / "better", results[1] / "score" / "net")["predictions"][0]["figures"]["mIoU"]
    figure = found["predictions"][0]["figures"]["mIoU"]
    assert back["difference"] == -figure["difference"]
    assert back["interval"] == pytest.approx([-edge for edge in reversed(figure["interval"])])


def test_other_frames_are_not_compared(tmp_path, results, videos, labels, score):
    short = {video: frames[:8] for video, frames in videos.items()}
    score(short, {video: frames[:8] for video, frames in labels.items()})
    shutil.copy(tmp_path / "2" / "0.npz", results[1] / "score" / "net" / "val" / "00.npz")
    with pytest.raises(UserError, match="was scored on other frames than"):
        compare(*results)
    with pytest.raises(UserError, match=r"has no counts of split 'val'"):
        compare(tmp_path, results[0] / "score" / "net")


@pytest.fixture
def street(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset in folders of its own, every second frame with a mask in colours, and a prediction of those frames."""
    root, predicted, rng = tmp_path / "street", tmp_path / "of-street", np.random.default_rng(6)
    for video in ("a", "b"):
        for at in range(4):
            truth = rng.integers(0, 3, SHAPE)
            found = np.where(rng.random(SHAPE) < 0.2, 0, np.minimum(truth, 1)).astype(np.uint8)
            colours = np.array([(10, 0, 0), (20, 0, 0), (30, 0, 0)], np.uint8)[truth]
            files = {f"images/{video}/{at}.jpg": np.full((*SHAPE, 3), 9, np.uint8)}
            if at % 2 == 0:
                files |= {f"masks/{video}/{at}.png": colours[..., ::-1], f"../of-street/{video}/{at}.png": found}
            for name, picture in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(root / name), picture)
    (root / "classes.csv").write_text("colour,name,train_name\n#0a0000,road,road\n#140000,car,car\n#1e0000,void,\n")
    return root, predicted


def test_any_dataset_is_scored_by_its_row_or_by_its_index(tmp_path: Path, street: tuple[Path, Path], capsys) -> None:
    root, predicted = street
    row = {
        "images": "images/{video}/{frame}.jpg",
        "masks": "masks/{video}/{frame}.png",
        "classes": "classes.csv",
        "splits": {"val": 1},
    }
    found = score_folder(predicted, root, data=row)
    assert found["dataset"] == "data" and found["counts"]["frames"] == 4 and 0.5 < found["mIoU"] < 1
    # The pixels of the third colour are ignored: what is predicted there counts for nothing.
    words = ["score", str(predicted), str(root), "--data", json.dumps(row), "--out", str(tmp_path / "scores.json")]
    assert main(words) == 0 and "4 frames of 2 videos" in capsys.readouterr().out
    prepared = tmp_path / "prepare" / "street"
    prepare(
        dataset="street",
        settings={"root": str(root), **row},
        index=prepared / "index.csv",
        card=prepared / "dataset.json",
        check=prepared / "check.json",
        workers=1,
    )
    by_index = score_folder(predicted, prepared)
    assert by_index == {**found, "dataset": "street"} == {**read_json(tmp_path / "scores.json"), "dataset": "street"}
    with pytest.raises(UserError, match="no such folder of the dataset"):
        score_folder(predicted, tmp_path / "absent")
    with pytest.raises(UserError, match=r"val\.txt: No such file"):
        score_folder(predicted, root)
