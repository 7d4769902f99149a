"""The drawn data: same settings, same bytes; real layout, ids and formats; every class where it is scored."""

from __future__ import annotations

import errno
import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vss.configs.datasets import Dataset, read_dataset_row
from vss.core.errors import UserError
from vss.core.index import read_card
from vss.core.labels import COCO_STUFF, LABEL_SPACES, VSPW
from vss.prepare.drawn import draw as drawn
from vss.prepare.drawn import filming, scenes

SMALL = {
    "vspw": {"train_videos": 2, "val_videos": 1, "test_videos": 1, "train_frames": 2, "val_frames": 3, "test_frames": 1,
             "height": 48},
    "coco_stuff": {"train_images": 5, "val_images": 2, "height": 48},
}  # fmt: skip


def row(name: str, **drawn: int) -> Dataset:
    return read_dataset_row(name, {"drawn": {**SMALL[name], **drawn}})


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("dataset", SMALL)
def test_the_same_settings_give_the_same_bytes_and_another_seed_others(dataset, tmp_path) -> None:
    first = drawn.draw(row(dataset), beside=tmp_path / "a")
    again = drawn.draw(row(dataset), beside=tmp_path / "b")
    other = drawn.draw(row(dataset, seed=1), beside=tmp_path / "a")
    assert first.name == again.name != other.name
    assert contents(first) == contents(again)
    pictures = {name: digest for name, digest in contents(first).items() if name.endswith(".jpg")}
    assert pictures and all(contents(other)[name] != digest for name, digest in pictures.items())


def test_a_video_does_not_depend_on_the_others(tmp_path) -> None:
    few = contents(drawn.draw(row("vspw"), beside=tmp_path))
    more = contents(drawn.draw(row("vspw", train_videos=3, test_videos=2), beside=tmp_path))
    shared = {name for name in few.keys() & more.keys() if name.startswith("data/")}
    assert len(shared) == 2 * 2 * 2 + 2 * 3 + 1
    assert all(few[name] == more[name] for name in shared)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(drawn, "_draw_clip", no_space)
    with pytest.raises(UserError, match=r"drawn-\w+: No space left on device; free some space"):
        drawn.draw(row("coco_stuff"), beside=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_drawn_folder_is_used_again_and_a_half_drawn_one_is_not(tmp_path, monkeypatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(drawn, "_coco_clips", stopped)
        with pytest.raises(KeyboardInterrupt):
            drawn.draw(row("coco_stuff"), beside=tmp_path)
    assert not list(tmp_path.glob("drawn-*"))
    folder = drawn.draw(row("coco_stuff"), beside=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    monkeypatch.setattr(drawn, "_draw_all", stopped)
    assert drawn.draw(row("coco_stuff"), beside=tmp_path) == folder


def test_vspw_layout_and_files(tmp_path) -> None:
    root = drawn.draw(row("vspw"), beside=tmp_path)
    videos = {split: (root / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}
    assert [len(videos[split]) for split in ("train", "val", "test")] == [2, 1, 1]
    assert not (root / "data" / videos["test"][0] / "mask").exists()
    frames = sorted((root / "data" / videos["val"][0] / "origin").iterdir())
    assert [path.suffix for path in frames] == [".jpg"] * 3
    with Image.open(root / "data" / videos["val"][0] / "mask" / f"{frames[0].stem}.png") as mask:
        assert mask.format == "PNG" and mask.mode == "P" and mask.size == (85, 48)
        assert set(np.unique(np.array(mask))) <= VSPW.known_raw_values()


def test_prepare_reads_what_was_drawn_like_real_data(run_prepare) -> None:
    done = run_prepare(None, drawn=SMALL["vspw"])
    card = read_card(done.card)
    assert card.drawn and card.frames == {"train": 4, "val": 3, "test": 1}
    assert Path(card.root).parent == done.folder
    assert done.kinds() == []
    before = contents(done.folder)
    assert contents(run_prepare(None, drawn=SMALL["vspw"]).folder) == before


@pytest.mark.parametrize("dataset", drawn.CLASSES)
def test_each_key_is_a_class_of_the_dataset(dataset) -> None:
    raw = drawn.raw_of_keys(row(dataset))
    train = LABEL_SPACES[dataset].raw_to_train()[raw]
    named = {key: LABEL_SPACES[dataset].classes[t] for key, t in zip(filming.KEYS, train, strict=True) if t != 255}
    assert named == drawn.CLASSES[dataset]
    assert len(set(named.values())) == len(filming.KEYS) - 2


def test_keys_by_hand() -> None:
    vspw = dict(zip(filming.KEYS, drawn.raw_of_keys(row("vspw")).tolist(), strict=True))
    assert (vspw["others"], vspw["void"], vspw["wall"], vspw["person"]) == (0, 255, 1, VSPW.classes.index("person") + 1)
    coco = dict(zip(filming.KEYS, drawn.raw_of_keys(row("coco_stuff")).tolist(), strict=True))
    assert (coco["others"], coco["void"], coco["person"]) == (255, 255, 0)
    assert COCO_STUFF.classes[COCO_STUFF.raw_to_train()[coco["sky"]]] == "sky-other"


def film_keys(seed: tuple[int, ...], scene: int, frames: int = 4, size: tuple[int, int] = (54, 96)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([keys for _, keys in scenes.film(rng, scene=scene, height=size[0], width=size[1], frames=frames)])


def test_every_scene_covers_its_frame_whatever_the_camera_does() -> None:
    """Uncovered canvas would be void; void comes from the stamp in a corner only, and stays the same all along."""
    for scene in range(len(scenes.SCENES)):
        for seed in range(6):
            size = ((54, 96), (54, 40), (54, 72))[seed % 3]
            keys = film_keys((seed, scene), scene, frames=12, size=size)
            void = keys == filming.KEYS.index("void")
            assert (void == void[0]).all()
            assert void[0].mean() < 0.08


def test_default_val_split_holds_every_class_others_and_void() -> None:
    defaults = drawn.read_settings(read_dataset_row("vspw", {}))
    assert defaults.val_frames > 17  # VC16 needs more than 16 frames
    counts = np.zeros(len(filming.KEYS), int)
    for k in range(defaults.val_videos):
        keys = film_keys((defaults.seed, 0, 1, k), k, frames=2)
        counts += np.bincount(keys.ravel(), minlength=len(filming.KEYS))
    assert (counts > 0).all(), dict(zip(filming.KEYS, counts, strict=True))
    # No class is most of the picture: the majority class alone scores next to nothing.
    assert counts.max() < 0.35 * counts.sum()


def test_things_move_and_are_occluded() -> None:
    keys = film_keys((0, 0, 1, 0), 0, frames=10)
    moved = (keys[0] != keys[-1]).mean()
    assert 0.05 < moved < 0.9
    steps = [(a != b).mean() for a, b in pairwise(keys)]
    assert 0 < max(steps) < 0.5


def test_sizes_differ_between_videos() -> None:
    height = drawn.read_settings(read_dataset_row("vspw", {})).height
    widths = {int(height * aspect) for aspect in drawn._VSPW_ASPECTS}
    assert len(widths) >= 3 and min(widths) < height < max(widths)
