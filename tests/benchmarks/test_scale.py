"""The dummy dataset of the release's number of files, and the config that is planned on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import VSPW, draw_dummy, dummy_config, jobs_planned
from vss import configs
from vss.workflow.config import read_config
from vss.workflow.plan import Plan


def test_a_dummy_has_links_for_frames_and_no_masks_in_test(tmp_path: Path) -> None:
    frames = draw_dummy(tmp_path / "vspw", share=0.003)
    images, masks = list(tmp_path.glob("vspw/data/*/origin/*.jpg")), list(tmp_path.glob("vspw/data/*/mask/*.png"))
    assert len(images) == frames == sum(round(0.003 * count) for _, count in VSPW.values())
    assert len(masks) == frames - round(0.003 * VSPW["test"][1])
    assert images[0].stat().st_nlink == frames + 1
    assert len((tmp_path / "vspw/val.txt").read_text().splitlines()) == round(0.003 * VSPW["val"][0])


@pytest.mark.parametrize(("shards", "predictions", "scored"), [(None, None, 13), (200, 7, 7)])
def test_the_config_is_the_paper_s_or_of_a_size(
    tmp_path: Path, shards: int | None, predictions: int | None, scored: int
) -> None:
    draw_dummy(tmp_path / "vspw", share=0.003)
    config = dummy_config(tmp_path, shards=shards, predictions=predictions)
    plan = Plan(read_config(config), row_names=configs.names())
    assert len(plan.scored()) == scored and len(plan.shards("val")) == (shards or 32)


def test_jobs_are_read_off_a_dry_run() -> None:
    assert jobs_planned("job    count\n-----  -----\nall   1\ntotal    1026\n") == 1026
    assert jobs_planned("Nothing to be done") == 0
