"""From a row's name and the user's settings to the resolved config of a training.

Order, later wins: the row's files, its `as_published` changes (under that protocol), settings, cfg_options. Then what
follows from the numbers is written out: model sizes, pipeline, schedules. So a changed crop_size changes every place
that depends on it, and the resolved config shows all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from mmengine.config import Config

from vss import configs
from vss.configs.resolved import RowSettings, TrainingSettings, read_training
from vss.configs.schema import PROTOCOLS, from_json
from vss.core.errors import UserError, did_you_mean
from vss.core.label_space import IGNORE_INDEX, ignore_index, label_dtype
from vss.core.labels import LABEL_SPACES
from vss.models import rows
from vss.models.config_types import NetworkConfig, check_types

# Keys of a row that a user has no reason to change.
_DESCRIPTIVE = ("as_published", "paper_miou", "published_weights", "dataset")
# What torch's optimizers take, written out because a dry run checks it without torch.
OPTIMIZERS = {
    "AdamW": (
        *("lr", "betas", "eps", "weight_decay", "amsgrad"),
        *("maximize", "foreach", "capturable", "differentiable", "fused"),
    ),
    "SGD": (
        *("lr", "momentum", "dampening", "weight_decay", "nesterov"),
        *("maximize", "foreach", "differentiable", "fused"),
    ),
}
# Others of torch.optim, whose arguments torch itself checks.
OTHER_OPTIMIZERS = ("ASGD", "Adadelta", "Adagrad", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop")
# What constructors read of paramwise_cfg: MMEngine's, null as well, any of its keys; the others all of theirs.
_OF_MMENGINE = (
    *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult"),
    *("dwconv_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate"),
)
CONSTRUCTORS = {
    None: _OF_MMENGINE,
    "DefaultOptimWrapperConstructor": _OF_MMENGINE,
    "InternImageLayerDecay": ("depths", "decay_rate", "head_embeddings"),
    "ViTLayerDecay": ("decay_rate",),
    "LearningRateDecayOptimizerConstructor": ("decay_rate", "decay_type", "num_layers"),
}
_CUTOUT = dict(type="RandomCutOut", prob=0.5, n_holes=(1, 4), cutout_ratio=[(0.1, 0.1), (0.2, 0.2)], seg_fill_in=None)
_CLIP_GRAD = ("type", "max_norm", "norm_type", "clip_value", "error_if_nonfinite", "foreach")
# The rest of a wrapper follows from precision and micro_batch.
_WRAPPER = ("optimizer", "constructor", "paramwise_cfg", "clip_grad")


@dataclass(frozen=True)
class TrainedClasses:
    """The classes of a training that are not those of its row's dataset: `label_space` of a training's settings.

    Attributes:
        name: of the label space.
        classes: names; position = train id.
        colours: "#rrggbb" by train id, or none.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[str, ...] = ()


def load(
    name: str,
    cfg_options: RowSettings | None = None,
    *,
    protocol: str = "paper",
    label_space: TrainedClasses | None = None,
) -> Config:
    """Returns a row as an MMEngine config, with `cfg_options` (dotted keys) merged in and model sizes brought in line.

    Args:
        name: of the row.
        cfg_options: values by dotted key.
        protocol: "paper" or "as_published".
        label_space: other classes than those of the row's dataset.

    Raises:
        UserError: unknown row, protocol or key, or a value that is not allowed.
    """
    if not configs.is_row(name):
        raise UserError(f"row {name!r} is unknown{did_you_mean(name, configs.names())}; `vss models` lists them all")
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: found {protocol!r}, allowed are {', '.join(PROTOCOLS)}")
    config = _row_file(name)
    if protocol == "as_published":
        config.merge_from_dict(config.as_published.to_dict())
    config.classes, config.colours = list(LABEL_SPACES[config.dataset].classes), []
    if label_space is not None:
        if label_space.name != config.dataset:
            config.label_shift = False  # what the authors' code did to COCO-Stuff's labels
        config.dataset, config.classes = label_space.name, list(label_space.classes)
        config.colours = list(label_space.colours)
        for head in filter(config.model.get, ("decode_head", "auxiliary_head")):
            config.model[head].num_classes = len(config.classes)
        ignored = ignore_index(label_dtype(len(config.classes)))
        if ignored != IGNORE_INDEX:
            config.model.data_preprocessor.seg_pad_val = ignored
            for head in filter(config.model.get, ("decode_head", "auxiliary_head")):
                config.model[head].ignore_index = ignored
    options = dict(cfg_options or {})
    for key, value in options.items():
        _check_type(key, _what_stands_at(config, key), value)
    # MMEngine merges no map into a row's None.
    unset = [key for key in options if key in config and config[key] is None]
    for key in unset:
        config[key] = options.pop(key)
    try:
        config.merge_from_dict(options)
    except (TypeError, KeyError) as error:  # a map in place of a value, or a value in place of a map
        raise UserError(f"cfg_options: {' '.join(str(error.args[0] if error.args else error).split())}") from None
    training = _check_training(name, config)
    check_types(config.model, where=f"{name}: model")
    _check_optimizer(name, config.optim_wrapper)
    config.row, config.protocol = name, protocol
    for key in ("as_published", "paper_miou", "published_weights"):
        config.pop(key)
    _size_model(config, training)
    return config


