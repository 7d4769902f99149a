"""Masks that changed after the dataset was listed are checked, and the card says what they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raw_dataset import FRAMES, RawVspw, save_image, save_mask
from vss.core.errors import UserError
from vss.core.index import read_card
from vss.prepare.recheck import check_masks


def test_a_changed_mask_changes_the_card_of_its_split_alone(vspw: RawVspw, run_prepare, tmp_path: Path) -> None:
    prepared = run_prepare(vspw.root)
    save_mask(vspw.mask("v0", FRAMES[0]), 3)
    for split in ("train", "val"):
        check_masks(index=prepared.index, card=prepared.card, split=split, out=tmp_path / f"{split}.json")
    before, train, val = (read_card(path) for path in (prepared.card, tmp_path / "train.json", tmp_path / "val.json"))
    assert train.content == {"train": before.content["train"]}
    assert val.content["val"] != before.content["val"]
    assert (val.root, val.label_map, val.sha256) == (before.root, before.label_map, before.sha256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: save_mask(raw.mask("v0", FRAMES[1]), 200), "mask/00000009.png: label_value: 200 on 768 pixels"),
        (lambda raw: save_mask(raw.mask("v0", FRAMES[1]), 1, (8, 8)), "mask_size: 8x8, image 32x24"),
        (lambda raw: raw.mask("v0", FRAMES[1]).write_bytes(b"GIF89a"), "mask_broken"),
        (lambda raw: raw.mask("v0", FRAMES[1]).unlink(), "mask_broken: no such file"),
        (lambda raw: save_image(raw.image("v0", FRAMES[1]), (8, 8)), "is 8x8, the index says 32x24"),
        (lambda raw: [save_mask(raw.mask("v0", frame), 0) for frame in FRAMES], "split_unlabelled"),
    ],
)
def test_what_changed_and_cannot_be_used_is_named(vspw: RawVspw, run_prepare, tmp_path: Path, change, words) -> None:
    prepared = run_prepare(vspw.root)
    change(vspw)
    with pytest.raises(UserError, match="files of val have changed and cannot be used") as caught:
        check_masks(index=prepared.index, card=prepared.card, split="val", out=tmp_path / "val.json")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "val.json").exists()


def test_drawn_data_are_what_their_settings_say(run_prepare, tmp_path: Path) -> None:
    prepared = run_prepare(None)
    check_masks(index=prepared.index, card=prepared.card, split="val", out=tmp_path / "val.json")
    assert read_card(tmp_path / "val.json") == read_card(prepared.card)
