"""The flow stage: optical flow between the neighbouring frames of one shard, in both directions."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.frames_file import go_on
from vss.core.images import read_image
from vss.core.index import read_dataset, shard_rows
from vss.core.log import log, track
from vss.flow.flow_file import CELL, FlowWriter
from vss.infer.stream import WriteBehind, load_ahead


@dataclass(frozen=True)
class FlowMethod:
    """A way to estimate flow.

    Attributes:
        prepare: maps an RGB frame [H, W, 3] uint8 to what `between` takes.
        between: maps two frames to the flow from one to the other in pixels [H, W, 2] float32, x first.
        device: what it runs on, for the message.
        precision: "float32" or "float16".
    """

    prepare: Callable[[np.ndarray], np.ndarray]
    between: Callable[[np.ndarray, np.ndarray], np.ndarray]
    device: str = "cpu"
    precision: str = "float32"


def flow(
    *,
    method: str,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    weights: str | os.PathLike | None = None,
    out: str | os.PathLike,
    device: str = "auto",
) -> None:
    """Writes the optical flow between every frame of one shard and the next frame of its video.

    Args:
        method: "dis": OpenCV's DIS at its preset medium, which needs no weights; "raft": torchvision's RAFT, on a GPU
            in half precision.
        index, card: of the dataset.
        split, shard, shards: which frames.
        weights: of torchvision's `raft_large`, for "raft" alone.
        out: the flow file (`FlowWriter`).
        device: of RAFT: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: an unknown method, weights that are missing or not RAFT's, or a frame that cannot be decoded.
    """
    estimator = open_method(method, weights=weights, device=device)
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    what = f"flow {method} {split} shard {shard}"
    log(f"{what}: {len(rows)} frames on {estimator.device}")
    provenance = {
        "stage": "flow",
        "flow": method,
        "weights_sha256": None if weights is None else sha256_of_file(weights),
        "precision": estimator.precision,
        "index_sha256": dataset.sha256,
        "split": split,
        "shard": shard,
        "shards": shards,
    }
    with FlowWriter(out, provenance=provenance) as writer, WriteBehind(waiting=4) as writing:
        done = go_on(writer, made_of=filter(None, (weights, index, card)), what=what)
        images = load_ahead(
            rows.itertuples(),
            lambda row: estimator.prepare(read_image(os.path.join(dataset.root, row.image))),
            workers=1,
            ahead=2,
        )
        for (row, image), (following, next_image) in itertools.pairwise(track(images, what=what, total=len(rows))):
            if (row.video, row.frame) in done:
                continue
            if row.video == following.video and image.shape == next_image.shape:
                forward, backward = estimator.between(image, next_image), estimator.between(next_image, image)
                writing.put(writer.write, row.video, row.frame, cell_means(forward), cell_means(backward))


def open_method(name: str, *, weights: str | os.PathLike | None, device: str) -> FlowMethod:
    """Returns the method of a name, ready for work; see `flow`.

    Raises:
        UserError: no such method; "raft" without weights, or they cannot be used; "dis" with weights.
    """
    if name == "dis":
        if weights is not None:
            raise UserError("flow dis: takes no weights; leave them out, or use method raft")
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return FlowMethod(
            prepare=lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
            between=lambda image, next_image: dis.calc(image, next_image, None),
        )
    if name != "raft":
        raise UserError(f"flow method: {name!r}, allowed: dis, raft")
    if weights is None:
        raise UserError("flow raft: no weights given; it needs those of torchvision's raft_large")
    from vss.flow.raft import RaftFlow  # imports torch

    raft = RaftFlow(weights, device, half=True)
    return FlowMethod(
        prepare=lambda image: image,
        between=lambda image, next_image: raft(image, next_image).transpose(1, 2, 0),
        device=str(raft.device),
        precision=raft.precision,
    )


def cell_means(image: np.ndarray) -> np.ndarray:
    """Returns the mean of every cell of `CELL` x `CELL` pixels; the last row and column are repeated to fill theirs."""
    height, width = image.shape[:2]
    filled = cv2.copyMakeBorder(image, 0, -height % CELL, 0, -width % CELL, cv2.BORDER_REPLICATE)
    return cv2.resize(filled, (filled.shape[1] // CELL, filled.shape[0] // CELL), interpolation=cv2.INTER_AREA)
