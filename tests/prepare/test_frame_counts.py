"""The pixels of each class by frame: counted by the prepare stage, or where it did not, when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.raw_dataset import Prepared, RawVspw, save_mask
from vss.core.dataset_content import dataset_content
from vss.core.dataset_layout import DatasetLayout
from vss.core.index import read_card
from vss.prepare.frame_counts import NAME, ClassPixels, class_pixels


def counted(done: Prepared, split: str = "train") -> ClassPixels:
    card = read_card(done.card)
    content = dataset_content(DatasetLayout.from_json(card.layout, where=""), card.root)
    return class_pixels(done.index, done.card, split=split, content=content, what="test")


def test_counts_are_those_of_the_masks_in_the_order_of_the_index(
    vspw: RawVspw, run_prepare: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    half = np.ones((24, 32))
    half[:, 16:] = 124
    save_mask(vspw.mask("t1", "00000001"), half)
    save_mask(vspw.mask("t0", "00000017"), 255)
    done = run_prepare(vspw.root)
    capsys.readouterr()
    found = counted(done)
    assert "counting" not in capsys.readouterr().err
    assert found.num_frames == 6
    entries = list(zip(found.frame.tolist(), found.train_id.tolist(), found.pixels.tolist(), strict=True))
    # t0: 1, 9, 17 (all void); t1: 1 (two classes), 9, 17.
    assert entries == [(0, 0, 768), (1, 0, 768), (3, 0, 384), (3, 123, 384), (4, 0, 768), (5, 0, 768)]


@pytest.mark.parametrize("how", ["absent", "damaged", "fast", "changed"])
def test_what_was_not_counted_is_counted_when_needed(
    vspw: RawVspw, run_prepare: Callable, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    done = run_prepare(vspw.root)
    file = Path(done.index).with_name(NAME)
    if how == "absent":
        file.unlink()
    elif how == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    elif how == "fast":
        run_prepare(vspw.root, checks="fast")
        assert not file.exists()
    else:
        save_mask(vspw.mask("t0", "00000001"), 5)
    capsys.readouterr()
    found = counted(done)
    assert "counting them in 6 masks" in capsys.readouterr().err
    assert found.pixels.tolist() == [768] * 6
    assert found.train_id.tolist() == [4 if how == "changed" else 0, 0, 0, 0, 0, 0]
