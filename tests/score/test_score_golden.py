"""The score stage against the official evaluators, on synthetic and on real videos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from tests.golden import stored_results
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.files import read_json, sha256_of_file
from vss.core.images import read_raw_mask
from vss.core.index import INDEX_COLUMNS, Card, write_card, write_index
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsWriter
from vss.score.consistency import WINDOW_COLUMNS
from vss.score.shard import score_shard
from vss.score.summary import summarise
from vss.score.temporal import pair_confusion, warp_labels
from vss.score.video import VideoCounter

TOLERANCE = {"rel": 1e-12, "abs": 1e-12}


@pytest.fixture(scope="module")
def golden(golden_dir):
    folder = golden_dir / "metrics"
    meta = json.loads((folder / "meta.json").read_text())
    return meta, load_file(folder / "videos.safetensors")


@pytest.fixture
def scored(golden, score):
    meta, tensors = golden
    videos = meta["video_order"]
    return score(
        {video: list(tensors[f"{video}.gt_raw"]) for video in videos},
        {video: list(tensors[f"{video}.pred"]) for video in videos},
        shards=2,
    )


@pytest.mark.golden
def test_official_numbers(golden, scored):
    results = golden[0]["results"]
    found = {name: scored.scores[name] for name in ("mIoU", "pixel_acc", "pixel_acc_class", "fwIoU")}
    found |= {f"{name}_mean": scored.scores[name] for name in ("video_mIoU", "video_fwIoU")}
    for name, value, expected in stored_results(found, results, case="metrics"):
        assert value == pytest.approx(expected, **TOLERANCE), name
    assert scored.scores["counts"]["classes_in_truth"] == results["num_gt_classes"]
    iou = scored.per_class.set_index("class_id")["iou"]
    for class_id, expected in results["per_class_iou"].items():
        assert iou[int(class_id)] == pytest.approx(expected, **TOLERANCE)


@pytest.mark.golden
def test_confusion_of_all_frames(golden):
    meta, tensors = golden
    lookup = VSPW.raw_to_train()
    counts = sum(
        confusion_matrix(labels, lookup[raw], VSPW.num_classes)
        for video in meta["video_order"]
        for raw, labels in zip(tensors[f"{video}.gt_raw"], tensors[f"{video}.pred"], strict=True)
    )
    if "confusion" not in tensors:
        pytest.skip("the golden set stores no confusion matrix")
    np.testing.assert_array_equal(counts[:, :-1], tensors["confusion"])


@pytest.mark.golden
def test_mmseg_numbers(golden, scored):
    results = golden[0]["results"]["mmseg"]
    assert scored.scores["mIoU_mmseg"] == pytest.approx(results["mIoU_nanmean"], **TOLERANCE)
    assert scored.scores["pixel_acc"] == pytest.approx(results["aAcc"], **TOLERANCE)
    iou = scored.per_class.set_index("class_id")["iou"].dropna()
    assert {str(class_id) for class_id in iou.index} == set(results["IoU_per_class"])
    for class_id, expected in results["IoU_per_class"].items():
        assert iou[int(class_id)] == pytest.approx(expected, **TOLERANCE)


@pytest.mark.golden
def test_video_numbers(golden, scored):
    results = golden[0]["results"]
    rows = scored.per_video.set_index("video")
    assert set(rows.index) == set(results["per_video"])
    for video, expected in results["per_video"].items():
        assert rows.loc[video, "frames"] == expected["T"]
        for name in ("mIoU", "fwIoU", "pixel_acc"):
            assert rows.loc[video, name] == pytest.approx(expected[name], **TOLERANCE)


@pytest.mark.golden
def test_video_consistency(golden, scored):
    for name, expected in golden[0]["results"]["VC"].items():
        assert scored.scores[name] == pytest.approx(expected["pooled"], **TOLERANCE)
        # Upstream also counts windows without a constant pixel, which its nanmean leaves out.
        ratios = [ratio for video in expected["per_window"].values() for ratio in window_ratios(video)]
        assert len(ratios) == expected["num_windows"]
        assert scored.scores["counts"]["windows"][name] == np.isfinite(ratios).sum()
        rows = scored.per_video.set_index("video")[name]
        for video, mean in expected["per_video_mean"].items():
            if np.isnan(window_ratios(expected["per_window"][video])).any():
                continue  # upstream's plain mean is NaN there
            assert rows[video] == pytest.approx(np.nan if mean is None else mean, nan_ok=True, **TOLERANCE)


@pytest.mark.golden
def test_windows_of_both_lengths_pooled(golden, scored):
    """DVIS++'s script goes on adding to the windows of 8 frames when it comes to those of 16."""
    stored = golden[0]["results"]["VC"]
    pooled = [
        ratio
        for name in ("VC8", "VC16")
        for video in stored[name]["per_window"].values()
        for ratio in window_ratios(video)
        if np.isfinite(ratio)
    ]
    assert pooled and scored.scores["VC16_dvis"] == pytest.approx(np.mean(pooled), **TOLERANCE)


def window_ratios(stored: list[float | None] | None) -> list[float]:
    """A video's windows; null stands for no windows, or for a window without a constant pixel."""
    return [np.nan if ratio is None else ratio for ratio in stored or []]


