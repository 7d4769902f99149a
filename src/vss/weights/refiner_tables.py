"""Names and shapes that the packages of Segment Anything and CascadePSP want, for the audit of an imported file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from vss.core.errors import UserError
from vss.weights.audit import Audit
from vss.weights.kinds import Kind
from vss.weights.tensor_files import TensorFile


def place_refiner(file: TensorFile, kind: Kind, *, path: str | os.PathLike) -> tuple[dict[str, Tensor], Audit]:
    """Returns the tensors under their package's names (without `module.`), and the audit.

    Args:
        file: weights of kind "sam" or "cascadepsp".
        kind: what they are.
        path: for messages.

    Raises:
        UserError: a tensor is missing or of another shape, or SAM's image encoder is of no released size.
    """
    wanted = _state_dict(kind, path)
    audit, filled = Audit(source=Path(path).name, kind=str(kind)), {}
    for old, tensor in file.tensors.items():
        name = old.removeprefix("module.")
        if name not in wanted:
            audit.unused[old] = "the package's model has no such tensor"
            continue
        if tensor.shape != wanted[name].shape:
            raise UserError(f"{path}: {old} has shape {list(tensor.shape)}, {kind} has {list(wanted[name].shape)}")
        filled[name] = tensor
        if name == old:
            audit.loaded.append(name)
        else:
            audit.renamed[name] = old
    audit.new = [name for name in wanted if name not in filled]
    if lacking := [name for name in audit.new if not name.endswith("num_batches_tracked")]:
        raise UserError(f"{path}: lacks {len(lacking)} tensors of {kind}, such as {lacking[0]}")
    return filled, audit


def _state_dict(kind: Kind, path: str | os.PathLike) -> dict[str, Tensor]:
    """Returns the package's own model as a state dict without data."""
    with torch.device("meta"):
        if kind.family == "cascadepsp":
            from segmentation_refinement.models.psp.pspnet import RefinementModule

            return RefinementModule().state_dict()
        from segment_anything import sam_model_registry

        if kind.name not in sam_model_registry:
            raise UserError(f"{path}: holds {kind}; released are vit_b, vit_l and vit_h")
        return sam_model_registry[kind.name]().state_dict()
