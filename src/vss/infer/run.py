"""The infer stage: one model over one shard of videos, to label maps and, where an ensemble needs it, class scores."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vss.core import codec
from vss.core.errors import UserError
from vss.core.files import JsonObject, read_json, write_json
from vss.core.frames_file import go_on
from vss.core.images import read_image
from vss.core.index import Card, read_dataset, shard_rows
from vss.core.labels_file import LabelsWriter
from vss.core.log import log, track
from vss.core.scores_file import ScoresWriter
from vss.infer.estimate import check_inference
from vss.infer.load import InferencePlan, load_engine, read_plan
from vss.infer.outputs import CONFIG_SUFFIX, LABELS_SUFFIX, SCORES_SUFFIX, outputs_by_kind
from vss.infer.predictions import FrameCallbacks, predictions
from vss.infer.stream import WriteBehind
from vss.infer.views import describe_views
from vss.weights.fingerprint import sha256_of_weights


def infer(
    *,
    settings: JsonObject,
    weights: str | os.PathLike,
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
        settings: `infer_job` of the schema.
        weights: safetensors. A fingerprint in the same folder is compared.
        config: the resolved config next to the weights.
        index, card: the prepared dataset.
        split, shard, shards: which frames; a shard without frames gives valid files without frames.
        out: one `*.labels.h5`, at most one `*.scores.h5`, and at most one `*.config.json`: the resolved config of the
            run (what the files' provenance says, with every view's realised size, and the model's config).
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers, batch_frames: see `vss.infer.predictions.predictions`.
        memory: bytes a GPU forward may use; None = most of what is free.

    Raises:
        UserError: a mistake in settings or files, a model that returns inf or nan, or a frame that cannot fit into
            memory; that is found before the weights are read.
    """
    files = outputs_by_kind(out, optional=(SCORES_SUFFIX, CONFIG_SUFFIX))
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    plan = read_plan(config, settings, device)
    what = f"infer {plan.prediction or Path(config).parent.name} {split} shard {shard} of {shards}"
    where = {"split": split, "shard": shard, "shards": shards}

    # What cannot fit into memory is refused before the weights are read.
    if len(rows):
        sizes = dict(collections.Counter(zip(rows["height"], rows["width"], strict=True)))
        at_once = {"workers": workers, "batch_frames": batch_frames}
        at_once = check_inference(plan, sizes, what=what, with_probabilities=SCORES_SUFFIX in files, **at_once)

    # Predict; a thread writes what is finished.
    provenance = _provenance(plan, settings, weights, rows, dataset) | where
    with contextlib.ExitStack() as stack:
        header: dict[str, Any] = {"classes": list(plan.config.classes or dataset.classes), "provenance": provenance}
        labels_writer = stack.enter_context(LabelsWriter(files[LABELS_SUFFIX], **header))
        scores_writer = None
        if SCORES_SUFFIX in files:
            scores_writer = stack.enter_context(ScoresWriter(files[SCORES_SUFFIX], **header))
        done = go_on(*filter(None, [labels_writer, scores_writer]), made_of=(weights, config, index, card), what=what)
        frames = [row for row in rows.itertuples(index=False) if (row.video, row.frame) not in done]
        if not frames:
            log(f"{what}: no frames{' left' if done else ''}")
        else:
            engine = load_engine(plan, weights, memory=memory)
            callbacks = _callbacks(Path(dataset.root), with_scores=scores_writer is not None)
            found = predictions(engine, frames, callbacks, **at_once)
            writing = stack.enter_context(WriteBehind(waiting=4))
            for row, (labels, encoded) in track(found, what=what, total=len(frames)):
                writing.put(labels_writer.write, row.video, row.frame, labels)
                if scores_writer:
                    writing.put(scores_writer.write_encoded, row.video, row.frame, encoded)

    # Last, so that it stands for files that are whole.
    if CONFIG_SUFFIX in files:
        model = {key: value for key, value in read_json(config).items() if key != "training"}
        write_json(files[CONFIG_SUFFIX], {**provenance, "config": model})


def _callbacks(root: Path, *, with_scores: bool) -> FrameCallbacks:
    return FrameCallbacks(
        read=lambda row: _read_frame(root, row),
        finish=labels_and_scores if with_scores else labels_only,
        name=lambda row: f"video {row.video!r}, frame {row.frame!r}",
        with_probabilities=with_scores,
    )


def labels_only(row: Any, labels: np.ndarray, probabilities: None) -> tuple[np.ndarray, None]:
    """Finishes a frame of which only the label map is kept."""
    return labels, None


def labels_and_scores(row: Any, labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, codec.Encoded]:
    """Finishes a frame of which class scores are kept as well: encodes them."""
    return labels, codec.encode(probabilities, labels)


def _provenance(
    plan: InferencePlan, settings: JsonObject, weights: str | os.PathLike, rows: pd.DataFrame, dataset: Card
) -> dict[str, Any]:
    sizes = sorted({(row.height, row.width) for row in rows.itertuples()})
    return {
        "stage": "infer",
        "settings": dict(settings),
        "row": plan.config.row,
        "weights_sha256": [sha256_of_weights(weights)],
        "index_sha256": dataset.sha256,
        "protocol": plan.protocol,
        "precision": plan.precision,
        "device": plan.device_name,
        "tta": asdict(plan.tta),
        "views": {f"{h}x{w}": describe_views(h, w, plan.tta, plan.protocol) for h, w in sizes},
    }


def _read_frame(root: Path, row: Any) -> np.ndarray:
    path = root / row.image
    image = read_image(path)
    if image.shape[:2] != (row.height, row.width):
        raise UserError(
            f"{path}: is {image.shape[1]}x{image.shape[0]}, the index says {row.width}x{row.height}; run prepare again"
        )
    return image
