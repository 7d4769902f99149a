"""The inference engine: one function from frames and views to class probabilities, the same for every model.

A view's path is that of the field: resize the frame (cv2, uint8) -> flip -> normalise -> pad -> `class_logits` ->
bilinear to the padded view -> crop the padding -> bilinear to the frame -> flip back -> `probabilities` -> weighted
mean over views. The model decides how its logits become probabilities; the engine never softmaxes.

Bit-equal results. On a CPU, oneDNN and MKL choose their kernels by tensor shape and by number of threads: of four nano
models, all four gave other last bits (1e-6) in a batch of six images than one by one, and with two torch threads than
with one. On a CPU the engine therefore always computes exactly one frame's view together with its flip, and
`vss.infer.predictions` gives each frame one thread: a result depends on the frame, the settings and the weights, not on
batches, shards, workers, threads or order. On a GPU, neighbouring frames are batched up to a memory budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss.errors import UserError
from vss.infer.budget import ForwardBudget
from vss.infer.resample import Span, Tile, resample_band
from vss.infer.views import Size, Tta, View, resize_image, views_of, windows_of

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Elements [C, rows, W] resized at once: what a CPU's cache holds; on a GPU enough to fill it.
_BAND_ON_CPU = 3_500_000
_BAND_ON_GPU = 1 << 28


@dataclass(frozen=True)
class Frame:
    """A decoded frame with its resized copies, one for each distinct view size.

    Attributes:
        size: (height, width) of the frame.
        images: {resizes of the view: [h, w, 3] uint8 RGB}.
    """

    size: Size
    images: dict[tuple[Size, ...], np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """What the engine makes of a batch of frames.

    Attributes:
        labels: [N, H, W] uint8 on the engine's device, train ids; the lowest id where probabilities are equal.
        probabilities: [N, C, H, W] float32 on the engine's device, mean over views, or None where not asked for.
        finite: [N] bool on the engine's device; False where the model returned inf or nan.
    """

    labels: Tensor
    probabilities: Tensor | None
    finite: Tensor


class Engine:
    """Runs one model over frames under fixed views and protocol.

    Args:
        segmentor: a module with `class_logits(images [N, 3, h, w]) -> [N, C, h', w']` and
            `probabilities(resized [N, C, H, W], protocol) -> [N, C, H, W]` that sums to 1 over C.
        tta: the views.
        protocol: "paper" or "as_published".
        mean, std: three numbers each, RGB on 0..255.
        device: where the model runs; the model is moved there and set to eval mode.
        precision: "float32", or "bfloat16"/"float16" for autocast of the network (resizing and averaging stay float32).
        memory: bytes a GPU forward may use; None = most of what is free. No effect on a CPU.
        compile: whether to run the network through torch.compile.
    """

    def __init__(
        self,
        segmentor: nn.Module,
        *,
        tta: Tta,
        protocol: str = "paper",
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        precision: str = "float32",
        memory: int | None = None,
        compile: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.tta, self.protocol, self.precision = tta, protocol, precision
        self._segmentor = segmentor.to(self.device).eval()
        self._class_logits = torch.compile(segmentor.class_logits) if compile else segmentor.class_logits
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._budget = ForwardBudget(self.device, memory)

    def resize(self, image: np.ndarray) -> Frame:
        """Returns a frame with every resized copy that its views need; meant for background threads.

        Args:
            image: [H, W, 3] uint8 RGB.
        """
        size = image.shape[:2]
        chains = dict.fromkeys(view.resizes for view in self._views(size))
        return Frame(size, {resizes: resize_image(image, resizes) for resizes in chains})

    def probabilities(self, image: np.ndarray) -> Tensor:
        """Returns the class probabilities [C, H, W] float32 of one image [H, W, 3] uint8 RGB."""
        return self.predict([self.resize(image)], with_probabilities=True).probabilities[0]

    @torch.no_grad()
    def predict(self, frames: Sequence[Frame], *, with_probabilities: bool = False) -> Prediction:
        """Returns labels, and probabilities where asked for, of frames of one size."""
        size = frames[0].size
        assert all(frame.size == size for frame in frames), [frame.size for frame in frames]
        total, finite = None, torch.ones(len(frames), dtype=torch.bool, device=self.device)
        for group in _groups(self._views(size)):
            for first, windows in self._forwards(frames, group):
                if total is None:
                    total = torch.zeros(len(frames), windows[0].logits.shape[1], *size, device=self.device)
                for position in range(windows[0].logits.shape[0]):
                    index, flip = first + position // len(group.flips), group.flips[position % len(group.flips)]
                    finite[index] &= _all_finite([window.logits[position] for window in windows])
                    for view in group.views:
                        if view.input_flip == flip:
                            self._accumulate(total[index], view, windows, position)
        labels = _lowest_argmax(total)
        if with_probabilities:
            total /= sum(view.weight for view in self._views(size))
        return Prediction(labels, total if with_probabilities else None, finite)

    def _views(self, size: Size) -> tuple[View, ...]:
        return views_of(*size, self.tta, self.protocol)

    # ---- network

    def _forwards(self, frames: Sequence[Frame], group: _Group) -> Iterator[tuple[int, list[_Window]]]:
        """Yields (index of the first frame, windows) of as many forwards as the frames need."""
        first, pixels = 0, len(group.flips) * group.padded[0] * group.padded[1]
        while first < len(frames):
            count = self._budget.frames_at_once(pixels, len(frames) - first)
            try:
                with self._budget.measured(count * pixels):
                    windows = self._forward(frames[first : first + count], group)
            except torch.OutOfMemoryError as error:
                if count == 1:
                    height, width = group.padded
                    raise UserError(f"{self.device}: a {width}x{height} view does not fit into its memory") from error
                torch.cuda.empty_cache()
                self._budget.shrink()
                continue
            yield first, windows
            first += count

    def _forward(self, frames: Sequence[Frame], group: _Group) -> list[_Window]:
        """Runs the network on every flip of some frames, whole or window by window."""
        images = self._network_input(frames, group)
        height, width = group.padded
        if self.tta.mode == "slide":
            boxes = windows_of(group.padded, self.tta.crop_size, self.tta.stride)
        else:
            boxes = [(0, height, 0, width)]
        all_rows = tuple(dict.fromkeys(box[:2] for box in boxes))
        all_columns = tuple(dict.fromkeys(box[2:] for box in boxes))
        size = frames[0].size
        return [
            _Window(
                self._logits(images[:, :, top:bottom, left:right]),
                Span((top, bottom), height, group.size[0], size[0], all_rows),
                Span((left, right), width, group.size[1], size[1], all_columns),
            )
            for top, bottom, left, right in boxes
        ]

    def _network_input(self, frames: Sequence[Frame], group: _Group) -> Tensor:
        """Returns [N, 3, h, w] float32: per frame its flips, normalised and padded with zeros."""
        pixels = np.stack([frame.images[group.resizes] for frame in frames])
        images = torch.from_numpy(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        images = (images - self._mean) / self._std
        images = torch.stack([images.flip(3) if flip else images for flip in group.flips], dim=1).flatten(0, 1)
        below, right = group.padded[0] - group.size[0], group.padded[1] - group.size[1]
        return F.pad(images, (0, right, 0, below)).contiguous()

    def _logits(self, images: Tensor) -> Tensor:
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return self._class_logits(images.contiguous()).float()

    # ---- averaging

    def _accumulate(self, total: Tensor, view: View, windows: Sequence[_Window], position: int) -> None:
        """Adds a view's probabilities to `total` [C, H, W], a band of rows at a time."""
        classes, height, width = total.shape
        tiles = [Tile(w.logits[position], w.rows, w.columns, view.output_flip) for w in windows]
        rows = max(1, (_BAND_ON_CPU if self.device.type == "cpu" else _BAND_ON_GPU) // (classes * width))
        for start in range(0, height, rows):
            end = min(start + rows, height)
            band = resample_band(tiles, (start, end), total.new_empty(classes, end - start, width))
            total[:, start:end].add_(self._segmentor.probabilities(band[None], self.protocol)[0], alpha=view.weight)


@dataclass(frozen=True)
class _Group:
    """Views that share a resized image: `flips` are the distinct ways it enters the network."""

    resizes: tuple[Size, ...]
    size: Size
    padded: Size
    flips: tuple[bool, ...]
    views: tuple[View, ...]


@dataclass(frozen=True)
class _Window:
    """Logits [N, C, h, w] float32 of one window of a batch, and where it lies."""

    logits: Tensor
    rows: Span
    columns: Span


def _groups(views: Sequence[View]) -> list[_Group]:
    chains = dict.fromkeys(view.resizes for view in views)
    groups = []
    for resizes in chains:
        same = tuple(view for view in views if view.resizes == resizes)
        flips = tuple(dict.fromkeys(view.input_flip for view in same))
        groups.append(_Group(resizes, same[0].size, same[0].padded, flips, same))
    return groups


def _all_finite(logits: Sequence[Tensor]) -> Tensor:
    # The sum of a tensor is finite only if all of it is; one pass without a temporary.
    return torch.stack([tensor.sum().isfinite() for tensor in logits]).all()


def _lowest_argmax(scores: Tensor) -> Tensor:
    """Returns the argmax over classes [N, H, W] uint8 of scores [N, C, H, W]."""
    if scores.device.type != "cpu":
        return scores.argmax(1).to(torch.uint8)
    labels = torch.empty(scores.shape[0], *scores.shape[2:], dtype=torch.uint8)
    rows = max(1, _BAND_ON_CPU // (scores.shape[1] * scores.shape[3]))
    for start in range(0, scores.shape[2], rows):
        # Along the last axis torch's argmax is vectorised; along the first it is four times slower.
        band = scores[:, :, start : start + rows].permute(0, 2, 3, 1).contiguous()
        labels[:, start : start + rows] = band.argmax(-1)
    return labels
