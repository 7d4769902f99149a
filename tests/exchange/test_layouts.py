"""Folders drawn in the layouts of other systems: imported, they have the labels and the scores of the original."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dataset import TinyDataset, write_labels

from tests.exchange.conftest import Labels, assert_same, labels_of
from vss.configs.layouts import LAYOUTS
from vss.core.files import read_json
from vss.core.labels import VSPW, submission_palette
from vss.score.shard import score_shard
from vss.score.summary import summarise


def save(path: Path, picture: np.ndarray, palette: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(path)


def as_vspw(folder: Path, labels: Labels) -> None:
    """VSPW_baseline test.py, and a submission: palette PNGs of train ids."""
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            save(folder / video / f"{at:08d}.png", frame, submission_palette())


def as_detectron2(folder: Path, labels: Labels) -> None:
    """DVIS++, VidEoMT and PMT: grey PNGs of train ids in OUTPUT_DIR/inference, whose other files are of no interest."""
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            save(folder / "inference" / video / f"{at:08d}.png", frame)
    (folder / "config.yaml").write_text("MODEL: {}\n")


def as_mmseg(folder: Path, labels: Labels) -> None:
    """MMSegmentation's format_only with reduce_zero_label: one folder, 1 added."""
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            save(folder / f"{video}_{at:08d}.png", frame + 1)


def coloured(labels: np.ndarray, seed: int) -> tuple[np.ndarray, list[dict]]:
    """Two segments of each class, left and right, with large ids in no order; the last column is no segment."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((*labels.shape, 3), np.uint8)
    segments = []
    for train_id in np.unique(labels):
        for columns in (slice(0, 4), slice(4, labels.shape[1])):
            colour = rng.integers(1, 256, 3)
            here = np.zeros(labels.shape, bool)
            here[:, columns] = labels[:, columns] == train_id
            picture[here] = colour
            number = int(colour @ (1, 256, 65536))
            segments.append({"id": number, "category_id": int(train_id) + 1, "iscrowd": 0, "area": int(here.sum())})
    return picture, segments


def as_coco_panoptic(folder: Path, labels: Labels) -> None:
    annotations = []
    for video, frames in labels.items():
        for at, frame in enumerate(frames):
            picture, segments = coloured(frame, at)
            save(folder / "panoptic" / video / f"{at:08d}.png", picture)
            annotations.append({"image_id": at, "file_name": f"{video}/{at:08d}.png", "segments_info": segments})
    categories = [{"id": at + 1, "name": name, "isthing": 0} for at, name in enumerate(VSPW.classes)]
    (folder / "panoptic.json").write_text(json.dumps({"annotations": annotations, "categories": categories}))


def as_dvis_panoptic(folder: Path, labels: Labels) -> None:
    """DVIS++'s vps_eval.py: annotations by video, frames named as the images, no categories."""
    videos = []
    for video, frames in labels.items():
        annotations = []
        for at, frame in enumerate(frames):
            picture, segments = coloured(frame, at)
            save(folder / "inference" / "pan_pred" / video / f"{at:08d}.png", picture)
            annotations.append({"file_name": f"{at:08d}.jpg", "segments_info": segments})
        videos.append({"video_id": video, "annotations": annotations})
    (folder / "inference" / "pred.json").write_text(json.dumps({"annotations": videos}))


def as_vss(folder: Path, labels: Labels) -> None:
    for number, video in enumerate(labels):
        write_labels(folder / f"{number:02d}.labels.h5", {video: labels[video]})


WRITERS = {
    "vspw": as_vspw,
    "dvis": as_detectron2,
    "videomt": as_detectron2,
    "pmt": as_detectron2,
    "mmseg": as_mmseg,
    "coco_panoptic": as_coco_panoptic,
    "dvis_panoptic": as_dvis_panoptic,
    "vss": as_vss,
}


def scores_of(files: list[Path], dataset: TinyDataset, folder: Path) -> dict:
    """Scores of label files, one per shard."""
    folder.mkdir(exist_ok=True)
    counts = [folder / f"{shard}.npz" for shard in range(len(files))]
    for shard, (path, out) in enumerate(zip(files, counts, strict=True)):
        score_shard(
            labels=path, index=dataset.index, card=dataset.card, split="val", shard=shard, shards=len(files), out=out
        )
    names = {"scores": "scores.json", "per_class": "per_class.csv", "per_video": "per_video.csv"}
    summarise(shards=counts, card=dataset.card, **{key: folder / name for key, name in names.items()})
    return read_json(folder / "scores.json")


@pytest.mark.parametrize("layout", WRITERS)
def test_a_layout_has_the_labels_and_scores_of_the_original(
    layout: str, tmp_path: Path, labels: Labels, dataset: TinyDataset, imported: Callable[..., Path]
) -> None:
    assert WRITERS.keys() == LAYOUTS.keys()
    WRITERS[layout](tmp_path / "peer", labels)
    for shard in range(2):
        folder = imported(labels=str(tmp_path / "peer"), layout=layout, shard=shard, shards=2)
    files = sorted(folder.glob("*.labels.h5"))
    assert len(files) == 2
    assert_same(labels_of(*files), labels)
    original = scores_of([write_labels(tmp_path / "original.h5", labels)], dataset, tmp_path / "original")
    assert scores_of(files, dataset, tmp_path / "scores") == original
    assert original["mIoU"] > 0.3


def test_pixels_of_no_segment_are_no_class(tmp_path: Path, labels: Labels, imported: Callable[..., Path]) -> None:
    as_coco_panoptic(tmp_path / "peer", labels)
    video = next(iter(labels))
    path = tmp_path / "peer" / "panoptic" / video / "00000001.png"
    picture = np.array(Image.open(path))
    picture[2:4] = 0
    save(path, picture)
    folder = imported(labels=str(tmp_path / "peer"), layout="coco_panoptic")
    labels[video][1][2:4] = 255
    assert_same(labels_of(folder / "00.labels.h5"), labels)
