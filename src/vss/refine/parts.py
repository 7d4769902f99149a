"""Splitting a label map into binary parts, and merging refined parts back (CascadePSP's procedure for scene parsing).

Sources: hkchengrex/CascadePSP scripts/ade20K/ade_expand_inst.py (split), dataset/make_bb_trans.py (boxes),
eval_post_ade.py (merge).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from vss.core.label_space import ignore_index

UNCERTAIN_REACH, UNCERTAIN_CONTEXT, UNCERTAIN_SIDE = 8, 16, 96


@dataclass(frozen=True)
class Part:
    """A binary mask to refine.

    Attributes:
        label: train id.
        mask: [H, W] bool, of the whole frame.
        box: (top, bottom, left, right), half open: the crop that is refined.
        used: what of the crop is used, likewise; None: all of it.
    """

    label: int
    mask: np.ndarray
    box: tuple[int, int, int, int]
    used: tuple[int, int, int, int] | None = None

    def crop(self, array: np.ndarray) -> np.ndarray:
        """Returns the crop of an array [H, W, ...]."""
        top, bottom, left, right = self.box
        return array[top:bottom, left:right]


def split_components(
    labels: np.ndarray, *, min_area: int, dilate: int, margin: float, classes: Collection[int] | None = None
) -> list[Part]:
    """Splits a label map by class and each class into connected components, cropped to their boxes plus a margin.

    A class is dilated with a disc, its 8-connected components are found and eroded with the same disc, so that parts
    a few pixels apart stay one component. (A disc of even size, like upstream's 10, is off centre: a component may
    lose pixels at two of its sides, which keep their label like all pixels outside parts.)

    Args:
        labels: [H, W] train ids; `ignore_index` is no class.
        min_area: pixels; classes and components that are not larger are dropped, they keep their label.
        dilate: diameter of the disc in pixels, 0 for none.
        margin: see `expanded_box`.
        classes: train ids to refine; None for all.
    """
    parts = []
    disc = _disc(dilate) if dilate else None
    for label, binary in _classes_of(labels, min_area=min_area, classes=classes):
        joined = binary if disc is None else cv2.dilate(binary, disc)
        count, components = cv2.connectedComponents(joined, connectivity=8)
        for number in range(1, count):
            component = (components == number).astype(np.uint8)
            if disc is not None:
                component = cv2.erode(component, disc)
            if np.count_nonzero(component) <= min_area:
                continue
            mask = (component & binary).astype(bool)
            box = expanded_box(mask, margin)
            if mask.any() and box[0] < box[1] and box[2] < box[3]:
                parts.append(Part(label, mask, box))
    return parts


def split_classes(labels: np.ndarray, *, min_area: int, classes: Collection[int] | None = None) -> list[Part]:
    """Splits a label map by class; every part's crop is the whole frame. Arguments as of `split_components`."""
    frame = (0, labels.shape[0], 0, labels.shape[1])
    return [
        Part(label, binary.astype(bool), frame)
        for label, binary in _classes_of(labels, min_area=min_area, classes=classes)
    ]


def _classes_of(
    labels: np.ndarray, *, min_area: int, classes: Collection[int] | None
) -> Iterable[tuple[int, np.ndarray]]:
    areas = np.bincount(labels.ravel())
    for label in np.flatnonzero(areas > min_area).tolist():
        if label != ignore_index(labels.dtype) and (classes is None or label in classes):
            yield label, (labels == label).astype(np.uint8)


