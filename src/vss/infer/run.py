"""The infer stage: one model over one shard of videos, to label maps and, where an ensemble needs it, class scores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vss import codec, formats, progress
from vss.errors import UserError
from vss.infer.load import Plan, Weights, load_engine, read_plan, weight_files
from vss.infer.predictions import Job, predictions
from vss.infer.stream import WriteBehind
from vss.infer.views import describe_views

_LABELS, _SCORES = ".labels.h5", ".scores.h5"


def infer(
    *,
    settings: Mapping[str, Any],
    weights: Weights,
    config: str | os.PathLike,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    out: Sequence[str | os.PathLike],
    device: str = "auto",
    workers: int | None = None,
    batch_frames: int | None = None,
    memory: int | None = None,
) -> None:
    """Predicts every frame of a shard and writes the prediction files, whole or not at all.

    The result depends on settings, weights and frames. On a CPU in float32 it is bit-equal whatever `workers`,
    `shards`, the order of frames and the number of torch's threads are.

    Args:
        settings: see `vss.infer.load.read_plan`.
        weights: safetensors; several files are averaged first.
        config: the resolved config beside the weights.
        index, card: the prepared dataset.
        split, shard, shards: which frames; a shard without frames gives valid files without frames.
        out: one `*.labels.h5` and at most one `*.scores.h5`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers, batch_frames: see `vss.infer.predictions.predictions`.
        memory: bytes a GPU forward may use; None = most of what is free.

    Raises:
        UserError: a mistake in settings or files, or a model that returns inf or nan.
    """
    labels_file, scores_file = _outputs(out)
    rows = formats.shard_rows(formats.read_index(index), split=split, shard=shard, shards=shards)
    dataset = formats.read_card(card)
    plan = read_plan(config, settings, device)
    what = f"infer {settings.get('prediction', Path(config).parent.name)} {split} shard {shard} of {shards}"
    provenance = _provenance(plan, settings, weights, rows, dataset) | {
        "split": split,
        "shard": shard,
        "shards": shards,
    }
    with contextlib.ExitStack() as stack:
        header = {"classes": plan.config.get("classes", dataset.classes), "provenance": provenance}
        labels_writer = stack.enter_context(formats.LabelsWriter(labels_file, **header))
        scores_writer = stack.enter_context(formats.ScoresWriter(scores_file, **header)) if scores_file else None
        if not len(rows):
            progress.say(f"{what}: no frames")
            return
        engine = load_engine(plan, weights, memory=memory)
        job = Job(
            read=lambda row: _read_frame(Path(dataset.root), row),
            finish=_labels_and_scores if scores_writer else _labels_only,
            name=lambda row: f"video {row.video!r}, frame {row.frame!r}",
            with_probabilities=scores_writer is not None,
        )
        frames = list(rows.itertuples(index=False))
        found = predictions(engine, frames, job, workers=workers, batch_frames=batch_frames)
        writing = stack.enter_context(WriteBehind(waiting=4))
        for row, (labels, encoded) in progress.track(found, what=what, total=len(frames)):
            writing.put(labels_writer.write, row.video, row.frame, labels)
            if scores_writer:
                writing.put(scores_writer.write_encoded, row.video, row.frame, encoded)


def _labels_only(row: Any, labels: np.ndarray, probabilities: None) -> tuple[np.ndarray, None]:
    return labels, None


def _labels_and_scores(row: Any, labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, codec.Encoded]:
    return labels, codec.encode(probabilities, labels)


def _outputs(out: Sequence[str | os.PathLike]) -> tuple[Path, Path | None]:
    """Returns the label file and the score file or None."""
    by_kind: dict[str, list[Path]] = {_LABELS: [], _SCORES: []}
    for path in map(Path, out):
        kind = next((suffix for suffix in by_kind if path.name.endswith(suffix)), None)
        if kind is None:
            raise UserError(f"{path}: unknown kind of output, allowed: *{_LABELS}, *{_SCORES}")
        by_kind[kind].append(path)
    if len(by_kind[_LABELS]) != 1 or len(by_kind[_SCORES]) > 1:
        raise UserError(f"out: found {[str(p) for p in out]}, expected one *{_LABELS} and at most one *{_SCORES}")
    return by_kind[_LABELS][0], next(iter(by_kind[_SCORES]), None)


def _provenance(
    plan: Plan, settings: Mapping[str, Any], weights: Weights, rows: pd.DataFrame, dataset: formats.Card
) -> dict[str, Any]:
    sizes = sorted({(row.height, row.width) for row in rows.itertuples()})
    return {
        "stage": "infer",
        "settings": dict(settings),
        "row": plan.config.get("row"),
        "weights_sha256": [formats.sha256_of_file(path) for path in weight_files(weights)],
        "index_sha256": dataset.sha256,
        "protocol": plan.protocol,
        "precision": plan.precision,
        "device": plan.device_name,
        "views": {f"{h}x{w}": describe_views(h, w, plan.tta, plan.protocol) for h, w in sizes},
    }


def _read_frame(root: Path, row: Any) -> np.ndarray:
    path = root / row.image
    image = formats.read_image(path)
    if image.shape[:2] != (row.height, row.width):
        raise UserError(
            f"{path}: is {image.shape[1]}x{image.shape[0]}, the index says {row.width}x{row.height}; run prepare again"
        )
    return image
