"""The import stage: one shard of another system's prediction to the files that the infer stage writes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pandas as pd

from vss.configs.layouts import ImportSource, import_source
from vss.core import zip_folder
from vss.core.codec import Encoded, encode
from vss.core.errors import UserError
from vss.core.files import JsonObject, sha256_of_file, write_json
from vss.core.frames_file import go_on
from vss.core.index import Card, read_dataset, shard_rows
from vss.core.label_space import label_dtype
from vss.core.labels_file import LabelsWriter
from vss.core.log import log, track
from vss.core.scores_file import ScoresWriter
from vss.core.shards import shard_of
from vss.exchange.readers import (
    PredictionReader,
    ProbabilityReader,
    first_few,
    fitted_labels,
    fitted_probabilities,
    open_reader,
    refuse_missing,
    votes,
)
from vss.infer.outputs import CONFIG_SUFFIX, LABELS_SUFFIX, SCORES_SUFFIX, outputs_by_kind
from vss.infer.stream import WriteBehind, load_ahead

_WORKERS = 2  # frames read side by side


@dataclass(frozen=True)
class ImportedFrame:
    """One frame, ready to be written.

    Attributes:
        labels: [H, W] train ids of the dataset's label dtype.
        scores: its class probabilities, None where they are not requested.
        resized: whether it was of another size.
    """

    labels: np.ndarray
    scores: Encoded | None
    resized: bool


def import_prediction(
    *,
    settings: JsonObject,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    out: Sequence[str | os.PathLike],
) -> None:
    """Imports every frame of a shard and writes the prediction files, whole or not at all.

    Args:
        settings: {prediction: name, and the keys of a row of the config's `predictions`}; see `ImportSettings`.
        index, card: the prepared dataset.
        split, shard, shards: which frames; a shard without frames gives valid files without frames.
        out: one `*.labels.h5`, at most one `*.scores.h5`, and at most one `*.config.json`: what was imported, with a
            digest of the files' bytes, and when.

    Raises:
        UserError: a mistake in the settings; frames that are missing, damaged or of another size, files that belong to
            no frame, values that are no ids.
    """
    # What is imported, and which frames it has to have.
    files = outputs_by_kind(out, optional=(SCORES_SUFFIX, CONFIG_SUFFIX))
    row = {key: value for key, value in settings.items() if key != "prediction"}
    name = settings.get("prediction", files[LABELS_SUFFIX].parent.parent.name)
    source = import_source(row, where=f"import {name}")
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    what = f"import {name} {split} shard {shard} of {shards}"
    provenance = {
        "stage": "import",
        "settings": {"prediction": name, **row},
        "files": source.files.text,
        "index_sha256": dataset.sha256,
        "split": split,
        "shard": shard,
        "shards": shards,
    }
    with contextlib.ExitStack() as stack:
        header: dict[str, Any] = {"classes": dataset.classes, "provenance": provenance}
        # Refuse what is incomplete before anything is read: decoding a split takes minutes.
        reader = stack.enter_context(open_reader(source, dataset, split=split))
        refuse_missing(reader, zip(rows["video"], rows["frame"], strict=True), what=what)
        _check_extra(reader, source, table, dataset, shard=shard, shards=shards, what=what)

        # Read ahead and write behind, frame by frame in the index's order.
        labels_writer = stack.enter_context(LabelsWriter(files[LABELS_SUFFIX], **header))
        scores_writer = (
            stack.enter_context(ScoresWriter(files[SCORES_SUFFIX], **header)) if SCORES_SUFFIX in files else None
        )
        # A job that was killed goes on after the frames it had made, while the files are the same.
        files_read = [*_tables_of(source, split), *(reader.place((row.video, row.frame)) for row in rows.itertuples())]
        on_disk = dict.fromkeys((zip_folder.place_in_zip(file) or (file,))[0] for file in files_read)
        writers = [labels_writer] if scores_writer is None else [labels_writer, scores_writer]
        done = go_on(*writers, made_of=[index, card, *on_disk], what=what)
        left = [row for row in rows.itertuples(index=False) if (row.video, row.frame) not in done]
        writing = stack.enter_context(WriteBehind(waiting=4))

        def read(row: Any) -> ImportedFrame:
            return _read_frame(reader, source, row, len(dataset.classes), with_scores=scores_writer is not None)

        ready = load_ahead(left, read, workers=_WORKERS, ahead=2 * _WORKERS)
        resized = _count_resized(reader, source, [row for row in rows.itertuples() if (row.video, row.frame) in done])
        for row, frame in track(ready, what=what, total=len(left)):
            writing.put(labels_writer.write, row.video, row.frame, frame.labels)
            if scores_writer:
                writing.put(scores_writer.write_encoded, row.video, row.frame, frame.scores)
            resized += frame.resized
    if resized:
        log(f"{what}: {resized} of {len(rows)} frames were of another size and resized ({source.settings.resize})")
    if CONFIG_SUFFIX in files:
        distinct = dict.fromkeys(files_read)
        imported = {"files": len(distinct), "sha256": _digest(distinct), "resized": resized, "time": _now()}
        write_json(files[CONFIG_SUFFIX], {**provenance, "imported": imported})


def _check_extra(
    reader: PredictionReader,
    source: ImportSource,
    table: pd.DataFrame,
    dataset: Card,
    *,
    shard: int,
    shards: int,
    what: str,
) -> None:
    """Refuses files of no frame of the dataset, where the settings say so; every shard looks at its own videos.

    Raises:
        UserError: the first ones, and how many.
    """
    if source.settings.on_extra == "skip":
        return
    known = set(zip(table["video"], table["frame"], strict=True))
    # What the index lacks only because of problems is no mistake of the prediction.
    known |= {(item.video, item.frame) for item in dataset.left_out if item.frame}
    left_out = {item.video for item in dataset.left_out if not item.frame}
    extra = [
        place
        for place, video in reader.extra(known).items()
        if shard_of(video, shards) == shard and video not in left_out
    ]
    if extra:
        raise UserError(
            f"{what}: {len(extra)} predictions belong to no frame of the dataset: {first_few(extra)}; on_extra: skip"
            " passes over them"
        )


def _read_frame(
    reader: PredictionReader, source: ImportSource, row: Any, num_classes: int, *, with_scores: bool
) -> ImportedFrame:
    """Returns a frame at its image's size; with class scores where they are requested."""
    key, size, rule = (row.video, row.frame), (row.height, row.width), source.settings.resize
    where = reader.place(key)
    if not isinstance(reader, ProbabilityReader):
        found = reader.labels(key)
        labels = fitted_labels(found, size, rule, where=where)
        scores = votes(labels, source.settings.confidence, num_classes) if with_scores else None
        return ImportedFrame(labels, scores, found.shape != size)
    # Scores in our own form and of the right size are kept as they are.
    encoded = reader.encoded(key)
    if encoded is not None and encoded.labels.shape == size:
        return ImportedFrame(encoded.labels, encoded, resized=False)
    found = reader.probabilities(key)
    planes = fitted_probabilities(found, size, rule, where=where)
    labels = planes.argmax(axis=0).astype(label_dtype(num_classes))
    return ImportedFrame(labels, encode(planes, labels) if with_scores else None, found.shape[1:] != size)


def _count_resized(reader: PredictionReader, source: ImportSource, rows: Sequence[Any]) -> int:
    """Returns how many frames are stored in another size than their image's, of those that are not read again."""
    if source.settings.resize is None:
        return 0
    keys = [(row.video, row.frame) for row in rows]
    if isinstance(reader, ProbabilityReader):
        sizes = [reader.probabilities(key).shape[1:] for key in keys]
    else:
        sizes = [reader.labels(key).shape for key in keys]
    return sum(size != (row.height, row.width) for size, row in zip(sizes, rows, strict=True))


def _tables_of(source: ImportSource, split: str) -> list[str]:
    """Returns the files that are read besides the frames': the JSON of segments, the table of ids."""
    segments = [] if source.segments is None else [source.segments.path(split=split)]
    return segments + ([source.ids] if source.ids.endswith(".csv") else [])


def _digest(paths: Iterable[str]) -> str:
    """Returns the SHA-256 of the files' names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        inside = zip_folder.place_in_zip(path) is not None
        found = hashlib.sha256(zip_folder.read(path)).hexdigest() if inside else sha256_of_file(path)
        digest.update(f"{path} {found}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
