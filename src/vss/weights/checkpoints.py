"""Weights in and out: published checkpoints and our safetensors, with an audit of every tensor."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from vss.core.errors import UserError
from vss.core.files import atomic_path
from vss.weights.audit import Audit
from vss.weights.class_names import classes_by_number, matching_classes
from vss.weights.kinds import Kind, kind_of
from vss.weights.names import in_unfold_order, is_official_swin, todays_names, why_ignorable
from vss.weights.tensor_files import TensorFile, read_tensor_file

LOWEST_BACKBONE_SHARE = 0.99
_CLASS_LAYER = re.compile(r"(decode_head|auxiliary_head)\.(conv_seg|cls_embed)\.(weight|bias)$")
# Rebuilt by the model, or counters: their absence is no loss.
_DERIVED = ("relative_position_index", "num_batches_tracked")
# A classifier has no norms after its stages; the segmentor's start fresh, as they did in the published trainings.
_ABSENT_IN_CLASSIFIERS = re.compile(r"^backbone\.norm[0-3]\.")


def save_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Writes a model's state dict as safetensors, whole or not at all."""
    save_tensors(model.state_dict(), path)


def save_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Writes tensors as safetensors, whole or not at all."""
    with atomic_path(path) as aside:
        save_file({name: _alone(tensor) for name, tensor in tensors.items()}, aside)


def _alone(tensor: Tensor) -> Tensor:
    """Returns a tensor that owns its memory; safetensors refuses views into one storage."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    allow_resize: bool = True,
    classes: Sequence[str] | None = None,
    source_classes: Sequence[str] | None = None,
) -> Audit:
    """Loads a safetensors file or a published checkpoint into a segmentor and returns the audit.

    Class layers of another number of classes keep their fresh values unless `classes` is given (of Mask2Former's
    `cls_embed` the last row, "no object", is always taken); Swin's relative position tables of another window are
    resized bicubically; queries are cut or repeated.

    Args:
        model: a `Segmentor`, or any module with names `backbone.`, `decode_head.`, `auxiliary_head.`.
        path: .safetensors, or a pickle that torch reads with weights_only=True.
        allow_resize: False makes any difference of shape an error.
        classes: names of the model's classes; rows of class layers are then copied from classes of the same name.
        source_classes: names of the file's classes; by default those it gives itself, else those of the published label
            space with that many classes.

    Raises:
        UserError: the file cannot be read, is of another family, or fills less than 99 % of the backbone's tensors.
    """
    file, target = read_tensor_file(path), model.state_dict()
    filled, audit = place(
        file, target, path=path, allow_resize=allow_resize, classes=classes, source_classes=source_classes
    )
    model.load_state_dict(filled, strict=False)
    return audit


def place(
    file: TensorFile,
    target: Mapping[str, Tensor],
    *,
    path: str | os.PathLike,
    allow_resize: bool = True,
    classes: Sequence[str] | None = None,
    source_classes: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], Audit]:
    """Finds the place of every tensor of a file in a model's state dict; arguments and errors as `load_weights`.

    Returns:
        tensors by their names in the model, in the model's shapes, and the audit.
    """
    kind = kind_of(file.tensors)
    _check_family(path, kind, kind_of(target))
    audit = Audit(source=Path(path).name, kind=str(kind) if kind else "")
    rows = _ClassRows.of(kind, file, path, classes, source_classes)
    filled: dict[str, Tensor] = {}
    names = todays_names(file.tensors)
    _check_unambiguous(path, names, target)
    from_official_swin = is_official_swin(names)
    for old, name in names.items():
        tensor = file.tensors[old]
        if name not in target:
            audit.unused[old] = why_ignorable(name) or "the model has no such tensor"
            continue
        if from_official_swin:
            tensor = in_unfold_order(name, tensor)
        if not rows.concern(name) and tensor.shape == target[name].shape:
            filled[name] = tensor
            if name == old:
                audit.loaded.append(name)
            else:
                audit.renamed[name] = old
            continue
        if not allow_resize:
            raise UserError(f"{path}: {old} has shape {list(tensor.shape)}, expected {list(target[name].shape)}")
        resized, how = (rows.fill if _CLASS_LAYER.search(name) else _resize)(name, tensor, target[name])
        if resized is None:
            audit.unused[old] = how
        else:
            filled[name], audit.resized[name] = resized, how
    audit.new = [name for name in target if name not in filled]
    audit.classes = rows.copied()
    _check_backbone(path, kind, target, filled)
    return filled, audit


def _shapes(source: Tensor, target: Tensor) -> str:
    return f"{list(source.shape)} -> {list(target.shape)}"


