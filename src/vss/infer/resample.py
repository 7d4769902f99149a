"""Bilinear resizing of class logits from the network's resolution to the frame's, in one step and in bands.

The field's view path is two resizes: logits -> padded view -> crop of the padding -> frame. Both are linear and act on
rows and columns apart, so their composition is `rows @ logits @ columns.T` with two small banded matrices. Applied to a
band of output rows at a time, the class volume of a whole view (622 MB at ratio 1.75 and 124 classes) never exists.
A sliding window is one more linear step in front (place the window, divide by how many windows cover a pixel), and a
flip is the columns' matrix read backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vss.infer.byte_cache import cached_up_to

# Columns per block: a block's matrix is dense, so that narrow blocks waste less work and wide ones need fewer calls.
_COLUMNS_ON_CPU = 64
_COLUMNS_ON_GPU = 1 << 16

# Bytes of matrices that are kept, on the host and on the device: a size of frames in twelve views takes up to 40 MB at
# VSPW's sizes, sixteen times that for photographs of 12 megapixels.
_CACHED = 1 << 29

Interval = tuple[int, int]  # [start, end)


@dataclass(frozen=True)
class Span:
    """How one axis of a view was cut and resized.

    Attributes:
        window: (start, end) of the network's input on the padded view's axis.
        padded: length of the padded view.
        resized: length of the view without padding, at most `padded`.
        frame: length of the frame.
        windows: all windows along this axis; a pixel's value is the mean over the windows that hold it.
    """

    window: Interval
    padded: int
    resized: int
    frame: int
    windows: tuple[Interval, ...]


def interpolation_matrix(source: int, target: int) -> Tensor:
    """Returns the matrix [target, source] float32 of a bilinear resize along one axis, align_corners False.

    It is torch's own resize of the identity, so that its weights are exactly those of `F.interpolate`.
    """
    return F.interpolate(torch.eye(source)[None], size=target, mode="linear", align_corners=False)[0].T


@cached_up_to(_CACHED, lambda matrix: matrix.nbytes)
def axis_matrix(source: int, span: Span, mirrored: bool) -> Tensor:
    """Returns the matrix [frame, source] float32 from the network's output along one axis to the frame.

    Args:
        source: length of the network's output.
        span: how the axis was cut and resized.
        mirrored: read the frame's axis backwards.
    """
    start, end = span.window
    placed = torch.zeros(span.padded, source, dtype=torch.float64)
    placed[start:end] = interpolation_matrix(source, end - start).double()
    cover = torch.zeros(span.padded, dtype=torch.float64)
    for first, last in span.windows:
        cover[first:last] += 1
    assert cover.min() >= 1, span  # every pixel is covered
    placed /= cover[:, None]
    to_frame = interpolation_matrix(span.resized, span.frame).double()
    matrix = (to_frame @ placed[: span.resized]).float()
    return matrix.flip(0) if mirrored else matrix


@dataclass(frozen=True)
class Tile:
    """What the network returned for one window of one view.

    Attributes:
        logits: [C, h, w] float32.
        rows, columns: where the window lies in the view, and the view in the frame.
        mirrored: whether the prediction is mirrored left-right.
    """

    logits: Tensor
    rows: Span
    columns: Span
    mirrored: bool


def resample_band(tiles: Sequence[Tile], band: Interval, out: Tensor) -> Tensor:
    """Writes a band of frame rows of a view's class logits.

    Args:
        tiles: all windows of the view; one where the view is run whole.
        band: (start, end) rows of the frame.
        out: [C, end - start, W] float32, overwritten.
    """
    if len(tiles) > 1:
        out.zero_()
    device = out.device
    width = _COLUMNS_ON_CPU if device.type == "cpu" else _COLUMNS_ON_GPU
    for tile in tiles:
        rows = _block(tile.logits.shape[1], tile.rows, False, band, device)
        if rows is None:
            continue
        # [band, k] @ [C, k, w] -> [C, band, w]
        tall = torch.matmul(rows.matrix, tile.logits[:, rows.first : rows.last])
        for start in range(0, out.shape[2], width):
            block = (start, min(start + width, out.shape[2]))
            columns = _block(tile.logits.shape[2], tile.columns, tile.mirrored, block, device)
            if columns is None:
                continue
            # [C, band, k] @ [k, block] -> [C, band, block]
            values = torch.matmul(tall[:, :, columns.first : columns.last], columns.matrix.T)
            target = out[:, :, slice(*block)]
            target.add_(values) if len(tiles) > 1 else target.copy_(values)
    return out


@dataclass(frozen=True)
class _Block:
    """Some output positions of an axis as a dense matrix times the source positions [first, last)."""

    first: int
    last: int
    matrix: Tensor


@cached_up_to(_CACHED, lambda block: 0 if block is None else block.matrix.nbytes)
def _block(source: int, span: Span, mirrored: bool, outputs: Interval, device: torch.device) -> _Block | None:
    """Returns the block of the output positions `outputs`, None where the window does not reach them."""
    matrix = axis_matrix(source, span, mirrored)[slice(*outputs)]
    used = matrix.any(0).nonzero()
    if not used.numel():
        return None
    first, last = int(used[0]), int(used[-1]) + 1
    return _Block(first, last, matrix[:, first:last].contiguous().to(device))
