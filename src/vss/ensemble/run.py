"""The ensemble stage: a weighted mean over members in probability space, one frame in memory at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from vss.core.codec import Planes
from vss.core.errors import UserError
from vss.core.files import JsonObject, sha256_of_file
from vss.core.frames_file import go_on
from vss.core.index import read_index, shard_rows
from vss.core.label_space import label_dtype
from vss.core.labels_file import LabelsWriter
from vss.core.log import log, track
from vss.core.scores_file import ScoresWriter
from vss.ensemble.members import Member, MemberScores, chosen_members, open_members, read_settings
from vss.infer.outputs import LABELS_SUFFIX, SCORES_SUFFIX, outputs_by_kind


def ensemble(
    *,
    settings: JsonObject,
    scores: Sequence[Sequence[str | os.PathLike]],
    index: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    out: Sequence[str | os.PathLike],
    chosen: str | os.PathLike | None = None,
) -> None:
    """Averages the members' stored class probabilities over one shard of videos.

    Frames are paired by (video, frame). Only one member's frame is decoded at a time. The order of the members changes
    nothing, to the bit.

    Args:
        settings: `ensemble_job` of the schema.
        scores: for each member its `*.scores.h5`; files that hold more than this shard's frames are welcome, so
            members may have other shard counts.
        index: the prepared dataset's index; its frame sizes are the sizes of the result.
        split, shard, shards: which frames; a shard without frames gives valid files without frames.
        out: one `*.labels.h5` and at most one `*.scores.h5`.
        chosen: result of a search, whose weights and temperatures replace those of the settings.

    Raises:
        UserError: a mistake in the settings, a frame that a member lacks, members that score other classes.
    """
    files = outputs_by_kind(out, optional=(SCORES_SUFFIX,))
    given = read_settings(settings)
    members = given.members if chosen is None else chosen_members(given.members, chosen)
    rows = shard_rows(read_index(index), split=split, shard=shard, shards=shards)
    what = f"ensemble {given.prediction or files[LABELS_SUFFIX].parent.name} {split} shard {shard} of {shards}"
    with contextlib.ExitStack() as stack:
        mean = WeightedMean(members, open_members(stack, members, scores))
        provenance = {
            "stage": "ensemble",
            "settings": dict(settings),
            "members": [asdict(member) for member in members],
            "index_sha256": sha256_of_file(index),
            "split": split,
            "shard": shard,
            "shards": shards,
        }
        kept: dict[str, Any] = {"classes": mean.classes, "provenance": provenance}
        labels_out = stack.enter_context(LabelsWriter(files[LABELS_SUFFIX], **kept))
        scores_out = stack.enter_context(ScoresWriter(files[SCORES_SUFFIX], **kept)) if SCORES_SUFFIX in files else None
        log(f"{what}: {len(rows)} frames, {len(members)} members, on the CPU")
        made_of = [index, *(path for files in scores for path in files)]
        done = go_on(*filter(None, [labels_out, scores_out]), made_of=made_of, what=what)
        left = [row for row in rows.itertuples(index=False) if (row.video, row.frame) not in done]
        for row in track(left, what=what):
            planes = mean.read(row.video, row.frame, size=(row.height, row.width))
            labels_out.write(row.video, row.frame, planes.labels)
            if scores_out:
                scores_out.write(row.video, row.frame, planes.dense(), planes.labels)


class WeightedMean:
    """The ensemble as one more source of class probabilities.

    Args:
        members: weights and temperatures.
        opened: their files, in the same order.
    """

    def __init__(self, members: Sequence[Member], opened: Sequence[MemberScores]) -> None:
        self.classes = opened[0].classes
        pairs = sorted(zip(members, opened, strict=True), key=lambda pair: pair[0].name)
        weights = np.array([[m.weight * m.class_weights.get(c, 1) for c in self.classes] for m, _ in pairs])  # [M, C]
        total = weights.sum(axis=0)
        if not total.all():
            raise UserError(f"members: all weights of class {self.classes[int(np.argmin(total))]!r} are 0")
        self._weights = (weights / total).astype(np.float32)
        self._per_class = any(m.class_weights for m in members)
        self._pairs = pairs

    def read(self, video: str, frame: str, *, size: tuple[int, int]) -> Planes:
        """Returns the mean probabilities of a frame at `size` = (H, W).

        Raises:
            UserError: a member has no such frame.
        """
        num_classes = len(self.classes)
        if self._per_class:
            classes = np.arange(num_classes)
        else:
            classes = np.unique(np.concatenate([o.classes_of(video, frame) for m, o in self._pairs if m.weight]))
        total = np.zeros((len(classes) + 1, *size), np.float32)
        for (member, scores), weights in zip(self._pairs, self._weights, strict=True):
            if member.weight:
                planes = scores.read(video, frame, size=size, temperature=member.temperature)
                _add(total, classes, planes, weights)
        labels = _argmax(total, classes, num_classes)
        if self._per_class:
            total /= total[:-1].sum(axis=0)
        return Planes(classes.astype(label_dtype(num_classes)), total[:-1], total[-1], labels, num_classes)


def _add(total: np.ndarray, classes: np.ndarray, planes: Planes, weights: np.ndarray) -> None:
    """Adds a member's weighted probabilities to [A + 1, H, W], whose last plane is that of every class not listed."""
    plane_of = dict(zip(planes.classes.tolist(), planes.planes, strict=True))
    scratch = np.empty_like(planes.rest)
    for slot, c in zip(total, classes.tolist(), strict=False):
        np.multiply(plane_of.get(c, planes.rest), weights[c], out=scratch)
        slot += scratch
    if len(classes) < len(weights):
        unlisted = np.setdiff1d(np.arange(len(weights)), classes)[0]  # all have the same weight
        total[-1] += planes.rest * weights[unlisted]


def _argmax(stack: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the class of the highest plane of [A + 1, H, W] as a label map [H, W]; a tie goes to the lower class."""
    best = stack[0].copy()
    dtype = label_dtype(num_classes)
    labels = np.full(best.shape, classes[0], dtype)
    for plane, c in zip(stack[1:], classes[1:], strict=False):
        np.copyto(labels, dtype.type(c), where=plane > best)
        np.maximum(best, plane, out=best)
    if len(classes) < num_classes:
        unlisted = np.setdiff1d(np.arange(num_classes), classes)[0]
        np.copyto(labels, dtype.type(unlisted), where=stack[-1] > best)
    return labels
