"""The pseudo stage: maps class scores to label maps, ignored where they are not certain, and writes an index of them.

The result is a prepared dataset like any other, with one split, train; a link leads to the images of the dataset that
was predicted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vss.configs.sections import PseudoSettings, read_pseudo_settings
from vss.core.codec import Planes
from vss.core.errors import UserError
from vss.core.files import JsonObject, sha256_of_file, write_json
from vss.core.index import Card, read_dataset, write_card, write_index
from vss.core.label_space import ignore_index
from vss.core.log import log, track
from vss.core.masks import MaskCoding
from vss.core.negatives import Negatives, negatives_path, write_negatives
from vss.ensemble.members import Member, MemberScores, open_members
from vss.ensemble.run import WeightedMean
from vss.pseudo.choice import Thresholds, certainty, shares_by_class
from vss.pseudo.negatives import ruled_out
from vss.submit.png import entry_name

_IMAGES, _MASKS = "images", "masks"


def pseudo(
    *,
    settings: JsonObject,
    scores: Sequence[Sequence[str | os.PathLike]] = (),
    index: str | os.PathLike,
    card: str | os.PathLike,
    out_index: str | os.PathLike,
    out_card: str | os.PathLike,
    summary: str | os.PathLike,
) -> None:
    """Writes pseudo-labels of a split's frames next to an index and a card of them.

    Frames of train that have a mask keep it and are left out. Of several predictions, the mean decides, and only where
    all of them agree. With `teacher: ema` the frames are listed without labels, which their training gives them.

    Args:
        settings: `pseudo_labels` of the schema.
        scores: for each prediction of `of` its `*.scores.h5`.
        index, card: the dataset that was predicted.
        out_index, out_card: of the pseudo-labelled dataset; label maps go into the folder masks next to them.
        summary: JSON to write: pixels, kept pixels and least certainty, by class.

    Raises:
        UserError: a mistake in the settings, no frame to label, or one that a prediction lacks.
    """
    chosen = read_pseudo_settings(settings, where="pseudo")
    table, dataset = read_dataset(index, card)
    if unknown := sorted(set(chosen.keep_of) - set(dataset.classes)):
        raise UserError(f"pseudo.keep_of: {unknown[0]!r} is no class of {dataset.name}")
    rows = _rows(table, chosen)
    if rows.empty:
        raise UserError(f"pseudo.split: every frame of {chosen.split!r} has a mask; there is nothing to label")
    folder = Path(out_index).parent
    if chosen.teacher == "ema":
        (folder / _MASKS).mkdir(parents=True, exist_ok=True)
        listed = rows.assign(split="train", image=[f"{_IMAGES}/{image}" for image in rows["image"]], mask="")
        _write_dataset(folder, listed, dataset, out_index, out_card)
        write_json(summary, {"classes": dataset.classes, "transductive": chosen.transductive, "frames": len(listed)})
        log(f"pseudo: {len(listed)} frames, which an average of the student will label")
        return
    keep = shares_by_class(chosen.keep, chosen.keep_of, dataset.classes)
    thresholds = Thresholds(len(dataset.classes), keep=keep, least=chosen.least, max_share=chosen.max_share)
    members = [Member(name) for name in chosen.of]
    with contextlib.ExitStack() as stack:
        opened = open_members(stack, members, scores)
        if list(opened[0].classes) != list(dataset.classes):
            raise UserError(f"pseudo.of: {chosen.of[0]} has other classes than {dataset.name}; name one of its models")
        source = _Source(WeightedMean(members, opened), opened, chosen.measure)

        # First the certainties of each class, over all frames; then what is kept of each frame.
        for _, labels, sure in source.read(rows, what="pseudo: count"):
            thresholds.count(labels, sure)
        found = thresholds.close()
        frames = source.read(rows, what="pseudo: write")
        listed = _write_masks(folder, rows, _chosen(frames, thresholds, with_negatives=chosen.negatives))

    _write_dataset(folder, listed, dataset, out_index, out_card)
    write_json(summary, {"classes": dataset.classes, "transductive": chosen.transductive, **found})
    share = sum(found["kept"]) / max(sum(found["pixels"]), 1)
    log(f"pseudo: {len(listed)} frames, {100 * share:.1f} % of their pixels kept")


class _Source:
    """Reads labels and certainties of frames from one or more predictions."""

    def __init__(self, mean: WeightedMean, opened: Sequence[MemberScores], measure: str) -> None:
        self._mean, self._opened, self._measure = mean, opened, measure

    def read(self, rows: pd.DataFrame, *, what: str) -> Iterator[tuple[Planes, np.ndarray, np.ndarray]]:
        """Yields (probabilities; labels [H, W], no class where predictions disagree; certainty [H, W])."""
        for row in track(list(rows.itertuples(index=False)), what=what):
            size = (row.height, row.width)
            planes: Planes = self._mean.read(row.video, row.frame, size=size)
            labels = planes.labels
            if len(self._opened) > 1:
                alike = [member.read(row.video, row.frame, size=size).labels == labels for member in self._opened]
                labels = np.where(np.all(alike, axis=0), labels, labels.dtype.type(ignore_index(labels.dtype)))
            yield planes, labels, certainty(planes, self._measure)


def _chosen(
    frames: Iterable[tuple[Planes, np.ndarray, np.ndarray]], thresholds: Thresholds, *, with_negatives: bool
) -> Iterator[tuple[np.ndarray, Negatives | None]]:
    """Yields of each frame the labels that are kept, and which classes the other pixels surely do not have."""
    for planes, labels, sure in frames:
        kept = thresholds.chosen(labels, sure)
        yield kept, ruled_out(planes, kept == ignore_index(kept.dtype)) if with_negatives else None


def _rows(table: pd.DataFrame, chosen: PseudoSettings) -> pd.DataFrame:
    """Returns the frames to label: every stride-th one of a video, those of train without a mask only."""
    rows = table[table["split"] == chosen.split]
    rows = rows[rows.groupby("video").cumcount() % chosen.stride == 0]
    return rows[rows["mask"] == ""] if chosen.split == "train" else rows


def _write_masks(folder: Path, rows: pd.DataFrame, kept: Iterator[tuple[np.ndarray, Negatives | None]]) -> pd.DataFrame:
    """Writes the label maps, next to each its negatives where there are any, and returns their rows of the index.

    The folder that holds them is named after their content, so that an index with the same digest has the same labels.
    """
    import cv2

    masks, digest = folder / _MASKS, hashlib.sha256()
    names: list[str] = []
    shutil.rmtree(masks, ignore_errors=True)
    for row, (labels, negatives) in zip(rows.itertuples(index=False), kept, strict=True):
        names.append(entry_name(row.video, row.frame))
        encoded = cv2.imencode(".png", labels)[1].tobytes()
        digest.update(f"{names[-1]} ".encode() + labels.tobytes())
        path = masks / "new" / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        if negatives is not None:
            write_negatives(negatives_path(path), negatives)
            digest.update(negatives.which.tobytes() + negatives.wrong.tobytes())
    content = digest.hexdigest()[:16]
    (masks / "new").rename(masks / content)
    listed: dict[str, Any] = {
        "split": "train",
        "image": [f"{_IMAGES}/{image}" for image in rows["image"]],
        "mask": [f"{_MASKS}/{content}/{name}" for name in names],
    }
    return rows.assign(**listed)


def _write_dataset(
    folder: Path, listed: pd.DataFrame, dataset: Card, out_index: str | os.PathLike, out_card: str | os.PathLike
) -> None:
    _link(folder / _IMAGES, Path(dataset.root))
    write_index(out_index, listed)
    write_card(out_card, _card(folder, dataset, out_index, len(listed)))


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve(), target_is_directory=True)


def _card(folder: Path, dataset: Card, index: str | os.PathLike, frames: int) -> Card:
    classes = len(dataset.classes)
    return Card(
        name=f"pseudo.{folder.name}",
        root=str(folder),
        classes=dataset.classes,
        label_map=[*range(classes), *[dataset.ignore_index] * (dataset.ignore_index + 1 - classes)],
        drawn=dataset.drawn,
        frames={"train": frames},
        sha256=sha256_of_file(index),
        space=dataset.label_space,
        colours=dataset.colours,
        coding=MaskCoding(bits=8 * dataset.label_dtype.itemsize),
    )