def _row_file(name: str) -> Config:
    """Returns a row as its file has it; `timm:NAME` has none of its own."""
    if not name.startswith(configs.TIMM):
        return Config.fromfile(configs.FOLDER / f"{name}.py")
    config = Config.fromfile(configs.FOLDER / "_base_" / "timm.py")
    classes = LABEL_SPACES[config.dataset].num_classes
    heads = rows.timm_config(name.removeprefix(configs.TIMM), num_classes=classes)
    config.model = rows.segmentor_config(None, heads)
    return config


def resolve(settings: RowSettings) -> Config:
    """Returns the config of a training: a row with the settings merged in, its pipeline and schedules written out.

    Args:
        settings: config (the row's name), protocol, cfg_options, label_space (see `TrainedClasses`), and any top-level
            key of the row.

    Raises:
        UserError: see `load`.
    """
    settings = dict(settings)
    if "config" not in settings:
        raise UserError("training settings: key 'config' (the row's name) is missing")
    name, protocol = settings.pop("config"), settings.pop("protocol", "paper")
    cfg_options, label_space = settings.pop("cfg_options", None) or {}, settings.pop("label_space", None)
    settings.pop("mix", None)  # of several datasets: how they are sampled is no matter of the row
    classes = None if label_space is None else from_json(TrainedClasses, label_space)
    config = load(name, {**settings, **cfg_options}, protocol=protocol, label_space=classes)
    training = read_training(name, _plain(config.to_dict()))
    config.train_pipeline = train_pipeline(training, len(config.classes))
    config.param_scheduler = param_scheduler(training)
    return config


def train_pipeline(
    training: TrainingSettings,
    num_classes: int,
    *,
    strong: bool = False,
    negatives: bool = False,
    teacher: float | None = None,
) -> list[dict[str, Any]]:
    """Returns the MMSeg transforms that turn a frame and its mask into a training sample.

    Args:
        training: the settings.
        num_classes: of the model.
        strong: for pseudo-labels: colours are always distorted, and up to four rectangles blackened in half of the
            images, so that a student has to find what its teacher saw in the whole picture.
        negatives: whether samples say which classes unlabelled pixels surely do not have.
        teacher: probability from which on labels count that a teacher gives when the sample is trained on; None where
            frames have labels. The teacher is shown the sample before its colours are distorted.
    """
    ignored = ignore_index(label_dtype(num_classes))
    return [
        dict(type="LoadIndexImage"),
        dict(type="LoadIndexLabels") if teacher is None else dict(type="LoadNoLabels", num_classes=num_classes),
        *([dict(type="LoadNegatives", num_classes=num_classes)] if negatives else []),
        dict(type="RandomResize", scale=training.scale, ratio_range=training.ratio_range, keep_ratio=True),
        dict(
            type="RandomCrop",
            crop_size=training.crop_size,
            cat_max_ratio=training.cat_max_ratio,
            **({} if ignored == IGNORE_INDEX else {"ignore_index": ignored}),
        ),
        dict(type="RandomFlip", prob=training.flip),
        *([] if teacher is None else [dict(type="KeepForTeacher", least=teacher)]),
        *([dict(type="PhotoMetricDistortion")] if training.photometric_distortion or strong else []),
        *([dict(_CUTOUT)] if strong else []),
        dict(
            type="PackSegInputs" if teacher is None and not negatives else "PackIndexSample",
            meta_keys=("img_path", "video", "frame", "ori_shape", "img_shape"),
        ),
    ]


def param_scheduler(training: TrainingSettings) -> list[dict[str, Any]]:
    """Returns MMEngine schedulers whose product is mmcv 1.x's poly policy with linear warm-up (exactly for min_lr 0).

    At iteration i (from 0), with w warm-up iterations: (1 - i / max_iters)^power, times
    1 - (1 - i / w) * (1 - warmup_ratio) while i < w. MMEngine reaches a schedule's end one step before `end`.
    """
    warmup, end = training.warmup_iters, training.max_iters + 1
    poly = dict(type="PolyLR", power=training.power, eta_min=training.min_lr, by_epoch=False, begin=0, end=end)
    if not warmup:
        return [poly]
    linear = dict(type="LinearLR", start_factor=training.warmup_ratio, by_epoch=False, begin=0, end=warmup + 1)
    return [linear, poly]


