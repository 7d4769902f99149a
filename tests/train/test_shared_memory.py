"""Shared memory that loading processes need is known before the start."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from vss.configs.resolve import published_settings, resolve
from vss.configs.resolved import read_training_config
from vss.core.errors import UserError
from vss.train import shared_memory

TRAINING = replace(
    read_training_config(published_settings(resolve({"config": "upernet_swin-l_vspw"}))).training, batch_size=8
)
BATCH = 8 * 480 * 853 * 11  # three bytes of RGB, eight of the label


def test_every_batch_that_can_be_on_its_way_counts() -> None:
    assert shared_memory.bytes_needed(TRAINING, processes=1) == (4 * 2 + 1) * BATCH
    assert shared_memory.bytes_needed(TRAINING, processes=2) == 2 * (4 * 2 + 1) * BATCH // 2


@pytest.mark.parametrize(("free", "workers", "fits"), [(64, 4, False), (64, 0, True), (400, 4, True), (400, 8, False)])
def test_docker_s_64_mb_are_refused_before_the_start(
    monkeypatch: pytest.MonkeyPatch, free: int, workers: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free * 2**20))
    training = replace(TRAINING, num_workers=workers)
    if fits:
        shared_memory.check_shared_memory(training, processes=1)
        return
    with pytest.raises(UserError, match=r"/dev/shm: \d+ MiB are free, .*--shm-size=\d+m .* num_workers: 0"):
        shared_memory.check_shared_memory(training, processes=1)
