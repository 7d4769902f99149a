"""All that a report shows, as its page, its tables and its machine-readable copy take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vss.core.files import JsonObject
from vss.core.index import Card
from vss.report.ablation import Lever
from vss.report.costs import StageCost
from vss.report.lead import Remark
from vss.report.overlays import FrameRow
from vss.report.ranks import Rank
from vss.report.table import ReportRow
from vss.report.viewer import Places, Video


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that a report shows.

    Attributes:
        title: of the page.
        split: that was scored.
        card: of the dataset.
        remarks: what stands before the figures.
        table: as `score_table` returns it.
        not_run: rows of the paper that no prediction stands for.
        best: the prediction with the highest mIoU.
        ranks: the predictions by mIoU.
        reliability: `reliability` of scores.json, by prediction, of those whose class scores were scored.
        refinements: see `vss.report.refinement.refinements`.
        ablation: see `vss.report.ablation.ablation_rows`.
        members: as `members_table` returns it.
        searches: what it was made of: results of `vss search` by ensemble.
        per_class: rows of per_class.csv by prediction.
        confusions: see `vss.score.bootstrap.load_confusions`, by prediction.
        logs: training logs by title.
        trainings: see `vss.report.trainings.training_rows`.
        costs: of every stage.
        seconds: per frame, by prediction; NaN where unknown.
        made: see `vss.report.made.what_was_run`.
        frames: shown as overlays.
        shown: predictions that the overlays and the viewer show.
        videos: that the viewer plays.
        places: in the viewer.
    """

    title: str
    split: str
    card: Card
    remarks: Sequence[Remark]
    table: pd.DataFrame
    not_run: Sequence[ReportRow]
    best: str
    ranks: Sequence[Rank]
    reliability: Mapping[str, list[dict[str, float]]]
    refinements: list[dict[str, Any]]
    ablation: Sequence[Lever]
    members: pd.DataFrame
    searches: Mapping[str, JsonObject]
    per_class: Mapping[str, pd.DataFrame]
    confusions: Mapping[str, np.ndarray]
    logs: Mapping[str, pd.DataFrame]
    trainings: list[dict[str, Any]]
    costs: Sequence[StageCost]
    seconds: Mapping[str, float]
    made: JsonObject
    frames: Sequence[FrameRow]
    shown: Sequence[str]
    videos: Sequence[Video]
    places: Places
