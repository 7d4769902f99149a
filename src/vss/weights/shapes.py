"""Tensors whose shape in a file is not the model's: class layers, queries and Swin's position tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vss.core.errors import UserError
from vss.weights.class_names import matching_classes

_CLASS_LAYER = re.compile(r"(decode_head|auxiliary_head)\.(conv_seg|cls_embed|class_predictor)\.(weight|bias)$")


def is_class_layer(name: str) -> bool:
    """Returns whether the rows of this tensor are classes."""
    return _CLASS_LAYER.search(name) is not None


class ClassRows:
    """Which row of the file's class layers each row of the model's is copied from.

    Args:
        classes: class names of the model.
        source_classes: class names of the file. Where the two are equal, and where none are given, rows stay in place.
    """

    def __init__(self, classes: Sequence[str] = (), source_classes: Sequence[str] = ()) -> None:
        self._classes, self._source = list(classes), list(source_classes)
        self.moved = self._classes != self._source
        self._origins = matching_classes(self._classes, self._source) if self.moved else []

    def fill(self, name: str, source: Tensor, fresh: Tensor) -> tuple[Tensor | None, str]:
        """Returns a class layer in the model's shape and what was done; None and why where nothing is taken over.

        Args:
            name: of the layer.
            source, fresh: the file's tensor and the model's freshly initialised one, [classes, ...].

        Raises:
            UserError: the model has another number of classes than `classes`.
        """
        shapes = _shapes(source, fresh)
        if source.shape[1:] != fresh.shape[1:]:
            return None, f"shape {shapes}"
        no_object = int(".conv_seg." not in name)  # the last row of mask classification is "no object"
        num_classes = len(fresh) - no_object
        if self.moved and num_classes != len(self._classes):
            raise UserError(f"{name} has {num_classes} classes, {len(self._classes)} class names were given")
        if not self.moved and not no_object:
            return None, f"other classes, {shapes}; the model's start fresh"

        filled = fresh.clone()
        if no_object:
            filled[-1] = source[-1]
        for row, origin in enumerate(self._origins):
            if origin is not None:
                filled[row] = source[origin]
        copied = sum(origin is not None for origin in self._origins)
        text = f"{shapes}: {copied} rows copied by class name, {num_classes - copied} new"
        return filled, text + (", no-object row kept" if no_object else "")

    def copied(self) -> dict[str, str]:
        """Returns {class of the model: class of the file} of the rows that `fill` copies."""
        pairs = zip(self._classes, self._origins, strict=False)
        return {name: self._source[origin].strip() for name, origin in pairs if origin is not None}


def resize(name: str, source: Tensor, target: Tensor) -> tuple[Tensor | None, str]:
    """Returns a tensor in the target's shape and what was done; None and why where the two have nothing in common."""
    shapes = _shapes(source, target)
    if name.endswith("relative_position_bias_table") and source.shape[1:] == target.shape[1:]:
        return _resize_bias_table(source, target.shape[0]), f"{shapes}: bicubic"
    if name.endswith("relative_position_index"):
        return None, "rebuilt for the model's window"
    if re.search(r"query(_embed|_feat)?\.weight$", name) and source.shape[1:] == target.shape[1:]:
        repeats = -(-target.shape[0] // source.shape[0])
        how = "repeated" if repeats > 1 else "cut"
        return source.repeat(repeats, 1)[: target.shape[0]], f"{shapes}: {how}"
    return None, f"shape {shapes}"


def _shapes(source: Tensor, target: Tensor) -> str:
    return f"{list(source.shape)} -> {list(target.shape)}"


def _resize_bias_table(table: Tensor, entries: int) -> Tensor:
    """Resizes Swin's [(2w - 1)^2, heads] table to another window."""
    old, new = round(table.shape[0] ** 0.5), round(entries**0.5)
    grid = table.T.reshape(1, -1, old, old).float()
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(table.shape[1], entries).T.to(table.dtype)