def _disc(diameter: int) -> np.ndarray:
    """Returns the pixels [diameter, diameter] uint8 within diameter // 2 of the one at that row and column."""
    radius = diameter // 2
    y, x = np.mgrid[-radius : diameter - radius, -radius : diameter - radius]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def expanded_box(mask: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """Returns the bounding box of a mask, enlarged: (top, bottom, left, right) as half-open ranges.

    As upstream, the last foreground row and column (not the ones after them) are the ends, and an end never passes
    height - 1 or width - 1; so the last row and column of a frame never lie in a box.

    Args:
        mask: [H, W] bool; empty: the box is the whole frame.
        margin: share of the box's height and width added in total, half on each side (0.25).
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, height, 0, width
    top, bottom = _enlarged(rows[0], rows[-1], margin, height)
    left, right = _enlarged(columns[0], columns[-1], margin, width)
    return top, bottom, left, right


def _enlarged(first: int, last: int, margin: float, size: int) -> tuple[int, int]:
    grow = margin * (last - first) / 2
    start, stop = int(max(0, first - grow)), int(min(size - 1, last + grow))
    return start, max(start, stop)


def around_uncertain(
    parts: Iterable[Part],
    uncertain: np.ndarray,
    *,
    reach: int = UNCERTAIN_REACH,
    context: int = UNCERTAIN_CONTEXT,
    side: int = UNCERTAIN_SIDE,
) -> list[Part]:
    """Narrows parts to crops around the uncertain pixels near their boundaries; drops those that have none.

    A part with uncertain pixels in several places, or along a long boundary, becomes several parts of the same mask,
    unless their crops would together be as large as the one before.

    Args:
        parts: of one label map.
        uncertain: [H, W] bool.
        reach: pixels; an uncertain pixel this near to a part's boundary may become or leave the part.
        context: pixels that a crop shows around such pixels; places closer than twice that are one place.
        side: pixels; larger places are cut into tiles.
    """
    narrowed = []
    near, wide = (np.ones((2 * radius + 1, 2 * radius + 1), np.uint8) for radius in (reach, context))
    for part in parts:
        mask = part.crop(part.mask).astype(np.uint8)
        places = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, near) & part.crop(uncertain)
        count, components = cv2.connectedComponents(cv2.dilate(places, wide), connectivity=8)
        tiles = [
            tile for number in range(1, count) for tile in _tiles((places > 0) & (components == number), side=side)
        ]
        crops = [_around(tile, context, part.box) for tile in tiles]
        if sum(map(_area, crops)) >= _area(part.box):
            narrowed.append(part)
            continue
        top, _, left, _ = part.box
        for crop, (first, last, start, stop) in zip(crops, tiles, strict=True):
            used = (top + first, top + last, left + start, left + stop)
            narrowed.append(Part(part.label, part.mask, crop, used))
    return narrowed


def _tiles(places: np.ndarray, *, side: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields boxes (top, bottom, left, right) of at most `side` pixels that together hold all places [h, w] bool."""
    rows = np.flatnonzero(places.any(axis=1))
    while len(rows):
        top = rows[0]
        band = places[top : top + side]
        columns = np.flatnonzero(band.any(axis=0))
        while len(columns):
            left = columns[0]
            inside = columns < left + side
            held = np.flatnonzero(band[:, left : left + side].any(axis=1))
            yield int(top + held[0]), int(top + held[-1]) + 1, int(left), int(columns[inside][-1]) + 1
            columns = columns[~inside]
        rows = rows[rows >= top + side]


def _around(tile: tuple[int, int, int, int], context: int, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Returns a tile with its context, clipped to the box, its sides grown to multiples of 8 where they fit."""
    rows = _grown(tile[0] - context, tile[1] + context, box[1] - box[0])
    columns = _grown(tile[2] - context, tile[3] + context, box[3] - box[2])
    return box[0] + rows[0], box[0] + rows[1], box[2] + columns[0], box[2] + columns[1]


def _grown(first: int, last: int, size: int) -> tuple[int, int]:
    first, last = max(first, 0), min(last, size)
    length = min(-(-(last - first) // 8) * 8, size)  # the network pads other sides
    first = min(first, size - length)
    return first, first + length


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])


def merge_parts(
    labels: np.ndarray,
    refined: Iterable[tuple[int, tuple[int, int, int, int], np.ndarray]],
    *,
    background: Collection[int],
    background_weight: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label map [H, W] and the winning confidence [H, W] float64 after merging refined parts.

    Confidence starts at 0.5 and labels at the input; a part takes every pixel of its box where its probability is
    strictly greater than the confidence so far. On exact ties the part that comes first keeps the pixel.

    Args:
        labels: [H, W], the map before refinement.
        refined: (train id, box, probability [h, w] in 0..1); a probability map of another size than its box is resized
            (bilinear, as PIL does).
        background: train ids whose probabilities are multiplied by `background_weight` (0.51: they win a pixel only
            where no thing claims it and they are nearly certain).
    """
    merged, confidence = labels.copy(), np.full(labels.shape, 0.5)
    for label, (top, bottom, left, right), probability in refined:
        if top == bottom or left == right:
            continue
        probability = _resized(probability, height=bottom - top, width=right - left)
        if label in background:
            probability = probability * background_weight
        region = np.s_[top:bottom, left:right]
        merged[region] = np.where(probability > confidence[region], label, merged[region])
        confidence[region] = np.maximum(confidence[region], probability)
    return merged, confidence


def _resized(probability: np.ndarray, *, height: int, width: int) -> np.ndarray:
    probability = np.asarray(probability, np.float32)
    if probability.shape == (height, width):
        return probability
    return np.asarray(Image.fromarray(probability).resize((width, height), Image.Resampling.BILINEAR))
