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
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss.configs.resolved import ViewSettings
from vss.configs.schema import PRECISIONS, PROTOCOLS
from vss.configs.tta import Tta, parse_tta
from vss.core.batch_size import BatchSize
from vss.core.errors import UserError
from vss.core.label_space import label_dtype
from vss.core.log import log
from vss.infer.budget import ForwardBudget
from vss.infer.frame_size import Size
from vss.infer.resample import Span, Tile, resample_band
from vss.infer.views import View, resize_image, views_of, windows_of

# Elements [C, rows, W] resized at once: what a CPU's cache holds; on a GPU enough to fill it.
_BAND_ON_CPU = 3_500_000
_BAND_ON_GPU = 1 << 28


@dataclass(frozen=True)
class DecodedFrame:
    """A decoded frame with its resized copies, one for each distinct view size.

    Attributes:
        size: (height, width) of the frame.
        images: {resizes of the view: [h, w, 3] uint8 RGB}.
    """

    size: Size
    images: dict[tuple[Size, ...], np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """What the engine predicts for a batch of frames.

    Attributes:
        labels: [N, H, W] train ids on the engine's device (`label_dtype`); the lowest id where probabilities are
            equal.
        probabilities: [N, C, H, W] float32 on the engine's device, mean over views, or None where not requested.
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
        tta: the views, or a mapping with the keys of the config's `tta`.
        protocol: "paper" or "as_published"; passed on to `segmentor.probabilities`.
        mean, std: three numbers each, RGB on 0..255.
        device: where the model runs; the model is moved there and set to eval mode.
        precision: "float32", or "bfloat16"/"float16" for autocast of the network (resizing and averaging stay float32).
        memory: bytes a GPU forward may use; None = most of what is free. No effect on a CPU.
        compile: whether to run the network through torch.compile.

    Raises:
        UserError: a view setting, the protocol or the precision is not allowed.
    """

    def __init__(
        self,
        segmentor: nn.Module,
        *,
        tta: Tta | ViewSettings,
        protocol: str = "paper",
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        precision: str = "float32",
        memory: int | None = None,
        compile: bool = False,
    ) -> None:
        for key, given, allowed in (("protocol", protocol, PROTOCOLS), ("precision", precision, PRECISIONS)):
            if given not in allowed:
                raise UserError(f"{key}: found {given!r}, allowed: {', '.join(allowed)}")
        self.device = torch.device(device)
        self.tta = tta if isinstance(tta, Tta) else parse_tta(tta)
        self.protocol, self.precision = protocol, precision
        self._segmentor = segmentor.to(self.device).eval()
        self._class_logits = torch.compile(segmentor.class_logits) if compile else segmentor.class_logits
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._budget = ForwardBudget(self.device, memory)
        self._flips_apart: set[Size] = set()  # sizes of views of which two flips do not fit into one forward
        self._frames_at_once = BatchSize(f"inference on {self.device}", "frames")

    def resize(self, image: np.ndarray) -> DecodedFrame:
        """Returns a frame with every resized copy that its views need; meant for background threads.

        Args:
            image: [H, W, 3] uint8 RGB.
        """
        size = image.shape[:2]
        chains = dict.fromkeys(view.resizes for view in self._views(size))
        return DecodedFrame(size, {resizes: resize_image(image, resizes) for resizes in chains})

    def probabilities(self, image: np.ndarray) -> Tensor:
        """Returns the class probabilities [C, H, W] float32 of one image [H, W, 3] uint8 RGB."""
        return self.predict([self.resize(image)], with_probabilities=True).probabilities[0]

    @torch.no_grad()
    def predict(self, frames: Sequence[DecodedFrame], *, with_probabilities: bool = False) -> Prediction:
        """Returns labels, and probabilities where requested, of frames of one size.

        Where the device's memory is full, fewer frames, then fewer flips of one, go through at once.

        Raises:
            UserError: one frame does not fit into the device's memory.
        """

        def predict(count: int) -> Prediction:
            parts = [frames[start : start + count] for start in range(0, len(frames), count)]
            return _joined([self._predict(part, with_probabilities) for part in parts])

        try:
            return self._frames_at_once.run(predict, len(frames))
        except torch.OutOfMemoryError as error:
            height, width = frames[0].size
            raise UserError(
                f"{self.device}: the views of a {width}x{height} frame do not fit into its memory; set tta.mode to"
                " slide with a crop_size and a stride, drop the largest of tta.img_ratios, lower tta.scale or use"
                " precision bfloat16"
            ) from error

    def _predict(self, frames: Sequence[DecodedFrame], with_probabilities: bool) -> Prediction:
        size = frames[0].size
        assert all(frame.size == size for frame in frames), [frame.size for frame in frames]
        finite = torch.ones(len(frames), dtype=torch.bool, device=self.device)
        scores: list[list[_ViewScores]] = [[] for _ in frames]

        # Run the network once on every distinct input. A flipped prediction of an unflipped input (`as_published`)
        # reads the same scores as the unflipped one.
        for group in self._groups(size):
            for index, flip, windows in self._network_outputs(frames, group):
                finite[index] &= _all_finite(windows)
                scores[index] += [_ViewScores.of(view, windows) for view in group.views if view.input_flip == flip]

        # Average the views at frame size.
        labels = torch.empty(len(frames), *size, dtype=_label_dtype(scores[0][0].classes), device=self.device)
        probabilities = None
        if with_probabilities:
            probabilities = torch.empty(len(frames), scores[0][0].classes, *size, device=self.device)
        for index in range(len(frames)):
            self._average(scores[index], labels[index], None if probabilities is None else probabilities[index])
        return Prediction(labels, probabilities, finite)

    def _views(self, size: Size) -> tuple[View, ...]:
        return views_of(*size, self.tta, self.protocol)

    def _groups(self, size: Size) -> list[Group]:
        """Returns the groups of views that enter the network together; flips apart where they did not fit before."""
        groups = groups_of(self._views(size))
        return [
            part for group in groups for part in (_flips_of(group) if group.padded in self._flips_apart else [group])
        ]

    # ---- network

    def _network_outputs(
        self, frames: Sequence[DecodedFrame], group: Group
    ) -> Iterator[tuple[int, bool, list[_Window]]]:
        """Yields (index of the frame, whether it went in mirrored, its windows [C, h, w]) of every network input."""
        first, pixels = 0, len(group.flips) * group.padded[0] * group.padded[1]
        while first < len(frames):
            # As many frames as the budget allows in one forward; fewer after one that did not fit.
            count, windows = self._budget.frames_at_once(pixels, len(frames) - first), None
            try:
                with self._budget.measured(count * pixels):
                    windows = self._forward(frames[first : first + count], group)
            except torch.OutOfMemoryError:
                if count * len(group.flips) == 1:
                    raise
            if windows is None:  # out here, where the error no longer holds the tensors of the forward that failed
                height, width = group.padded
                log(f"inference on {self.device}: {count} x {width}x{height} views do not fit; retrying with fewer")
                torch.cuda.empty_cache()
                if count == 1:
                    self._flips_apart.add(group.padded)
                    yield from self._flips_one_by_one(frames, first, group)
                    first += 1
                else:
                    self._budget.shrink()
                continue
            # The batch holds every frame's flips next to each other.
            for position in range(count * len(group.flips)):
                offset, flip = divmod(position, len(group.flips))
                yield first + offset, group.flips[flip], [window.at(position) for window in windows]
            first += count

    def _flips_one_by_one(
        self, frames: Sequence[DecodedFrame], index: int, group: Group
    ) -> Iterator[tuple[int, bool, list[_Window]]]:
        """Yields as `_network_outputs`, of one frame whose flips do not fit into one forward."""
        for part in _flips_of(group):
            for _, flip, windows in self._network_outputs([frames[index]], part):
                yield index, flip, windows

    def _forward(self, frames: Sequence[DecodedFrame], group: Group) -> list[_Window]:
        """Runs the network on every flip of some frames, whole or window by window; logits are [N, C, h, w]."""
        images = self._network_input(frames, group)
        height, width = group.padded
        if self.tta.mode == "slide":
            boxes = windows_of(group.padded, self.tta.crop_size, self.tta.stride)
        else:
            boxes = [(0, height, 0, width)]
        all_rows = tuple(dict.fromkeys(box[:2] for box in boxes))
        all_columns = tuple(dict.fromkeys(box[2:] for box in boxes))
        size = frames[0].size
        windows: list[_Window] = []
        for top, bottom, left, right in boxes:
            logits = self._logits(images[:, :, top:bottom, left:right])
            rows = Span((top, bottom), height, group.size[0], size[0], all_rows)
            columns = Span((left, right), width, group.size[1], size[1], all_columns)
            windows.append(_Window(logits, rows, columns))
            if len(windows) * logits[0, 0].numel() > size[0] * size[1]:
                windows = [self._merged(windows, size)]  # more than the frame itself would take
        return windows

    def _merged(self, windows: Sequence[_Window], size: Size) -> _Window:
        """Returns windows resized to the frame and summed, as one window that is the frame."""
        total = windows[0].logits.new_empty(*windows[0].logits.shape[:2], *size)
        for position in range(len(total)):
            tiles = [window.at(position).tile(mirrored=False) for window in windows]
            for start, end in self._bands(*total.shape[1:]):
                total[position, :, start:end] = resample_band(
                    tiles, (start, end), total.new_empty(total.shape[1], end - start, size[1])
                )
        rows, columns = (Span((0, side), side, side, side, ((0, side),)) for side in size)
        return _Window(total, rows, columns)

    def _network_input(self, frames: Sequence[DecodedFrame], group: Group) -> Tensor:
        """Returns [N, 3, h, w] float32: per frame its flips, normalised and padded with zeros."""
        pixels = torch.from_numpy(np.stack([frame.images[group.resizes] for frame in frames]))
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()  # a copy from pageable memory waits for all work queued on the device
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        images = (images - self._mean) / self._std
        images = torch.stack([images.flip(3) if flip else images for flip in group.flips], dim=1).flatten(0, 1)
        below, right = group.padded[0] - group.size[0], group.padded[1] - group.size[1]
        return F.pad(images, (0, right, 0, below)).contiguous()

    def _logits(self, images: Tensor) -> Tensor:
        dtype = getattr(torch, self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return self._class_logits(images.contiguous()).float()

    # ---- averaging

    def _average(self, views: Sequence[_ViewScores], labels: Tensor, probabilities: Tensor | None) -> None:
        """Fills one frame's labels [H, W], and probabilities [C, H, W] where requested, a band of rows at a time.

        All views of a band are resized, turned into probabilities and added while the band is in the cache; a volume
        [C, H, W] exists only where probabilities are requested.
        """
        classes, (height, width) = views[0].classes, labels.shape
        weights = sum(view.weight for view in views)
        for start, end in self._bands(classes, height, width):
            total = torch.zeros(classes, end - start, width, device=self.device)
            resized = torch.empty_like(total)
            for view in views:
                resample_band(view.tiles, (start, end), resized)
                total.add_(self._segmentor.probabilities(resized[None], self.protocol)[0], alpha=view.weight)
            labels[start:end] = _lowest_argmax(total)
            if probabilities is not None:
                torch.div(total, weights, out=probabilities[:, start:end])

    def _bands(self, classes: int, height: int, width: int) -> list[tuple[int, int]]:
        rows = max(1, band_elements(self.device) // (classes * width))
        return [(start, min(start + rows, height)) for start in range(0, height, rows)]


def band_elements(device: torch.device) -> int:
    """Returns how many elements [C, rows, W] a device resizes and averages at once."""
    return _BAND_ON_CPU if device.type == "cpu" else _BAND_ON_GPU


@dataclass(frozen=True)
class Group:
    """Views that share a resized image: `flips` are the distinct ways it enters the network together."""

    resizes: tuple[Size, ...]
    size: Size
    padded: Size
    flips: tuple[bool, ...]
    views: tuple[View, ...]


@dataclass(frozen=True)
class _Window:
    """Logits [N, C, h, w] float32 of one window of a batch, or [C, h, w] of one image of it, and where it lies."""

    logits: Tensor
    rows: Span
    columns: Span

    def at(self, position: int) -> _Window:
        """Returns the window of one image of the batch."""
        return _Window(self.logits[position], self.rows, self.columns)

    def tile(self, *, mirrored: bool) -> Tile:
        """Returns one image's window in the form that `resample_band` reads."""
        return Tile(self.logits, self.rows, self.columns, mirrored)


@dataclass(frozen=True)
class _ViewScores:
    """The class scores of one view of one frame, at the network's resolution, and the view's weight."""

    weight: int
    tiles: list[Tile]

    @classmethod
    def of(cls, view: View, windows: Sequence[_Window]) -> _ViewScores:
        return cls(view.weight, [window.tile(mirrored=view.output_flip) for window in windows])

    @property
    def classes(self) -> int:
        return self.tiles[0].logits.shape[0]


def _joined(parts: Sequence[Prediction]) -> Prediction:
    """Returns the predictions of several batches of frames as one."""
    if len(parts) == 1:
        return parts[0]
    labels, finite = (torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "finite"))
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Prediction(labels, torch.cat(probabilities) if probabilities else None, finite)


def groups_of(views: Sequence[View]) -> list[Group]:
    """Returns the views of a frame, grouped by what enters the network together."""
    chains = dict.fromkeys(view.resizes for view in views)
    groups = []
    for resizes in chains:
        same = tuple(view for view in views if view.resizes == resizes)
        flips = tuple(dict.fromkeys(view.input_flip for view in same))
        groups.append(Group(resizes, same[0].size, same[0].padded, flips, same))
    return groups


def _label_dtype(num_classes: int) -> torch.dtype:
    return torch.uint8 if label_dtype(num_classes) == np.uint8 else torch.uint16


def _flips_of(group: Group) -> list[Group]:
    """Returns a group for each of its flips."""
    return [replace(group, flips=(flip,)) for flip in group.flips]


def _all_finite(windows: Sequence[_Window]) -> Tensor:
    # The sum of a tensor is finite only if all of it is; one pass without a temporary.
    return torch.stack([window.logits.sum().isfinite() for window in windows]).all()


def _lowest_argmax(scores: Tensor) -> Tensor:
    """Returns the argmax over classes [H, W] of scores [C, H, W]; the lowest class of equal ones."""
    if scores.device.type != "cpu":
        return scores.argmax(0)
    # Along the last axis torch's argmax is vectorised; along the first it is four times slower.
    return scores.permute(1, 2, 0).contiguous().argmax(-1)
