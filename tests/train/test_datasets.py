"""The MMSegmentation dataset over the index, and its loading transforms."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from PIL import Image

from tests.raw_dataset import FRAMES, save_mask
from vss.configs.datasets import mix_of, read_dataset_row, train_ids_in
from vss.core.errors import UserError
from vss.core.images import read_raw_mask
from vss.core.index import read_index
from vss.core.labels import COCO_STUFF, VSPW
from vss.prepare.run import prepare
from vss.train.datasets import IndexDataset, label_map
from vss.train.sampling import SeededDataset

LOADING = [{"type": "LoadIndexImage"}, {"type": "LoadIndexLabels"}]
PIPELINE = [
    *LOADING,
    {"type": "RandomResize", "scale": (64, 48), "ratio_range": (0.5, 2.0), "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": (16, 16), "cat_max_ratio": 0.75},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "PhotoMetricDistortion"},
    {"type": "PackSegInputs"},
]


@pytest.fixture(autouse=True)
def mmseg_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture
def done(vspw, run_prepare):
    values = np.full((24, 32), 124)
    values[:3] = [[0], [255], [1]]
    save_mask(vspw.mask("t0", FRAMES[0]), values)
    Image.new("RGB", (32, 24), (200, 100, 20)).save(vspw.image("t0", FRAMES[0]), quality=95)
    return run_prepare(vspw.root)


def build(done, split="train", **kwargs) -> IndexDataset:
    return DATASETS.build({"type": "IndexDataset", "index": done.index, "card": done.card, "split": split, **kwargs})


def test_rows_classes_and_paths(done, vspw) -> None:
    data = build(done)
    assert len(data) == 6
    assert data.metainfo["classes"] == VSPW.classes and len(data.metainfo["palette"]) == 124
    info = data.get_data_info(1)
    assert (info["video"], info["frame"]) == ("t0", FRAMES[1])
    assert info["img_path"] == str(vspw.image("t0", FRAMES[1]))
    assert info["seg_map_path"] == str(vspw.mask("t0", FRAMES[1]))
    assert info["reduce_zero_label"] is False
    assert len(build(done, "val")) == 3


def test_image_is_bgr_and_labels_are_train_ids(done) -> None:
    sample = build(done, pipeline=LOADING)[0]
    assert sample["img"].shape == (24, 32, 3) and sample["img"].dtype == np.uint8
    assert sample["img_shape"] == sample["ori_shape"] == (24, 32)
    assert np.abs(sample["img"].reshape(-1, 3).mean(0) - (20, 100, 200)).max() < 6
    assert sample["seg_fields"] == ["gt_seg_map"]
    assert sample["gt_seg_map"][:4, 0].tolist() == [255, 255, 0, 123]


def test_goes_through_mmseg_training_transforms(done) -> None:
    data = build(done, pipeline=PIPELINE)
    for sample in (data[k] for k in range(len(data))):
        assert sample["inputs"].shape == (3, 16, 16)
        labels = sample["data_samples"].gt_sem_seg.data.numpy()
        assert labels.shape == (1, 16, 16)
        assert ((labels < 124) | (labels == 255)).all()


def test_the_test_split_has_images_only(done) -> None:
    data = build(done, "test", test_mode=True, pipeline=LOADING[:1])
    assert "seg_map_path" not in data[0]
    with pytest.raises(UserError, match="has no mask"):
        build(done, "test", test_mode=True, pipeline=LOADING)[0]


def test_an_empty_split_is_named(done) -> None:
    with pytest.raises(UserError, match="no frame in split 'other'"):
        build(done, "other")


def test_a_row_costs_its_strings_only(done) -> None:
    data = build(done)
    strings = sum(len(cell) for row in read_index(done.index).query("split == 'train'").values[:, [0, 1, 3, 4]]
                  for cell in row)  # fmt: skip
    assert data.data_list == [] and data.data_bytes.nbytes < strings + 60 * len(data)
    other = pickle.loads(pickle.dumps(data))
    assert other.get_data_info(-1)["frame"] == FRAMES[-1]


def test_published_label_shift_by_hand() -> None:
    plain = label_map(COCO_STUFF.raw_to_train())
    shifted = label_map(COCO_STUFF.raw_to_train(), shift=True)
    assert np.array_equal(plain, COCO_STUFF.raw_to_train())
    # person (raw 0) is dropped, bicycle (raw 1, train 1) takes its place, the last class ends at 169.
    assert [int(shifted[raw]) for raw in (0, 1, 181, 11, 255)] == [255, 0, 169, 255, 255]
    ids = np.arange(256, dtype=np.uint8)
    reduced = ids.copy()  # mmseg's reduce_zero_label, on files that hold train ids
    reduced[reduced == 0] = 255
    reduced -= 1
    reduced[reduced == 254] = 255
    assert np.array_equal(shifted, reduced[plain])


def test_label_shift_is_for_training_only(done) -> None:
    labels = build(done, pipeline=LOADING, label_shift=True)[0]["gt_seg_map"]
    assert labels[:4, 0].tolist() == [255, 255, 255, 122]
    with pytest.raises(UserError, match="label_shift: requested on split 'val'"):
        build(done, "val", label_shift=True)


def test_real_frames_load(real_data, run_prepare) -> None:
    done = run_prepare(real_data / "VSPW_480p")
    sample = build(done, "val", test_mode=True, pipeline=LOADING)[0]
    assert sample["img"].shape == (360, 480, 3)
    raw = read_raw_mask(sample["seg_map_path"])
    assert np.array_equal(sample["gt_seg_map"] + np.uint8(1), np.where(raw == 255, 0, raw))


def test_two_sets_with_other_ids_give_the_batches_of_one(tmp_path: Path) -> None:
    """One set, and its halves with their own ids in another order: the second mapped into the classes of the first."""
    ids, permuted = {"road": 1, "sky": 2, "car": 7}, {"car": 1, "road": 2, "sky": 3}
    rng = np.random.default_rng(0)
    for number in range(6):
        image, classes = rng.integers(0, 255, (24, 32, 3), np.uint8), rng.integers(0, 3, (24, 32))
        sets = [("whole", ids), ("first", ids) if number < 3 else ("second", permuted)]
        for name, table in sets:
            for part, array in (("images", image), ("masks", np.array(list(map(table.get, ids)), np.uint8)[classes])):
                path = tmp_path / name / part / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
            rows = "".join(f"{value},{key}\n" for key, value in table.items())
            (tmp_path / name / "classes.csv").write_text(f"id,name\n{rows}")
    data = {}
    for name in ("whole", "first", "second"):
        row = {"root": str(tmp_path / name), "format": "images_masks", "classes": "classes.csv", "splits": {"train": 1}}
        files = {key: tmp_path / f"{name}.{key}" for key in ("index", "card", "check")}
        prepare(dataset=name, settings=row, **files, workers=1)
        config = {"type": "IndexDataset", "index": files["index"], "card": files["card"], "split": "train"}
        data[name] = {**config, "pipeline": PIPELINE}
    first, second = (read_dataset_row(name, {**row, "root": str(tmp_path / name)}) for name in ("first", "second"))
    (entry,) = mix_of(["second"], "vspw")
    train_ids = train_ids_in(entry, second, first.space, where="data")
    assert train_ids == [2, 0, 1]  # by name: car, road, sky
    whole = SeededDataset(datasets=[data["whole"]], seed=5)
    mixed = SeededDataset(datasets=[data["first"], {**data["second"], "train_ids": train_ids}], seed=5)
    for position in range(15):
        one, other = whole[position], mixed[position]
        assert torch.equal(one["inputs"], other["inputs"])
        assert torch.equal(one["data_samples"].gt_sem_seg.data, other["data_samples"].gt_sem_seg.data)
