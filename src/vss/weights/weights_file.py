"""The door of the room: a file of weights is read once, given our names, and fills a model with an audit.

weights = read_weights(path)        # read without running anything, identified, under our names
audit = weights.fill(model)         # every tensor of the model, to predict; or
audit = weights.initialise(model)   # what fits, to train from
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from vss.core.errors import UserError
from vss.weights.audit import Audit
from vss.weights.class_names import classes_by_number
from vss.weights.kinds import Kind, kind_of
from vss.weights.names import in_unfold_order, is_official_swin, naming, to_current_names, why_ignorable
from vss.weights.shapes import ClassRows, is_class_layer, resize
from vss.weights.tensor_files import TensorFile, read_tensor_file
from vss.weights.vit import fit, is_vit

_LOWEST_BACKBONE_SHARE = 0.99
# Rebuilt by the model, or counters that only training reads: their absence is no loss.
_DERIVED = ("relative_position_index", "num_batches_tracked")
_NO_PLACE = "the model has no such tensor"
# A classifier has no norms after its stages; the segmentor's start fresh, as they did in the published trainings.
# DINOv2's published files have no registers.
_ABSENT_IN_CLASSIFIERS = re.compile(r"^backbone\.(norm[0-3]\.|embeddings\.register_tokens$)")


def read_weights(path: str | os.PathLike) -> WeightsFile:
    """Reads a file of weights: published or ours, of a segmentor, a backbone, Segment Anything or CascadePSP.

    Args:
        path: safetensors, or a pickle that torch reads with weights_only=True.

    Raises:
        UserError: the file cannot be read, or two of its tensors are the same one of our models.
    """
    return WeightsFile.of(read_tensor_file(path), path)


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights under the names of our models; `read_weights` makes it.

    Attributes:
        path: the file, for messages.
        tensors: {current name: tensor}.
        names: {current name: name in the file}.
        classes: class names that the file itself gives, or None.
        is_ours: whether this project wrote it, so that its names are ours and it holds nothing else.
    """

    path: str | os.PathLike
    tensors: dict[str, Tensor]
    names: dict[str, str]
    classes: list[str] | None
    is_ours: bool

    @classmethod
    def of(cls, file: TensorFile, path: str | os.PathLike) -> WeightsFile:
        """Gives the tensors of a published file our names; those of our own files have them."""
        if file.is_ours:
            return cls(path, file.tensors, {name: name for name in file.tensors}, file.classes, True)
        tensors: dict[str, Tensor] = {}
        names: dict[str, str] = {}
        reorders = is_official_swin(file.tensors)
        for old, name in to_current_names(file.tensors).items():
            if name in names:
                raise UserError(f"{path}: {names[name]} and {old} are both {name} of our models")
            names[name] = old
            tensors[name] = in_unfold_order(name, file.tensors[old]) if reorders else file.tensors[old]
        return cls(path, tensors, names, file.classes, False)

    @functools.cached_property
    def kind(self) -> Kind | None:
        """What the file holds, or None where that is not recognised."""
        return kind_of(self.tensors, naming=naming(self.names.values()))

    def fill(self, model: nn.Module, *, tolerate_unused: bool = False) -> Audit:
        """Loads every tensor of a model and returns the audit.

        Args:
            model: any module with names of ours.
            tolerate_unused: whether the file may hold tensors that the model has no place for and that are not known
                to be of no use to it; published checkpoints do.

        Raises:
            UserError: a tensor of the model is missing or of another shape, or one of the file has no place.
        """
        filled, audit = self.place(model.state_dict(), whole=True)
        unexpected = [name for name, why in audit.unused.items() if why == _NO_PLACE]
        if unexpected and not tolerate_unused:
            raise UserError(f"{self.path}: has {len(unexpected)} tensors beyond the model's, such as {unexpected[0]}")
        model.load_state_dict(filled, strict=False)
        return audit

    def initialise(
        self, model: nn.Module, *, classes: Sequence[str] | None = None, source_classes: Sequence[str] | None = None
    ) -> Audit:
        """Loads what a segmentor that is to be trained can start from, and returns the audit; arguments as `place`.

        Raises:
            UserError: the file is of another family, or fills less than 99 % of the backbone's tensors.
        """
        filled, audit = self.place(model.state_dict(), classes=classes, source_classes=source_classes)
        model.load_state_dict(filled, strict=False)
        return audit

    def place(
        self,
        target: Mapping[str, Tensor],
        *,
        whole: bool = False,
        classes: Sequence[str] | None = None,
        source_classes: Sequence[str] | None = None,
    ) -> tuple[dict[str, Tensor], Audit]:
        """Finds the place of every tensor of the file in a model's state dict.

        Class layers of another number of classes keep their fresh values unless `classes` is given (of Mask2Former's
        `cls_embed` the last row, "no object", is always taken); Swin's relative position tables of another window are
        resized bicubically; queries are cut or repeated.

        Args:
            target: the state dict of a model; may be without data.
            whole: whether every tensor of the model has to be in the file, in its shape.
            classes: names of the model's classes; rows of class layers are then copied from classes of the same name.
            source_classes: names of the file's classes; by default those it gives itself, else those of the published
                label space with that many classes.

        Returns:
            tensors by their names in the model, in the model's shapes, and the audit.

        Raises:
            UserError: the file is of another family, fills less than 99 % of the backbone's tensors, or, with
                `whole`, lacks a tensor or has one of another shape.
        """
        self._check_family(kind_of(target))
        tensors, names, changed = self.tensors, self.names, dict[str, str]()
        if is_vit(tensors) and not self.is_ours:
            fitted = fit(tensors, names, target)
            tensors, names, changed = fitted.tensors, fitted.names, fitted.changed
        rows = self._class_rows(classes, source_classes)
        audit = Audit(source=Path(self.path).name, kind=str(self.kind or ""))
        filled: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            old = names[name]
            if name not in target:
                audit.unused[old] = why_ignorable(name) or _NO_PLACE
                continue
            if name in changed:
                filled[name], audit.resized[name] = tensor, changed[name]
                continue
            of_classes = is_class_layer(name)
            # The usual case: the tensor as it is. Rows of other classes move even where the shapes agree.
            if tensor.shape == target[name].shape and not (of_classes and rows.moved):
                filled[name] = tensor
                if name == old:
                    audit.loaded.append(name)
                else:
                    audit.renamed[name] = old
                continue
            if whole:
                found, expected = list(tensor.shape), list(target[name].shape)
                raise UserError(f"{self.path}: {old} has shape {found}, expected {expected}")
            resized, how = (rows.fill if of_classes else resize)(name, tensor, target[name])
            if resized is None:
                audit.unused[old] = how
                continue
            filled[name], audit.resized[name] = resized, how
            if of_classes:
                audit.classes = rows.copied()
        audit.new = [name for name in target if name not in filled]
        self._check_backbone(target, filled)
        missing = [name for name in audit.new if not name.endswith(_DERIVED)]
        if whole and missing:
            raise UserError(f"{self.path}: lacks {len(missing)} tensors of the model, such as {missing[0]}")
        return filled, audit

    def _class_rows(self, classes: Sequence[str] | None, source_classes: Sequence[str] | None) -> ClassRows:
        """Works out the file's class names where rows are to be copied."""
        number = self.kind.num_classes if self.kind else None
        if classes is None or number is None or (number == len(classes) and source_classes is None):
            return ClassRows()  # without other knowledge, as many classes are the same classes
        names = source_classes or self.classes or classes_by_number(number)
        if names is None:
            raise UserError(f"{self.path}: the names of its {number} classes are unknown; rows are copied by name")
        if len(names) != number:
            raise UserError(f"{self.path}: has {number} classes, but {len(names)} class names were given")
        return ClassRows(classes, names)

    def _check_family(self, expected: Kind | None) -> None:
        if self.kind is None or expected is None:
            return  # the share of the backbone decides
        if self.kind.name != expected.name:
            raise UserError(f"{self.path}: holds {self.kind}; the model's backbone is {expected.backbone_title}")

    def _check_backbone(self, target: Mapping[str, Tensor], filled: Mapping[str, Tensor]) -> None:
        expected = [name for name in target if name.startswith("backbone.") and not name.endswith(_DERIVED)]
        if self.kind is not None and self.kind.family == "backbone":
            expected = [name for name in expected if not _ABSENT_IN_CLASSIFIERS.match(name)]
        missing = [name for name in expected if name not in filled]
        if len(missing) > (1 - _LOWEST_BACKBONE_SHARE) * len(expected):
            found = len(expected) - len(missing)
            examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise UserError(
                f"{self.path}: fills {found} of {len(expected)} backbone tensors, at least 99 % are needed;"
                f" lacks {examples}"
            )