@pytest.mark.golden
def test_every_window(golden):
    meta, tensors = golden
    lookup = VSPW.raw_to_train()
    for video in meta["video_order"]:
        counter = VideoCounter(0, VSPW.num_classes)
        for raw, labels in zip(tensors[f"{video}.gt_raw"], tensors[f"{video}.pred"], strict=True):
            counter.add(raw=raw, truth=lookup[raw], labels=labels)
        table = pd.DataFrame(counter.tables()["windows"], columns=list(WINDOW_COLUMNS))
        for name, expected in meta["results"]["VC"].items():
            rows = table[table["length"] == int(name.removeprefix("VC"))]
            ratios = (rows["official_kept"] / rows["official"]).tolist()[:-1]  # the last window is not used
            stored = window_ratios(expected["per_window"][video])
            assert ratios == pytest.approx(stored, nan_ok=True, **TOLERANCE), (video, name)


def undecided(flow: np.ndarray) -> np.ndarray:
    """Returns where a sample position is so near the border of two pixels that float32 rounding decides [H, W] bool."""
    height, width = flow.shape[1:]
    near = np.zeros((height, width), bool)
    for position, size in ((np.arange(width)[None] + flow[0], width), (np.arange(height)[:, None] + flow[1], height)):
        place = position.astype(np.float64) * size / (size - 1) - 0.5
        near |= np.abs(place - np.floor(place) - 0.5) < 1e-4
    return near


@pytest.mark.golden
def test_temporal_consistency(golden):
    meta, tensors = golden
    if not all(f"{video}.flow" in tensors for video in meta["video_order"]):
        pytest.skip("the golden set stores no flow")
    total, pairs, doubtful = 0, 0, 0
    for video in meta["video_order"]:
        labels, flow = tensors[f"{video}.pred"], tensors[f"{video}.flow"]
        warped = tensors.get(f"{video}.warped_next_pred", [None] * len(flow))
        for before, following, motion, expected in zip(labels[:-1], labels[1:], flow, warped, strict=True):
            total = total + pair_confusion(before, following, motion, VSPW.num_classes)
            differs = near = undecided(motion)
            if expected is not None:
                differs = warp_labels(following, motion) != expected
                assert not (differs & ~near).any()
            doubtful += int(differs.sum())
        pairs += len(flow)
    assert doubtful <= total.sum() / 1000
    if "tc_confusion" in tensors:
        assert np.abs(total[:, :-1] - tensors["tc_confusion"]).sum() <= 2 * doubtful
    assert pairs == meta["results"]["TC"]["pairs"]
    assert mean_iou(total) == pytest.approx(meta["results"]["TC"]["TC"], abs=1e-12 + 1e-3 * doubtful)


@pytest.mark.golden
def test_zero_flow_is_not_the_identity(golden):
    if "zero_flow_source_index_plus1" not in golden[1]:
        pytest.skip("the golden set stores no warp by a zero flow")
    expected = golden[1]["zero_flow_source_index_plus1"]
    height, width = expected.shape
    zero = np.zeros((2, height, width), np.float32)
    # The source's row and its column are followed in two maps.
    for axis, count in ((0, height), (1, width)):
        place = np.broadcast_to(np.expand_dims(np.arange(count) + 1, 1 - axis), (height, width)).astype(np.uint16)
        source = (expected - 1) // width if axis == 0 else (expected - 1) % width
        np.testing.assert_array_equal(warp_labels(place, zero), np.where(expected > 0, source + 1, 0))


def test_real_predictions(real_data: Path, tmp_path: Path):
    """Real nets on a real clip; the numbers are those of the README beside the data, to four decimals."""
    video = "camvid_0016E5"
    reference = {}
    for line in (real_data / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if (real_data / "preds" / cells[0] / video).is_dir() and cells[0]:
            reference[cells[0]] = dict(zip(("mIoU", "fwIoU", "VC8", "VC16"), map(float, cells[1:]), strict=True))
    assert len(reference) >= 3
    clip = real_data / "VSPW_480p" / "data" / video
    masks = sorted((clip / "mask").glob("*.png"))
    height, width = read_raw_mask(masks[0]).shape
    rows = [(video, m.stem, "val", f"origin/{m.stem}.jpg", f"mask/{m.name}", height, width) for m in masks]
    write_index(tmp_path / "index.csv", pd.DataFrame(rows, columns=list(INDEX_COLUMNS)))
    write_card(
        tmp_path / "dataset.json",
        Card(
            "vspw", str(clip), list(VSPW.classes), VSPW.raw_to_train().tolist(), False, {"val": 61},
            sha256_of_file(tmp_path / "index.csv"),
        ),
    )  # fmt: skip
    for net, expected in reference.items():
        with LabelsWriter(tmp_path / "x.labels.h5", classes=VSPW.classes, provenance={}) as writer:
            for mask in masks:
                raw = cv2.imread(str(real_data / "preds" / net / video / mask.name), cv2.IMREAD_UNCHANGED)
                writer.write(video, mask.stem, VSPW.raw_to_train()[raw])
        score_shard(
            labels=tmp_path / "x.labels.h5", index=tmp_path / "index.csv", card=tmp_path / "dataset.json",
            split="val", shard=0, shards=1, out=tmp_path / "x.npz",
        )  # fmt: skip
        out = {name: tmp_path / name for name in ("scores", "per_class", "per_video")}
        summarise(shards=[tmp_path / "x.npz"], card=tmp_path / "dataset.json", **out)
        scores = read_json(out["scores"])
        for name, value in expected.items():
            assert round(scores[name], 4) == value, (net, name)
