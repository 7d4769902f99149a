"""How much a run will write, roughly, before it starts: trainings' states and weights, class scores, label maps."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path

from vss.configs.table import COUNTED
from vss.core.dataset_layout import count_images
from vss.core.files import read_json
from vss.workflow.plan import Plan

# Bytes per pixel, measured on real predictions: class scores take 0.22 to 0.26 MB per frame of 480x853 pixels
# (docs/scores.md), a label map 5 kB per 480x360 pixels.
_SCORES, _LABELS = 260_000 / (480 * 853), 5_000 / (480 * 360)
_FRAME_PIXELS = 480 * 853
_ROWS_LOOKED_AT = 500  # of an index, for the size of its frames
# Bytes per parameter, float32: weights; a checkpoint holds AdamW's two moments as well. Two checkpoints are kept
# while a third is written.
_WEIGHTS, _CHECKPOINTS = 4, 3 * 12


def bytes_needed(plan: Plan) -> tuple[int, int]:
    """Returns the bytes that a run from scratch writes below `work` and below `results`.

    Frames and their size are those of the prepared dataset, or where there is none the folders', taken for 480x853.
    Drawn data that have not been prepared count as nothing: they are small. Imported predictions are written like any
    other.

    Args:
        plan: of the run.
    """
    parameters = sum(map(_parameters, _rows(plan)))
    predictions = sum(_bytes_of_predictions(plan.on(dataset)) for dataset in plan.scored_datasets())
    return (_WEIGHTS + _CHECKPOINTS) * parameters, _WEIGHTS * parameters + predictions


def _bytes_of_predictions(plan: Plan) -> int:
    """Returns the bytes of the label maps and class scores of one dataset."""
    frames = _frames(plan)
    scored, submitted = frames.get(plan.split, 0), frames.get("test", 0)
    labels = len(_with_sources(plan, plan.scored())) * scored + len(_with_sources(plan, plan.submitted())) * submitted
    # What is submitted is predicted on test as well, and so are the members of an ensemble that is.
    scores = len(plan.with_scores()) * (scored + (submitted if plan.submitted() else 0))
    return round(_frame_pixels(plan) * (_SCORES * scores + _LABELS * labels))


def _rows(plan: Plan) -> list[str]:
    return [
        plan.models[model].training(stage).config for stage, model in (name.split("/") for name in plan.trainings())
    ]


def _parameters(row: str) -> int:
    return read_json(COUNTED)[row]["parameters"]


def _with_sources(plan: Plan, predictions: Iterable[str]) -> set[str]:
    """Returns the predictions, what they are refinements of, and members of ensembles: each is a set of label maps."""
    found: set[str] = set()
    for name in predictions:
        found.add(name)
        while (refined := plan.refinement(name)) is not None:
            name = refined[0]
            found.add(name)
        found.update(plan.members(name) if name in plan.ensembles else ())
    return found


def _frame_pixels(plan: Plan) -> float:
    """Returns the pixels of a frame of the predicted dataset, by the first ones of its index."""
    index = Path(plan.config.results, "prepare", plan.dataset, "index.csv")
    if not index.is_file():
        return _FRAME_PIXELS
    with open(index, encoding="utf-8", newline="") as file:
        rows = list(itertools.islice(csv.DictReader(file), _ROWS_LOOKED_AT))
    return sum(int(row["height"]) * int(row["width"]) for row in rows) / max(len(rows), 1)


def _frames(plan: Plan) -> dict[str, int]:
    """Returns the number of frames of the predicted dataset by split."""
    card = Path(plan.config.results, "prepare", plan.dataset, "dataset.json")
    if card.is_file():
        return read_json(card)["frames"]
    row = plan.datasets[plan.dataset]
    return {} if row.root is None else {split: count_images(row.layout, row.root, split) for split in row.layout.splits}
