"""The flow stage: optical flow between the neighbouring frames of one shard, in both directions."""

from __future__ import annotations

import itertools
import os

import cv2
import numpy as np

from vss.core.frames_file import go_on
from vss.core.images import read_image
from vss.core.index import read_dataset, shard_rows
from vss.core.log import log, track
from vss.infer.stream import WriteBehind, load_ahead
from vss.refine.flow_file import CELL, FlowWriter
from vss.refine.settings import one_of

FLOW_METHODS = ("dis",)


def flow(
    *,
    method: str,
    index: str | os.PathLike,
    card: str | os.PathLike,
    split: str,
    shard: int,
    shards: int,
    out: str | os.PathLike,
) -> None:
    """Writes the optical flow between every frame of one shard and the next frame of its video.

    Args:
        method: "dis": OpenCV's DIS at its preset medium, which needs no weights.
        index, card: of the dataset.
        split, shard, shards: which frames.
        out: the flow file (`FlowWriter`).

    Raises:
        UserError: an unknown method, or a frame that cannot be decoded.
    """
    one_of(method, FLOW_METHODS, where="flow method")
    table, dataset = read_dataset(index, card)
    rows = shard_rows(table, split=split, shard=shard, shards=shards)
    what = f"flow {method} {split} shard {shard}"
    log(f"{what}: {len(rows)} frames on cpu")
    provenance = {
        "stage": "refine",
        "flow": method,
        "index_sha256": dataset.sha256,
        "split": split,
        "shard": shard,
        "shards": shards,
    }
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    with FlowWriter(out, provenance=provenance) as writer, WriteBehind(waiting=4) as writing:
        done = go_on(writer, made_of=(index, card), what=what)
        grey = load_ahead(
            rows.itertuples(),
            lambda row: cv2.cvtColor(read_image(os.path.join(dataset.root, row.image)), cv2.COLOR_RGB2GRAY),
            workers=1,
            ahead=2,
        )
        for (row, image), (following, next_image) in itertools.pairwise(track(grey, what=what, total=len(rows))):
            if (row.video, row.frame) in done:
                continue
            if row.video == following.video and image.shape == next_image.shape:
                forward, backward = dis.calc(image, next_image, None), dis.calc(next_image, image, None)
                writing.put(writer.write, row.video, row.frame, cell_means(forward), cell_means(backward))


def cell_means(image: np.ndarray) -> np.ndarray:
    """Returns the mean of every cell of `CELL` x `CELL` pixels; the last row and column are repeated to fill theirs."""
    height, width = image.shape[:2]
    filled = cv2.copyMakeBorder(image, 0, -height % CELL, 0, -width % CELL, cv2.BORDER_REPLICATE)
    return cv2.resize(filled, (filled.shape[1] // CELL, filled.shape[0] // CELL), interpolation=cv2.INTER_AREA)