def published_settings(config: Config) -> dict[str, Any]:
    """Returns what is written next to the weights: everything inference and a reader need, as plain JSON values.

    Keys: row, protocol, dataset (name of the label space), classes (names, position = train id), colours (by train id,
    only where the classes have their own), model (MMEngine config), test (how a frame is fitted, see _base_/vspw.py),
    normalisation {mean, std} of RGB 0..255, training (every other key of the config).
    """
    plain = _plain(config.to_dict())
    head = ("row", "protocol", "dataset", "classes", "model", "test")
    preprocessor = plain["model"]["data_preprocessor"]
    return {
        **{key: plain[key] for key in head},
        **({"colours": plain["colours"]} if plain["colours"] else {}),
        "normalisation": {"mean": preprocessor["mean"], "std": preprocessor["std"]},
        "training": {key: value for key, value in plain.items() if key not in (*head, "colours")},
    }


def _size_model(config: Config, training: TrainingSettings) -> None:
    """Brings the model in line with crop_size, dataset and grad_checkpoint."""
    num_classes = len(config.classes)
    for head in ("decode_head", "auxiliary_head"):
        if head in config.model and config.model[head].num_classes != num_classes:
            raise UserError(
                f"{config.row}: model.{head}.num_classes is {config.model[head].num_classes}, not {num_classes}"
            )
    preprocessor = config.model.data_preprocessor
    preprocessor.pop("size_divisor", None)
    preprocessor.size = training.crop_size
    config.model.test_cfg.protocol = config.protocol
    for part in (config.model.backbone, config.model.decode_head):
        if part is config.model.backbone or "with_cp" in part:
            part.with_cp = bool(training.grad_checkpoint)  # None: `estimate.check_training` decides


def with_checkpointing(model: NetworkConfig, on: bool) -> dict[str, Any]:
    """Returns a model's config with gradient checkpointing (`with_cp`) on or off in every part that has it."""
    return {
        key: {**part, "with_cp": on} if isinstance(part, Mapping) and "with_cp" in part else part
        for key, part in model.items()
    }


def _what_stands_at(config: Config, key: str) -> Any:
    """Returns the row's value at a dotted key, None where a constructor argument may be added."""
    first, *rest = str(key).split(".")
    allowed = sorted(name for name in config if name not in _DESCRIPTIVE)
    if first not in allowed:
        raise UserError(
            f"cfg_options: unknown key {key!r}{did_you_mean(first, allowed)}; allowed: {', '.join(allowed)}"
        )
    node: Any = config[first]
    for depth, part in enumerate(rest, start=1):
        is_last = depth == len(rest)
        if isinstance(node, Mapping):
            # Constructor arguments that a row leaves at their default may be added; `test` lists all it has.
            if part not in node and (not is_last or first == "test"):
                where = ".".join([first, *rest[: depth - 1]])
                raise UserError(f"cfg_options: {key!r}: {where} has no {part!r}; it has {', '.join(sorted(node))}")
            node = node.get(part)
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise UserError(f"cfg_options: {key!r}: {part!r} leads nowhere")
    return node


