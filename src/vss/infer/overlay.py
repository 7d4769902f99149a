"""A prediction drawn over its frame: class colours, thin borders, and the names of the larger regions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vss.core.blend import blend_labels
from vss.core.labels import overlay_palette

_NAMED_SHARE = 0.01  # of the frame that a region must cover to be named
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_overlay(
    image: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: np.ndarray | None = None
) -> np.ndarray:
    """Returns the frame with its classes drawn over it [H, W, 3] uint8 RGB.

    Args:
        image: [H, W, 3] uint8 RGB.
        labels: [H, W] train ids; no class stays as it is.
        classes: class names by train id.
        palette: RGB [C or more, 3] uint8 by train id; None = the overlay palette.
    """
    palette = overlay_palette(num_classes=len(classes)) if palette is None else palette
    mixed = blend_labels(image, labels, palette)
    mixed[_borders(labels)] = 255
    for label in np.unique(labels[labels < len(classes)]):
        _name_largest_region(mixed, labels == label, classes[label].replace("_", " "))
    return mixed


def draw_legend(classes: Sequence[str], present: Sequence[int], palette: np.ndarray | None = None) -> np.ndarray:
    """Returns a picture [H, W, 3] uint8 RGB of the classes' colours and names, one line each.

    Args:
        classes: class names by train id.
        present: train ids to show.
        palette: RGB [C or more, 3] uint8 by train id; None = the overlay palette.
    """
    palette = overlay_palette(num_classes=len(classes)) if palette is None else palette
    names = [classes[label].replace("_", " ") for label in present]
    widest = max(cv2.getTextSize(name, _FONT, 0.5, 1)[0][0] for name in names)
    legend = np.full((24 * len(names) + 8, widest + 48, 3), 255, np.uint8)
    for line, (label, name) in enumerate(zip(present, names, strict=True)):
        top = 24 * line + 8
        legend[top : top + 16, 8:32] = palette[label]
        cv2.putText(legend, name, (40, top + 13), _FONT, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return legend


def _borders(labels: np.ndarray) -> np.ndarray:
    """Returns [H, W] bool: the pixel to the right or below has another label."""
    borders = np.zeros(labels.shape, bool)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def _name_largest_region(image: np.ndarray, mask: np.ndarray, name: str) -> None:
    """Writes a class's name at the innermost pixel of its largest region, if that is large enough to be read."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < _NAMED_SHARE * mask.size:
        return
    # A frame around the image, so that its edge counts as the region's edge.
    inside = cv2.copyMakeBorder((regions == largest).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    y, x = np.unravel_index(cv2.distanceTransform(inside, cv2.DIST_L2, 3).argmax(), inside.shape)
    scale = max(0.35, image.shape[0] / 1000)
    (width, height), _ = cv2.getTextSize(name, _FONT, scale, 1)
    left = int(np.clip(x - 1 - width // 2, 0, max(image.shape[1] - width, 0)))
    bottom = int(np.clip(y - 1 + height // 2, height, image.shape[0] - 1))
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(image, name, (left, bottom), _FONT, scale, colour, thickness, cv2.LINE_AA)
