"""Scoring of tiny videos given as arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_dataset import write_dataset, write_labels

from vss.core.files import read_json
from vss.core.index import shard_of
from vss.score.shard import score_shard
from vss.score.summary import summarise

Videos = Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True)
class Scored:
    """What the score stage wrote."""

    scores: dict[str, Any]
    per_class: pd.DataFrame
    per_video: pd.DataFrame


@pytest.fixture
def score(tmp_path: Path):
    """Returns score(raw_masks, labels, shards=1, **score_shard's): both kinds are video -> list of [H, W] uint8."""
    numbers = itertools.count()

    def run(masks: Videos, labels: Videos, *, shards: int = 1, **settings) -> Scored:
        folder = tmp_path / str(next(numbers))
        images = settings.pop("images", None)
        dataset = write_dataset(folder, masks, images=images, unlabelled=settings.pop("unlabelled", ()))
        parts = []
        for shard in range(shards):
            mine = {video: frames for video, frames in labels.items() if shard_of(video, shards) == shard}
            predictions = write_labels(folder / f"{shard}.labels.h5", mine)
            parts.append(folder / f"{shard}.npz")
            score_shard(
                labels=predictions, index=dataset.index, card=dataset.card, split="val",
                shard=shard, shards=shards, out=parts[-1], **settings,
            )  # fmt: skip
        out = [folder / name for name in ("scores.json", "per_class.csv", "per_video.csv")]
        summarise(shards=parts, card=dataset.card, scores=out[0], per_class=out[1], per_video=out[2])
        return Scored(read_json(out[0]), *(pd.read_csv(path, dtype={"video": str}) for path in out[1:]))

    return run
