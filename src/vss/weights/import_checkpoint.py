"""`vss import-checkpoint`: a published file becomes our safetensors, and every parameter is accounted for.

With a row, the result is that row's model, ready for `infer` or `init`. Without one it is the model that the file
describes: a full-size segmentor, a backbone, Segment Anything or CascadePSP.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vss.configs.resolved import ConfigDocument, RowSettings
from vss.core.errors import UserError
from vss.core.files import StrPath, sha256_of_file, write_json
from vss.core.log import log, show
from vss.models.build import build_on_meta, build_segmentor
from vss.models.rows import BACKBONES, VIT_ENCODERS, mask2former_config, segmentor_config, upernet_config
from vss.weights.audit import Audit
from vss.weights.card import write_model_card
from vss.weights.fingerprint import Fingerprint, write_fingerprint
from vss.weights.kinds import Kind
from vss.weights.tensor_files import save_tensors
from vss.weights.weights_file import WeightsFile, read_weights


def import_checkpoint(
    *,
    checkpoint: StrPath,
    model: str | None,
    settings: RowSettings,
    weights: StrPath,
    fingerprint: StrPath | None,
    config: StrPath | None,
    audit: StrPath | None,
) -> None:
    """Writes a published checkpoint as safetensors, prints and writes the audit, and what stands beside any weights.

    Args:
        checkpoint: file of any kind that `vss.weights.kinds` knows; its contents decide which.
        model: name written into the fingerprint; None: the row's, or what the file holds.
        settings: config (row), protocol, cfg_options, init_classes ("new" or "copy": class rows by name); or empty.
        weights: safetensors to write.
        fingerprint, config, audit: files to write, None for those not requested. Without a row there is no config.
            Weights with a fingerprint stand for a finished training, so the file has to fill the whole head.

    Raises:
        UserError: the file cannot be read, its kind is not known or not the row's, fewer than 99 % of a backbone's
            tensors are in it, a part of the head that predicts is not, or outputs are requested that its kind does not
            have.
    """
    file = read_weights(checkpoint)
    if file.kind is None:
        names = sorted(file.names.values())
        raise UserError(f"{checkpoint}: of no known kind; its {len(names)} tensors are {', '.join(names[:3])}, ...")
    log(f"import-checkpoint: {checkpoint} holds {file.kind}")
    _check_outputs(file.kind, checkpoint, settings, fingerprint=fingerprint, config=config)

    # Find the place of every tensor, and refuse before anything is written.
    resolved = _resolved(settings) if "config" in settings else None
    tensors, found = _as_row(file, resolved) if resolved else _as_it_is(file, file.kind)
    for line in found.report():
        show(line)
    if resolved is not None:
        _check_head(found, resolved, checkpoint, finished=fingerprint is not None)

    # The weights, and last the fingerprint that stands for them.
    save_tensors(tensors, weights)
    if audit is not None:
        write_json(audit, found.to_json())
    if config is not None and resolved is not None:
        write_json(config, resolved)
    if fingerprint is not None:
        name = model or (resolved["row"] if resolved else str(file.kind))
        facts = Fingerprint(sha256_of_file(weights), "finetune", name, dict(settings), None)
        write_fingerprint(fingerprint, facts)
        write_model_card(Path(weights).parent)


def _check_outputs(kind: Kind, checkpoint: StrPath, settings: RowSettings, **outputs: StrPath | None) -> None:
    """Refuses what a kind cannot have."""
    if kind.is_refiner:
        if "config" in settings:
            raise UserError(f"{checkpoint}: holds {kind}, which is no segmentor of row {settings['config']}")
        for name, path in outputs.items():
            if path is not None:
                raise UserError(f"{checkpoint}: holds {kind}, for which --{name} is not written; leave it out")
    elif "config" not in settings:
        if settings:
            raise UserError(f"settings: {', '.join(sorted(settings))} need the key 'config' (a row; `vss models`)")
        if outputs["config"] is not None:
            raise UserError('--config needs a row: --settings \'{"config": "ROW"}\' (`vss models` lists them)')


def _resolved(settings: RowSettings) -> ConfigDocument:
    from vss.configs.resolve import published_settings, resolve

    return published_settings(resolve(settings))


def _as_row(file: WeightsFile, resolved: ConfigDocument) -> tuple[dict[str, Tensor], Audit]:
    """Returns the whole state dict of a row's model, and the audit."""
    torch.manual_seed(resolved["training"]["seed"])  # tensors that the file lacks are drawn
    state = build_segmentor(resolved["model"]).state_dict()
    copy = resolved["training"]["init_classes"] == "copy"
    filled, found = file.place(state, classes=resolved["classes"] if copy else None)
    return {name: filled.get(name, tensor).to(tensor.dtype) for name, tensor in state.items()}, found


def _as_it_is(file: WeightsFile, kind: Kind) -> tuple[dict[str, Tensor], Audit]:
    """Returns the file's tensors by current names, and the audit against the model that the file describes."""
    target = described_model(kind, where=file.path)
    filled, found = file.place(target, whole=kind.is_refiner)
    return {name: tensor.to(target[name].dtype) for name, tensor in filled.items()}, found


def described_model(kind: Kind, *, where: StrPath) -> dict[str, Tensor]:
    """Returns the state dict, without data, of the full-size model that a file describes.

    Args:
        kind: what the file holds.
        where: the file, for messages.

    Raises:
        UserError: its backbone or head has sizes that no row has, or SAM's image encoder none that was released.
    """
    if kind.is_refiner:
        return _described_refiner(kind, where)
    if kind.name in VIT_ENCODERS:
        raise UserError(f"{where}: holds {kind}, which several rows can start from; name one by --settings")
    if kind.name not in BACKBONES or (kind.family == "segmentor" and kind.head_size is None):
        raise UserError(f"{where}: holds {kind}; no model row has these sizes; pass --settings")
    num_classes, size = kind.num_classes or 1, kind.head_size or "nano"  # of a backbone's file any head
    if kind.head == "Mask2Former":
        heads = mask2former_config(kind.name, num_classes=num_classes, size=size)
    else:
        heads = upernet_config(kind.name, num_classes=num_classes, size=size)
    state = build_on_meta(segmentor_config(kind.name, heads)).state_dict()
    if kind.family == "backbone":
        return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    return state


def _described_refiner(kind: Kind, where: StrPath) -> dict[str, Tensor]:
    with torch.device("meta"):
        if kind.family == "cascadepsp":
            from segmentation_refinement.models.psp.pspnet import RefinementModule

            return RefinementModule().state_dict()
        from segment_anything import sam_model_registry

        if kind.name not in sam_model_registry:
            raise UserError(f"{where}: holds {kind}; released are vit_b, vit_l and vit_h")
        return sam_model_registry[kind.name]().state_dict()


def _check_head(found: Audit, resolved: ConfigDocument, checkpoint: StrPath, *, finished: bool) -> None:
    """Logs that part of the head is not the file's, or refuses it where the weights are to predict as they are."""
    heads = [
        name
        for name in (*found.new, *found.resized)
        if name.startswith("decode_head.") and not name.endswith("num_batches_tracked")
    ]
    if not heads:
        return
    text = f"{len(heads)} tensors of the head are not (all) the file's, such as {heads[0]}"
    if finished and resolved["training"]["init_classes"] == "new":
        raise UserError(
            f"{checkpoint}: {text}; such a model would predict noise: name the file as `init` of a finetune, not as "
            "`weights` (or set cfg_options init_classes: copy, which copies the rows of classes of the same name)"
        )
    log(f"import-checkpoint: {text}: these weights are for `init`, the model has to be trained before it predicts")