class _ClassRows:
    """Fills class layers, whose rows mean other classes in the file than in the model."""

    def __init__(self, classes: Sequence[str] | None, source_classes: Sequence[str] | None) -> None:
        self._classes, self._source = list(classes or ()), list(source_classes or ())
        self._moved = bool(self._classes and self._source and self._classes != self._source)
        self._match = matching_classes(self._classes, self._source) if self._moved else []
        self._used = False

    @classmethod
    def of(
        cls,
        kind: Kind | None,
        file: TensorFile,
        path: str | os.PathLike,
        classes: Sequence[str] | None,
        source_classes: Sequence[str] | None,
    ) -> _ClassRows:
        """Works out the file's class names where rows are to be copied."""
        number = kind.num_classes if kind else None
        if classes is None or number is None or (number == len(classes) and source_classes is None):
            return cls(None, None)  # without other knowledge, as many classes are the same classes
        names = source_classes or file.classes or classes_by_number(number)
        if names is None:
            raise UserError(f"{path}: class rows are to be copied by name, but the names of its {number} are unknown")
        if len(names) != number:
            raise UserError(f"{path}: has {number} classes, but {len(names)} class names were given")
        return cls(classes, names)

    def concern(self, name: str) -> bool:
        """Returns whether rows of this tensor have to be moved even if its shape fits."""
        return self._moved and _CLASS_LAYER.search(name) is not None

    def fill(self, name: str, source: Tensor, fresh: Tensor) -> tuple[Tensor | None, str]:
        """Returns a class layer in the model's shape, and what was done; None where nothing can be taken over."""
        if source.shape[1:] != fresh.shape[1:]:
            return None, f"shape {_shapes(source, fresh)}"
        extra = int(".cls_embed." in name)  # the last row of Mask2Former is "no object"
        if self._moved and len(fresh) - extra != len(self._classes):
            raise UserError(f"{name} has {len(fresh) - extra} classes, {len(self._classes)} class names were given")
        if not self._moved and not extra:
            return None, f"other classes, {_shapes(source, fresh)}; the model's start fresh"
        filled = fresh.clone()
        if extra:
            filled[-1] = source[-1]
        for row, origin in enumerate(self._match):
            if origin is not None:
                filled[row] = source[origin]
        self._used = self._moved
        kept = sum(origin is not None for origin in self._match)
        text = f"{_shapes(source, fresh)}: {kept} rows copied by class name, {len(fresh) - extra - kept} new"
        return filled, text + (", no-object row kept" if extra else "")

    def copied(self) -> dict[str, str]:
        """Returns {class of the model: class of the file} of the rows that were copied."""
        if not self._used:
            return {}
        pairs = zip(self._classes, self._match, strict=True)
        return {name: self._source[origin].strip() for name, origin in pairs if origin is not None}


def _resize(name: str, source: Tensor, target: Tensor) -> tuple[Tensor | None, str]:
    """Returns the tensor in the target's shape and what was done; None and why where the two have nothing in common."""
    shapes = _shapes(source, target)
    if name.endswith("relative_position_bias_table") and source.shape[1:] == target.shape[1:]:
        return _resize_bias_table(source, target.shape[0]), f"{shapes}: bicubic"
    if name.endswith("relative_position_index"):
        return None, "rebuilt for the model's window"
    if re.search(r"query_(embed|feat)\.weight$", name) and source.shape[1:] == target.shape[1:]:
        repeats = -(-target.shape[0] // source.shape[0])
        how = "repeated" if repeats > 1 else "cut"
        return source.repeat(repeats, 1)[: target.shape[0]], f"{shapes}: {how}"
    return None, f"shape {shapes}"


def _resize_bias_table(table: Tensor, entries: int) -> Tensor:
    """Resizes Swin's [(2w - 1)^2, heads] table to another window."""
    old, new = round(table.shape[0] ** 0.5), round(entries**0.5)
    grid = table.T.reshape(1, -1, old, old).float()
    resized = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return resized.reshape(table.shape[1], entries).T.to(table.dtype)


def _check_unambiguous(path: str | os.PathLike, names: Mapping[str, str], target: Mapping[str, Tensor]) -> None:
    origins: dict[str, str] = {}
    for old, name in names.items():
        if name in target and name in origins:
            raise UserError(f"{path}: {origins[name]} and {old} are both {name} of the model")
        origins[name] = old


def _check_family(path: str | os.PathLike, kind: Kind | None, wanted: Kind | None) -> None:
    if kind is None or wanted is None:
        return  # the share of the backbone decides
    if kind.name != wanted.name:
        raise UserError(f"{path}: holds {kind}; the model's backbone is {wanted.backbone_title}")


def _check_backbone(
    path: str | os.PathLike, kind: Kind | None, target: Mapping[str, Tensor], filled: Mapping[str, Tensor]
) -> None:
    expected = [name for name in target if name.startswith("backbone.") and not name.endswith(_DERIVED)]
    if kind is not None and kind.family == "backbone":
        expected = [name for name in expected if not _ABSENT_IN_CLASSIFIERS.match(name)]
    missing = [name for name in expected if name not in filled]
    if len(missing) > (1 - LOWEST_BACKBONE_SHARE) * len(expected):
        found = len(expected) - len(missing)
        examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{path}: fills {found} of {len(expected)} backbone tensors, at least 99 % are needed; lacks {examples}"
        )
