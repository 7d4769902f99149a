"""The refine stage: one shard of label maps in, the same frames refined out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vss import formats, progress
from vss.errors import UserError
from vss.refine.proposal_file import ProposalsReader
from vss.refine.settings import one_of, with_defaults
from vss.refine.ssa import vote_proposals

METHODS = ("cascadepsp", "ssa")
SSA_DEFAULTS = {"min_purity": 0.0, "keep_area": 0}

# Refines one frame: (video, frame, image path, labels [H, W]) -> labels [H, W].
FrameRefiner = Callable[[str, str, str, np.ndarray], np.ndarray]


def refine(
    *,
    settings: dict[str, Any],
    labels: str | os.PathLike,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    weights: str | os.PathLike | None = None,
    proposals: str | os.PathLike | None = None,
    out: str | os.PathLike,
    device: str = "cpu",
) -> None:
    """Refines the label maps of one shard; frames are paired by (video, frame).

    Args:
        settings: {method: "ssa", settings: {min_purity, keep_area}} (see `vss.refine.ssa`), or
            {method: "cascadepsp", settings: {...}} (see `vss.refine.cascadepsp.DEFAULTS`).
        labels: the prediction of this shard (`formats.LabelsReader`).
        index, card: of the dataset.
        split, shard, shards: which frames.
        weights: of the refinement network (cascadepsp).
        proposals: mask proposals of this shard (ssa).
        out: the refined prediction, same frames and sizes.
        device: torch device of the refinement network.

    Raises:
        UserError: a mistake in the settings, a missing or unreadable file, a frame without prediction or proposals, or
            whose prediction is of another size than the frame.
    """
    given = with_defaults(settings, {"method": None, "settings": {}}, where="refine")
    method, parameters = one_of(given["method"], METHODS, where="refine method"), given["settings"]
    root = formats.read_card(card).root
    rows = formats.shard_rows(formats.read_index(index), split=split, shard=shard, shards=shards)
    what = f"refine {method} {split} shard {shard}"
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(formats.LabelsReader(labels))
        if method == "ssa":
            refiner = stack.enter_context(_ssa(parameters, proposals))
        else:
            refiner = _cascadepsp(parameters, weights, reader.classes, device)
        progress.say(f"{what}: {len(rows)} frames on {'cpu' if method == 'ssa' else device}")
        provenance = {"stage": "refine", "settings": given, "of": reader.provenance}
        writer = stack.enter_context(formats.LabelsWriter(out, classes=reader.classes, provenance=provenance))
        for row in progress.track(list(rows.itertuples()), what=what):
            before = reader.read(row.video, row.frame)
            if before.shape != (row.height, row.width):
                raise UserError(
                    f"{labels}: frame {row.frame!r} of video {row.video!r} is {before.shape[0]}x{before.shape[1]}, "
                    f"the index says {row.height}x{row.width}"
                )
            after = refiner(row.video, row.frame, os.path.join(root, row.image), before)
            writer.write(row.video, row.frame, after)


@contextlib.contextmanager
def _ssa(parameters: dict[str, Any], proposals: str | os.PathLike | None) -> Iterator[FrameRefiner]:
    options = with_defaults(parameters, SSA_DEFAULTS, where="refine ssa")
    if proposals is None:
        raise UserError("refine ssa: no proposals file, run propose first")
    with ProposalsReader(proposals) as reader:

        def refine_frame(video: str, frame: str, image: str, labels: np.ndarray) -> np.ndarray:
            found = reader.read(video, frame)
            if tuple(found.size) != labels.shape:
                raise UserError(f"{proposals}: proposals of frame {frame!r} of video {video!r} are of another size")
            return vote_proposals(labels, found, **options)

        yield refine_frame


def _cascadepsp(
    parameters: dict[str, Any], weights: str | os.PathLike | None, classes: list[str], device: str
) -> FrameRefiner:
    from vss.refine.cascadepsp import CascadePSP  # imports torch

    refiner = CascadePSP.from_settings(parameters, weights=weights, classes=classes, device=device)

    def refine_frame(video: str, frame: str, image: str, labels: np.ndarray) -> np.ndarray:
        return refiner.refine(formats.read_image(image), labels)

    return refine_frame
