"""The infer stage: one model over one shard of videos, to label maps and, where an ensemble needs it, class scores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pandas as pd

from vss import codec, formats, progress
from vss.errors import UserError
from vss.infer.engine import Engine, Frame
from vss.infer.load import Plan, Weights, load_engine, read_plan, weight_files
from vss.infer.stream import WriteBehind, batches, load_ahead
from vss.infer.views import describe_views

_LABELS, _SCORES = ".labels.h5", ".scores.h5"
# Neighbouring frames whose views may share a forward on a GPU; each costs one accumulator of C x H x W float32.
_FRAMES_ON_GPU = 8

Item = TypeVar("Item")


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
    workers: int = 2,
    batch_frames: int | None = None,
    memory: int | None = None,
) -> None:
    """Predicts every frame of a shard and writes the prediction files, whole or not at all.

    The result depends on settings, weights and frames; on a CPU in float32 it is bit-equal whatever `workers`,
    `batch_frames`, `shard` and `shards` are.

    Args:
        settings: see `vss.infer.load.parse_settings`.
        weights: safetensors; several files are averaged first.
        config: the resolved config beside the weights.
        index, card: the prepared dataset.
        split, shard, shards: which frames; a shard without frames gives valid files without frames.
        out: one `*.labels.h5` and at most one `*.scores.h5`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: threads that decode and resize, and as many that encode class scores.
        batch_frames: neighbouring frames handed to the engine at once; None = 1 on a CPU, 8 on a GPU.
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
        frames = predictions(
            engine,
            list(rows.itertuples(index=False)),
            lambda row: _read_frame(Path(dataset.root), row),
            with_probabilities=scores_file is not None,
            workers=workers,
            batch_frames=batch_frames,
        )
        encoders = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="encode"))
        writing = stack.enter_context(WriteBehind(waiting=2 + workers))
        for row, labels, probabilities in progress.track(frames, what=what, total=len(rows)):
            writing.put(labels_writer.write, row.video, row.frame, labels)
            if scores_writer:
                encoded = encoders.submit(codec.encode, probabilities, labels)
                writing.put(_write_encoded, scores_writer, row.video, row.frame, encoded)


def _write_encoded(writer: formats.ScoresWriter, video: str, frame: str, encoded: Future[codec.Encoded]) -> None:
    writer.write_encoded(video, frame, encoded.result())


def predictions(
    engine: Engine,
    items: Iterable[Item],
    read: Callable[[Item], np.ndarray],
    *,
    with_probabilities: bool = False,
    workers: int = 2,
    batch_frames: int | None = None,
) -> Iterator[tuple[Item, np.ndarray, np.ndarray | None]]:
    """Yields (item, labels [H, W] uint8, probabilities [C, H, W] float32 or None) in the order of `items`.

    Args:
        engine: what predicts.
        items: one a frame.
        read: decodes an item to [H, W, 3] uint8 RGB; called in background threads, ahead of the network.
        with_probabilities: whether to return them.
        workers, batch_frames: see `infer`.

    Raises:
        UserError: the model returned inf or nan for a frame.
    """
    cv2.setNumThreads(1)  # frames are resized side by side; each on its own thread
    size = batch_frames or (1 if engine.device.type == "cpu" else _FRAMES_ON_GPU)
    loaded = load_ahead(items, lambda item: engine.resize(read(item)), workers=workers, ahead=size + workers)
    for batch in batches(loaded, size=size, key=_frame_size):
        found = engine.predict([frame for _, frame in batch], with_probabilities=with_probabilities)
        labels, finite = found.labels.cpu().numpy(), found.finite.cpu().numpy()
        for position, (item, _) in enumerate(batch):
            if not finite[position]:
                raise UserError(f"{_name(item)}: the model returned inf or nan; check its weights and precision")
            probabilities = found.probabilities[position].cpu().numpy() if with_probabilities else None
            yield item, labels[position], probabilities


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


def _frame_size(loaded: tuple[Any, Frame]) -> tuple[int, int]:
    return loaded[1].size


def _name(item: Any) -> str:
    return f"video {item.video!r}, frame {item.frame!r}" if hasattr(item, "video") else str(item)
