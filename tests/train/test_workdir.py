"""What the name of a work folder depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vss.configs.resolve import published_settings, resolve
from vss.configs.result_settings import ABSENT, result_config, result_settings
from vss.core.files import canonical_json
from vss.train import workdir

# Of the paper's rows. One that changes starts every training of it again, from iteration 0: where a new setting's
# default means what was there before, `vss.configs.result_settings.ABSENT` is its place, and these stay.
DIGESTS = {
    "mask2former_internimage-h_coco_stuff": "9309a84ae733",
    "mask2former_internimage-h_coco_stuff2vspw": "c8a5fd42c360",
    "mask2former_internimage-h_vspw": "23df3c6075fa",
    "upernet_convnext-xl_vspw": "6b33dd7c1580",
    "upernet_internimage-h_coco_stuff": "edc7da233559",
    "upernet_internimage-h_vspw": "2d08f2c3156b",
    "upernet_internimage-xl_vspw": "7120664bfeb4",
    "upernet_swin-l_vspw": "99d6c2d64f73",
}


def digest(settings: dict) -> str:
    counted = result_config(published_settings(resolve(settings)))
    return hashlib.sha256(canonical_json(counted).encode()).hexdigest()[:12]


@pytest.mark.parametrize("row", DIGESTS)
def test_running_trainings_find_their_folders_after_an_update(row: str) -> None:
    assert digest({"config": row}) == DIGESTS[row]


def test_a_later_setting_changes_no_folder_while_it_means_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    config = published_settings(resolve({"config": "upernet_swin-nano_vspw"}))
    before = workdir.folder_for("work", config, {})
    monkeypatch.setitem(ABSENT, "mixup", None)
    for value, same in ((None, True), (0.5, False)):
        later = {**config, "training": {**config["training"], "mixup": value}}
        assert (workdir.folder_for("work", later, {}) == before) == same


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"val_interval": 100}, True),
        ({"val_interval": 100, "select": "best"}, False),
        ({"grad_checkpoint": True, "micro_batch": 2, "num_workers": 1}, True),
        ({"warmup_iters": 3}, False),
        ({"crop_size": [32, 32]}, False),
    ],
)
def test_what_counts(options: dict, same: bool) -> None:
    row = {"config": "mask2former_internimage-nano-h_vspw"}
    assert (digest({**row, "cfg_options": options}) == digest(row)) == same
    counted = result_settings({**row, "cfg_options": options})
    assert (counted == result_settings({**row, "cfg_options": {}})) == same


def test_a_folder_belongs_to_the_content_it_was_begun_with(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    first, second = {"train": "a" * 16}, {"train": "b" * 16}
    assert workdir.folder_for_content(folder, first) == folder  # begun before contents were noted
    workdir.note_content(folder, first)
    assert workdir.folder_for_content(folder, first) == folder
    other = workdir.folder_for_content(folder, second)
    assert other.parent == folder.parent and other.name.startswith(f"{folder.name}-")
    assert workdir.folder_for_content(folder, {}) == folder  # drawn data


def test_a_folder_belongs_to_the_classes_of_the_weights_it_was_begun_from(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    first, second = ("sky", "wall"), ("heaven", "wall")  # of one file of weights, whose class rows are copied by name
    assert workdir.folder_for_init_classes(folder, first) == folder  # begun before they were noted
    workdir.note_init_classes(folder, first)
    assert workdir.folder_for_init_classes(folder, first) == folder
    other = workdir.folder_for_init_classes(folder, second)
    assert other.parent == folder.parent and other.name.startswith(f"{folder.name}-")
    assert workdir.folder_for_init_classes(folder, None) == folder  # no row is copied
