"""The propose stage: mask proposals for every frame of one shard, and the choice of what makes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vss.core.files import sha256_of_file
from vss.core.frames_file import go_on
from vss.core.images import read_image
from vss.core.index import read_dataset, shard_rows
from vss.core.log import log, track
from vss.infer.stream import WriteBehind, load_ahead
from vss.refine.proposals import Proposer
from vss.refine.proposals_file import ProposalsWriter
from vss.refine.superpixels import build_superpixels


def propose(
    *,
    settings: dict[str, Any],
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    weights: str | os.PathLike | None,
    out: str | os.PathLike,
    device: str = "auto",
) -> None:
    """Writes the mask proposals of every frame of one shard.

    Args:
        settings: {method: "sam" | "felzenszwalb" | "slic", ...}, see `build_proposer`.
        index, card: of the dataset.
        split, shard, shards: which frames.
        weights: of SAM; None otherwise.
        out: the proposals file (HDF5).
        device: of SAM: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: a mistake in the settings, weights that cannot be read, a frame that cannot be decoded.
    """
    weights = None if weights is None else str(weights)
    method = proposal_method(settings, weights=weights)
    proposer = build_proposer(settings, weights=weights, device=device)
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    what = f"propose {method} {split} shard {shard}"
    log(f"{what}: {len(rows)} frames on {proposer.device}")
    provenance = {
        "stage": "refine",
        "proposals": {**settings, "method": method},
        "weights_sha256": None if weights is None else sha256_of_file(weights),
        "index_sha256": dataset.sha256,
        "split": split,
        "shard": shard,
        "shards": shards,
    }
    with ProposalsWriter(out, provenance=provenance) as writer, WriteBehind(waiting=4) as writing:
        done = go_on(writer, made_of=filter(None, (weights, index, card)), what=what)
        left = [row for row in rows.itertuples() if (row.video, row.frame) not in done]
        images = load_ahead(
            left,
            lambda row: read_image(os.path.join(dataset.root, row.image)),
            workers=1,
            ahead=2,
        )
        for row, image in track(images, what=what, total=len(left)):
            writing.put(writer.write, row.video, row.frame, proposer.propose(image))


def build_proposer(settings: Mapping[str, Any], *, weights: str | None, device: str) -> Proposer:
    """Builds the proposer that `settings["method"]` names, with its other keys as parameters.

    Args:
        settings: {method: "sam" | "felzenszwalb" | "slic", ...}, see `vss.refine.sam` and `vss.refine.superpixels`.
            Without a method: SAM where weights are given, felzenszwalb where not.
        weights: of SAM; None for weight-free methods.
        device: of SAM: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: unknown method or parameter, weights missing, unreadable or of an unknown architecture.
    """
    parameters = {key: value for key, value in settings.items() if key != "method"}
    method = proposal_method(settings, weights=weights)
    if method == "sam":
        from vss.refine.sam import SamProposer  # imports torch and segment_anything

        return SamProposer.from_settings(parameters, weights=weights, device=device)
    return build_superpixels(method, parameters)


def proposal_method(settings: Mapping[str, Any], *, weights: str | None) -> str:
    """Returns the method that `build_proposer` takes."""
    return settings.get("method", "felzenszwalb" if weights is None else "sam")