def _check_type(key: str, old: Any, new: Any) -> None:
    """Refuses a value of another type than the one it replaces, where that can only be a mistake."""
    if isinstance(new, Mapping):
        for name, item in new.items():
            _check_type(f"{key}.{name}", old.get(name) if isinstance(old, Mapping) else None, item)
    elif isinstance(new, (list, tuple)):
        for place, item in enumerate(new):
            known = isinstance(old, (list, tuple)) and place < len(old)
            _check_type(f"{key}.{place}", old[place] if known else None, item)
    elif isinstance(old, Mapping) and "." not in key:
        raise UserError(f"cfg_options: {key!r} is {new!r}, must be a map; its own keys are written {key}.KEY")
    elif isinstance(old, bool) and not isinstance(new, bool):
        raise UserError(f"cfg_options: {key!r} is {new!r}, must be true or false")
    elif isinstance(new, str) and not isinstance(old, str) and (isinstance(old, (int, float)) or _reads_as_number(new)):
        raise UserError(f"cfg_options: {key!r} is the text {new!r}, must be a number (YAML wants 2.0e-5, not 2e-5)")


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_training(name: str, config: Config) -> TrainingSettings:
    """Returns a row's typed settings, checked by the schema and against each other; YAML's 2.0 becomes the number 2."""
    training = read_training(name, _plain(config.to_dict()))
    for key, value in vars(training).items():
        if isinstance(value, int) and isinstance(config[key], float):
            config[key] = value
    if training.label_shift and (training.class_weights or training.rare_class_sampling):
        raise UserError(f"{name}.label_shift: allowed only without class_weights and rare_class_sampling")
    if training.rare_class_sampling is not None:
        config.rare_class_sampling = asdict(training.rare_class_sampling)
    if isinstance(training.class_weights, Mapping):
        for unknown in (key for key in training.class_weights if key not in config.classes):
            near = did_you_mean(unknown, config.classes)
            raise UserError(f"{name}.class_weights: {config.dataset} has no class {unknown!r}{near}")
    least, most = training.ratio_range
    if least > most:
        raise UserError(f"{name}.ratio_range: is {[least, most]}, must be [least, most]")
    if training.stop_iter is not None and training.stop_iter > training.max_iters:
        raise UserError(
            f"{name}.stop_iter: is {training.stop_iter}, after the schedule's end, max_iters {training.max_iters}"
        )
    if training.select == "best" and not training.val_interval:
        raise UserError(f"{name}.select: 'best' needs val_interval, which is 0")
    if any(part.get("with_cp") for part in config.model.values() if isinstance(part, Mapping)):
        raise UserError(f"{name}: with_cp follows from grad_checkpoint; set that")
    return training


def _check_optimizer(name: str, wrapper: NetworkConfig) -> None:
    optimizer = wrapper.get("optimizer")
    if not isinstance(optimizer, Mapping) or "type" not in optimizer:
        raise UserError(f"{name}: optim_wrapper.optimizer is {optimizer!r}, must be a map with type and lr")
    # MMEngine's registry would import and call a dotted name.
    allowed = (*OPTIMIZERS, *OTHER_OPTIMIZERS)
    if optimizer["type"] not in allowed:
        raise UserError(
            f"{name}: optim_wrapper.optimizer.type is {optimizer['type']!r}, allowed are {', '.join(allowed)}"
        )
    arguments = ("type", *OPTIMIZERS.get(optimizer["type"], optimizer))
    constructor = wrapper.get("constructor")
    if constructor not in tuple(CONSTRUCTORS):
        named = ", ".join(str(key) for key in CONSTRUCTORS if key)
        raise UserError(f"{name}: optim_wrapper.constructor is {constructor!r}, allowed are {named}, or null")

    # Every table of the wrapper takes known keys only.
    tables: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
        ("", wrapper, _WRAPPER),
        (f".optimizer ({optimizer['type']})", optimizer, arguments),
        (
            f".paramwise_cfg ({constructor or 'no constructor'})",
            wrapper.get("paramwise_cfg"),
            CONSTRUCTORS[constructor],
        ),
        (".clip_grad", wrapper.get("clip_grad"), _CLIP_GRAD),
    )
    for where, table, known in tables:
        if not isinstance(table, (Mapping, type(None))):
            raise UserError(f"{name}: optim_wrapper{where} is {table!r}, must be a map or null")
        if unknown := next((key for key in table or () if key not in known), None):
            near = did_you_mean(unknown, known) or " (a map with _delete_: true replaces the row's)"
            raise UserError(f"{name}: optim_wrapper{where} takes no {unknown!r}{near}; allowed: {', '.join(known)}")

    # Values.
    clipped_by = (wrapper.get("clip_grad") or {}).get("type", "norm")
    if clipped_by not in ("norm", "value"):
        raise UserError(f"{name}: optim_wrapper.clip_grad.type is {clipped_by!r}, allowed are norm, value")
    given, needed = wrapper.get("paramwise_cfg") or {}, CONSTRUCTORS[constructor]
    if needed is not _OF_MMENGINE and (missing := next((key for key in needed if key not in given), None)):
        raise UserError(f"{name}: optim_wrapper.paramwise_cfg: {constructor} needs {missing!r}")
    embeddings = given.get("head_embeddings", "last")
    if embeddings not in ("last", "first"):
        raise UserError(
            f"{name}: optim_wrapper.paramwise_cfg.head_embeddings is {embeddings!r}, allowed are last, first"
        )
    rate, decay = optimizer.get("lr"), optimizer.get("weight_decay", 0)
    if not _is_number(rate) or rate <= 0:
        raise UserError(f"{name}: optim_wrapper.optimizer.lr is {rate!r}, must be a number above 0")
    if not _is_number(decay) or decay < 0:
        raise UserError(f"{name}: optim_wrapper.optimizer.weight_decay is {decay!r}, must be a number of at least 0")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """Returns a copy of JSON types only: tuples become lists, keys text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
