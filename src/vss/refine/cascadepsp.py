"""CascadePSP: refine every part of a label map with the network, and put the parts together again.

Paper: Cheng et al., CascadePSP, CVPR 2020, section 4 (global and local step). Reference: package
`segmentation-refinement` 0.6, eval_helper.py. Parts that have one size for the network share a call.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vss.core.batch_size import BatchSize
from vss.core.errors import UserError
from vss.models.rows import IMAGE_MEAN, IMAGE_STD
from vss.refine.background import BACKGROUND_CLASSES
from vss.refine.network import NETWORKS, NetworkRow, load_network
from vss.refine.parts import Part, around_uncertain, merge_parts, split_classes, split_components
from vss.refine.precision import working_dtype
from vss.refine.settings import MODES, CascadePspSettings, Procedure

# Local crops whose foreground fraction is outside these bounds hold no boundary worth a pass (eval_helper.py).
_CROP_FOREGROUND = (0.1, 0.9)
_CROP_BORDER = 16  # pixels at the inner edges of a local crop that are not used

# image [N, 3, h, w], mask [N, 1, h, w], mask at stride 8 or None -> {"pred_224", "pred_56_2": [N, 1, h, w]}
Network = Callable[[Tensor, Tensor, "Tensor | None"], Mapping[str, Tensor]]


class CascadePSP:
    """Refines the label maps of frames.

    Args:
        network: of `vss.refine.network`, in eval mode on its device.
        settings: as the config gives them.
        suits: row of the network, whose procedure is the default.
        classes: names of the prediction's classes, position = train id.

    Raises:
        UserError: the settings name a class that is not among `classes`.
    """

    def __init__(
        self, network: nn.Module, settings: CascadePspSettings, *, suits: NetworkRow, classes: Sequence[str]
    ) -> None:
        self._network, self._settings = network, settings
        self._procedure = procedure_for(settings, suits)
        self._classes = None if settings.classes is None else _ids(settings.classes, classes, "classes")
        # The default list is VSPW's; another label space takes what it shares with it.
        shared = [name for name in BACKGROUND_CLASSES if name in classes]
        self._background = _ids(shared if settings.background is None else settings.background, classes, "background")
        self.device = next(network.parameters()).device
        self._crops_at_once = BatchSize("refine cascadepsp", "crops")
        self._dtype = working_dtype(settings.precision, self.device, what="refine cascadepsp")

    @classmethod
    def load(
        cls, settings: CascadePspSettings, *, weights: str | os.PathLike | None, classes: Sequence[str], device: str
    ) -> CascadePSP:
        """Loads the network that weights are of.

        Raises:
            UserError: a class that does not exist; weights missing or of another network.
        """
        name, network = load_network(weights, device=device)
        return cls(network, settings, suits=NETWORKS[name], classes=classes)

    def refine(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the refined label map.

        Args:
            image: [H, W, 3] uint8 RGB. (The package's own demo passes BGR; the network was trained on RGB.)
            labels: [H, W] train ids; the ignore index is unknown.
        """
        return self.refine_parts(image, labels, self.parts_of(labels))

    def parts_of(self, labels: np.ndarray) -> list[Part]:
        """Returns the parts of a label map that are to be refined; without the network, so that a thread can do it."""
        return [part for part in self._split(labels) if not self._too_pure(part)]

    @torch.inference_mode()
    def refine_parts(
        self, image: np.ndarray, labels: np.ndarray, parts: Sequence[Part], certainty: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns the label map with some of its parts refined; see `refine` and `parts_of`.

        Args:
            image, labels: as of `refine`.
            parts: of the labels.
            certainty: [H, W] uint8 in 255ths how certain the labels are, for `only_uncertain`: only pixels that are
                less certain than that change.

        Raises:
            UserError: one crop does not fit into the GPU's memory.
        """
        uncertain = None
        if certainty is not None and self._settings.only_uncertain is not None:
            uncertain = certainty < self._settings.only_uncertain * 255
            parts = around_uncertain(parts, uncertain)
        if not parts:
            return labels
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not torch.float32):
            refined = self._refine_parts(image, parts)
        merged, _ = merge_parts(
            labels,
            [_used(part, probability) for part, probability in zip(parts, refined, strict=True)],
            background=self._background,
            background_weight=self._settings.background_weight,
        )
        return merged if uncertain is None else np.where(uncertain, merged, labels)

    def _split(self, labels: np.ndarray) -> list[Part]:
        s = self._settings
        if self._procedure.parts == "classes":
            return split_classes(labels, min_area=s.min_area, classes=self._classes)
        return split_components(labels, min_area=s.min_area, dilate=s.dilate, margin=s.margin, classes=self._classes)

    def _too_pure(self, part: Part) -> bool:
        limit = self._settings.max_purity
        return limit is not None and part.crop(part.mask).mean() >= limit

    def _refine_parts(self, image: np.ndarray, parts: Sequence[Part]) -> list[np.ndarray]:
        frame = image_tensor(image).to(self.device)
        # Crops around uncertain pixels are as large as they are, and the local step would only repeat the global one.
        narrowed = replace(self._procedure, fast=True, min_size=0)
        refined: dict[int, np.ndarray] = {}
        for how, numbers in (
            (self._procedure, [number for number, part in enumerate(parts) if part.used is None]),
            (narrowed, [number for number, part in enumerate(parts) if part.used is not None]),
        ):
            chosen = [parts[number] for number in numbers]
            refined.update(zip(numbers, self._refine_crops(frame, chosen, how) if chosen else (), strict=True))
        return [refined[number] for number in range(len(parts))]

    def _refine_crops(self, frame: Tensor, parts: Sequence[Part], how: Procedure) -> list[np.ndarray]:
        crops = [(_cropped(frame, part), mask_tensor(part.crop(part.mask)).to(self.device)) for part in parts]

        def refine(batch_size: int) -> list[Tensor]:
            options = {"L": how.L, "min_size": how.min_size, "batch_size": batch_size}
            if how.fast:
                return single_pass(self._network, *zip(*crops, strict=True), **options)
            if how.parts == "classes":
                masks = torch.cat([mask for _, mask in crops])
                return list(high_res(self._network, frame, masks, **options).split(1))
            return [high_res(self._network, *crop, **options) for crop in crops]

        try:
            refined = self._crops_at_once.run(refine, self._settings.batch_size)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"refine cascadepsp: one crop of {how.L} pixels does not fit into the memory of {self.device}; lower L"
                " or use precision bfloat16"
            ) from error
        return [probability[0, 0].float().cpu().numpy() for probability in refined]


def procedure_for(settings: CascadePspSettings, suits: NetworkRow) -> Procedure:
    """Returns the procedure for a frame: from the settings, else the network's, else the mode's."""
    mode = settings.mode or suits.mode
    base = suits.procedure if mode == suits.mode else MODES[mode]
    given = {field.name: getattr(settings, field.name) for field in fields(Procedure)}
    return replace(base, **{key: value for key, value in given.items() if value is not None})


def _ids(names: Sequence[str], classes: Sequence[str], key: str) -> frozenset[int]:
    for name in names:
        if name not in classes:
            raise UserError(f"refine cascadepsp {key}: no class {name!r} in this prediction")
    return frozenset(list(classes).index(name) for name in names)


def _used(part: Part, probability: np.ndarray) -> tuple[int, tuple[int, int, int, int], np.ndarray]:
    """Returns a part's label, and where and what of its probability [h, w] is used."""
    if part.used is None:
        return part.label, part.box, probability
    top, bottom, left, right = part.used
    first, start = part.box[0], part.box[2]
    return part.label, part.used, probability[top - first : bottom - first, left - start : right - start]


def _cropped(tensor: Tensor, part: Part) -> Tensor:
    top, bottom, left, right = part.box
    return tensor[:, :, top:bottom, left:right]


def image_tensor(image: np.ndarray) -> Tensor:
    """Maps [H, W, 3] uint8 RGB to the network's [1, 3, H, W] float32: ImageNet mean and standard deviation."""
    mean, std = (torch.tensor([value / 255 for value in values])[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    scaled = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    return ((scaled - mean) / std)[None]


def mask_tensor(mask: np.ndarray) -> Tensor:
    """Maps [H, W] bool to the network's [1, 1, H, W] float32 of -1 and +1."""
    return torch.from_numpy(mask.astype(np.float32) * 2 - 1)[None, None]


def single_pass(
    network: Network,
    images: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    L: int,
    min_size: int | None = None,
    batch_size: int = 8,
) -> list[Tensor]:
    """Refines masks with the global step only (eval_helper.py `process_im_single_pass`).

    Crops that have the same size for the network share a call.

    Args:
        images: [1, 3, h, w] each, normalised.
        masks: [1, 1, h, w] each, -1 or +1.
        L: pixels; crops whose longer side has more are reduced to it.
        min_size: pixels; crops whose longer side has fewer are enlarged to it; None: to L, as the package does.
        batch_size: crops per call.

    Returns:
        Probabilities [1, 1, h, w], one per crop.
    """
    # Bring all crops to their working size and group them by it.
    scaled = [to_working_size(image, mask, L, min_size=min_size) for image, mask in zip(images, masks, strict=True)]
    by_size = defaultdict(list)
    for number, (image, _) in enumerate(scaled):
        by_size[image.shape].append(number)
    # Refine each group in batches, and put every result where its crop came from, at the crop's own size.
    refined: list[Tensor] = [torch.empty(0)] * len(scaled)
    for numbers in by_size.values():
        for chunk in _chunks(numbers, batch_size):
            image, mask = (torch.cat([scaled[number][kind] for number in chunk]) for kind in (0, 1))
            output = padded_forward(network, image, mask)["pred_224"]
            for number, one in zip(chunk, output.split(1), strict=True):
                refined[number] = resized_back(one, masks[number].shape[-2:])
    return refined


def high_res(
    network: Network, image: Tensor, masks: Tensor, *, L: int, min_size: int | None = None, batch_size: int = 8
) -> Tensor:
    """Refines the masks of one image: global step, then local crops at full size (`process_high_res_im`).

    The global result is thresholded at 0.5. Crops of side L are taken every L // 2 - 32 pixels, skipped where the
    global foreground fraction is above 0.9 or below 0.1, refined given the global stride-4 mask, and averaged without
    their inner borders of 16 pixels; pixels in no crop keep the thresholded global result.

    Args:
        image: [1, 3, h, w], normalised.
        masks: [N, 1, h, w], -1 or +1.
        L: pixels of a local crop's sides, and to which the global step reduces a longer side; at least 66.
        min_size: pixels to which the global step enlarges a smaller longer side; None: to L, as the package does.
        batch_size: masks per call.

    Returns:
        Probabilities [N, 1, h, w].
    """
    # Global step: every mask of the whole image, reduced (or enlarged) to the working size.
    size = masks.shape[-2:]
    small_image, _ = to_working_size(image, masks[:1], L, min_size=min_size)
    outputs = []
    for chunk in masks.split(batch_size):
        _, small = to_working_size(image, chunk, L, min_size=min_size)
        outputs.append(padded_forward(network, small_image.expand(len(chunk), -1, -1, -1), small))

    # Its results at full size become the local step's inputs: the mask, and what stands in for the stride-8 pass.
    stride_1, stride_4 = (
        F.interpolate(torch.cat([o[key] for o in outputs]).float(), size=size, mode="bilinear", align_corners=False)
        for key in ("pred_224", "pred_56_2")
    )
    foreground = (stride_1 > 0.5).float()
    given, intermediate = foreground * 2 - 1, stride_4 * 2 - 1

    # Local step: overlapping crops at full size, each refining only the masks that have a boundary inside it.
    total, weight = torch.zeros_like(foreground), torch.zeros_like(foreground)
    for y, x in _crop_positions(size, L):
        crop = np.s_[y : y + L, x : x + L]
        share = foreground[(..., *crop)].mean(dim=(1, 2, 3))
        with_boundary = torch.nonzero((share >= _CROP_FOREGROUND[0]) & (share <= _CROP_FOREGROUND[1])).flatten()
        # A crop's result is unreliable at its borders, except where they are the image's own.
        inner = _inner(y, size[0], L), _inner(x, size[1], L)
        target = np.s_[y + inner[0].start : y + inner[0].stop, x + inner[1].start : x + inner[1].stop]
        for chunk in (
            with_boundary.split(batch_size) if len(with_boundary) else ()
        ):  # split() of nothing is one empty chunk
            part = image[(..., *crop)].expand(len(chunk), -1, -1, -1)
            output = padded_forward(network, part, given[(chunk, ..., *crop)], intermediate[(chunk, ..., *crop)])
            total[(chunk, ..., *target)] += output["pred_224"][(..., *inner)].float()
            weight[(chunk, ..., *target)] += 1

    # Average where crops overlap; where no crop was refined the global result stands.
    return torch.where(weight == 0, foreground, total / weight.clamp(min=1))


def _crop_positions(size: Sequence[int], L: int) -> list[tuple[int, int]]:
    """Returns the upper left corners (y, x) of the local crops, each once; at the far sides they are moved inside."""
    step = L // 2 - 2 * _CROP_BORDER
    ys, xs = (list(dict.fromkeys(max(0, min(k * step, side - L)) for k in range(side // step + 1))) for side in size)
    return [(y, x) for x in xs for y in ys]


def _inner(start: int, side: int, L: int) -> slice:
    """Returns the part of a crop along one axis, without its border where it does not end with the image."""
    stop = min(start + L, side)
    return slice(_CROP_BORDER if start else 0, stop - start - (_CROP_BORDER if stop != side else 0))


def padded_forward(
    network: Network, image: Tensor, mask: Tensor, intermediate: Tensor | None = None
) -> dict[str, Tensor]:
    """Calls the network on sides that are multiples of 8 and cuts the outputs to the input's size.

    Padding (image 0, masks -1) goes to the bottom and right. As upstream, if either side needs it BOTH become
    (side // 8 + 1) * 8, so that a side that is a multiple already grows by 8.

    Args:
        image: [N, 3, h, w]; mask: [N, 1, h, w]; intermediate: the same as mask, replaces the first pass (stride 8).
    """
    height, width = mask.shape[-2:]
    if height % 8 or width % 8:
        pad = (0, 8 - width % 8, 0, 8 - height % 8)
        image, mask = F.pad(image, pad, value=0), F.pad(mask, pad, value=-1)
        intermediate = None if intermediate is None else F.pad(intermediate, pad, value=-1)
    output = network(image, mask, intermediate)
    return {key: output[key][..., :height, :width] for key in ("pred_224", "pred_56_2")}


def to_working_size(image: Tensor, mask: Tensor, L: int, *, min_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Resizes image and mask to a longer side of `min_size` to `L` pixels; what lies between stays as it is.

    Sizes are floor(side * ratio), at least 1; the ratio sets the grid.

    Args:
        min_size: None, or more than L: L.
    """
    shorter, longer = sorted(mask.shape[-2:])
    least = L if min_size is None else min(min_size, L)
    if longer > L and shorter * L < longer:  # a line, which would vanish
        size = [max(side * L // longer, 1) for side in mask.shape[-2:]]
        return tuple(F.interpolate(x, size=size, mode="area") for x in (image, mask))
    if longer > L:
        return tuple(F.interpolate(x, scale_factor=L / longer, mode="area") for x in (image, mask))
    if longer >= least:
        return image, mask
    image = F.interpolate(image, scale_factor=least / longer, mode="bicubic", align_corners=False)
    return image, F.interpolate(mask, scale_factor=least / longer, mode="bilinear", align_corners=False)


def resized_back(probability: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes a probability map to `size`, smaller or larger."""
    if tuple(probability.shape[-2:]) == tuple(size):
        return probability
    if max(size) < max(probability.shape[-2:]):
        return F.interpolate(probability.float(), size=tuple(size), mode="area")
    return F.interpolate(probability.float(), size=tuple(size), mode="bilinear", align_corners=True)


def _chunks(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
