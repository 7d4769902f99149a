"""What a config's names and rows must satisfy, checked by `Plan` before any rule is defined.

Every check raises a UserError in one line: the key, what was found, and what is allowed.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vss.configs import is_row
from vss.configs.layouts import ImportSource
from vss.configs.sections import InitModel, ModelRow, RefinerRow, RunSoup, RunTargets
from vss.core.errors import UserError, did_you_mean
from vss.core.extras import EXTRAS

if TYPE_CHECKING:
    from vss.workflow.plan import Plan

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST_PREDICTION = 180  # bytes, of the 255 that file systems allow a name


def check_names(plan: Plan) -> None:
    """Refuses one name for two things, and names of imported predictions that paths cannot hold."""
    owners: dict[str, str] = {}
    tables = {"models": plan.models, "tta": plan.tta, "ensembles": plan.ensembles, "refiners": plan.refiners}
    for kind, table in tables.items():
        for name in table:
            if name in owners:
                raise UserError(f"config: {kind}.{name}: the name is taken by {owners[name]}.{name}; choose another")
            owners[name] = kind
    for name in plan.imports:
        if name in owners:
            raise UserError(
                f"config: predictions.{name}: is imported, and the name is taken by {owners[name]}.{name};"
                " choose another"
            )
        if not _NAME.fullmatch(name):
            raise UserError(
                f"config: predictions: name {name!r} of an imported prediction may hold letters, digits, '_' and"
                " '-' only (a dot separates names in paths)"
            )


def check_models(plan: Plan, row_names: list[str]) -> None:
    """Refuses models without one source of weights, and those whose rows or soups name nothing."""
    for name, model in plan.models.items():
        sources = [key for key in ("finetune", "weights", "soup") if getattr(model, key) is not None]
        if len(sources) != 1:
            found = " and ".join(sources) if sources else "none"
            raise UserError(f"config: models.{name}: needs exactly one of finetune, weights, soup; found {found}")
        if model.pretrain is not None and model.finetune is None:
            raise UserError(f"config: models.{name}.pretrain: allowed only next to finetune")
        if model.weights is not None and model.config is None:
            raise UserError(f"config: models.{name}.config: is missing; weights need the row they belong to")
        if model.config is not None and model.weights is None:
            raise UserError(f"config: models.{name}.config: allowed only next to weights; name the row in finetune")
        if model.pretrain is not None and model.training("finetune").init is not None:
            raise UserError(f"config: models.{name}.finetune.init: the model starts from its pretrain; drop one")
        for stage, training in model.trainings.items():
            if training.gpus % training.nodes:
                raise UserError(
                    f"config: models.{name}.{stage}.nodes: {training.nodes} nodes cannot have equal parts of gpus:"
                    f" {training.gpus}; must divide it"
                )
            if isinstance(training.init, InitModel):
                _check_init_model(plan, f"config: models.{name}.{stage}.init", stage, training.init.model)
        for part in model.soup_parts:
            source = plan.models.get(part)
            of_run = isinstance(model.soup, RunSoup)
            if source is None or source.soup is not None or (of_run and source.finetune is None):
                raise UserError(
                    f"config: models.{name}.soup: no trained model {part!r}{did_you_mean(part, plan.models)}"
                )
        for key, row in _rows_of(model):
            if row not in row_names and not is_row(row):
                raise UserError(
                    f"config: models.{name}.{key}: no row {row!r}{did_you_mean(row, row_names)};"
                    " `vss models` lists them"
                )


def _check_init_model(plan: Plan, where: str, stage: str, start: str) -> None:
    """Refuses a pretrain that starts from another model, and a start from what is no model."""
    if stage == "pretrain":
        raise UserError(f"{where}: {{model: {start}}} is allowed in finetune only; name a path")
    if start not in plan.models:
        raise UserError(f"{where}: no model {start!r}{did_you_mean(start, plan.models)}")


def _rows_of(model: ModelRow) -> Iterator[tuple[str, str]]:
    """Yields (key, row) of every row that a model names."""
    if model.config is not None:
        yield "config", model.config
    for stage, training in model.trainings.items():
        yield f"{stage}.config", training.config


def check_predictions(plan: Plan) -> None:
    """Refuses predictions that name nothing, or that an imported one does not cover."""
    for ensemble in plan.ensembles:
        for member in plan.members(ensemble):
            if member not in plan.imports:
                _check_model_tta(plan, f"ensembles.{ensemble}.members", member)
    for name in plan.predictions:
        _check_prediction(plan, "predictions", name)
    for name in plan.submitted():
        _check_prediction(plan, "targets.submit", name)
    _check_flow("targets", plan.config.targets)
    for name in plan.config.report.overlays:
        if name not in plan.scored():
            raise UserError(f"config: report.overlays: {name!r} is not among predictions")
    if not plan.scored():
        raise UserError(f"config: predictions: none covers {plan.split!r}, which targets.score_split names")
    for key, split, names in (
        ("predictions", plan.split, plan.scored()),
        ("targets.submit", "test", plan.submitted()),
    ):
        for name in names:
            _check_covered(plan, key, name, split)


def _check_prediction(plan: Plan, key: str, name: str) -> None:
    """Refuses a prediction whose name is too long, names nothing, or votes with scores that are not stored."""
    if len(name.encode()) > _LONGEST_PREDICTION:
        raise UserError(
            f"config: {key}: {name[:40]!r}... has {len(name.encode())} bytes; file names hold it, so at most"
            f" {_LONGEST_PREDICTION}"
        )
    base = plan.base(name)
    if base not in plan.ensembles and base not in plan.imports:
        _check_model_tta(plan, key, base, whole=name)
    for source, refiner in plan.refinements(name):
        if plan.needs_scores(refiner) and (source != base or base in plan.ensembles):
            raise UserError(
                f"config: {key}: {name!r}: refiners.{refiner}.settings.votes is 'scores', which are stored of a"
                f" model's and an imported prediction, not of {source!r}; set it to labels or null"
            )


def _check_model_tta(plan: Plan, key: str, name: str, *, whole: str | None = None) -> None:
    """Refuses what is no `model.tta`; `whole` is the prediction that it is the base of."""
    whole = whole or name
    model, *rest = name.split(".")
    if not rest and name not in plan.ensembles:
        near = "" if name in plan.models else did_you_mean(name, [*plan.models, *plan.ensembles, *plan.imports])
        raise UserError(
            f"config: {key}: {whole!r} names no ensemble{near}; a model needs a tta: {name}.{next(iter(plan.tta))}"
        )
    if model in plan.models:
        tta = rest.pop(0)
        if tta not in plan.tta:
            raise UserError(f"config: {key}: {whole!r} names no tta {tta!r}{did_you_mean(tta, plan.tta)}")
    elif model not in plan.ensembles and model not in plan.imports:
        near = did_you_mean(model, [*plan.models, *plan.ensembles, *plan.imports])
        raise UserError(f"config: {key}: {whole!r} names no model {model!r}{near}")
    for refiner in rest:
        if refiner not in plan.refiners:
            near = did_you_mean(refiner, plan.refiners)
            raise UserError(f"config: {key}: {whole!r} names no refiner {refiner!r}{near}")
    if rest or model in plan.ensembles or model in plan.imports:
        raise UserError(
            f"config: {key}: {whole!r} is no `model.tta` or imported prediction, which is what an ensemble holds"
        )


def _check_covered(plan: Plan, key: str, name: str, split: str) -> None:
    """Refuses a prediction that needs an imported one on a split that it does not cover."""
    base = plan.base(name)
    searched = (base in plan.ensembles and plan.searches(base)) or any(
        plan.searches_settings(refiner) for _, refiner in plan.refinements(name)
    )
    needed = {split, "val"} if searched else {split}
    for source in plan.made_of(name):
        if source in plan.imports and (lacking := sorted(s for s in needed if not plan.covers(source, s))):
            raise UserError(
                f"config: {key}: {name!r} needs {source} on {lacking[0]}; predictions.{source}.splits is"
                f" {list(plan.imports[source].settings.splits)}"
            )


def check_uses(plan: Plan) -> None:
    """Refuses what shows once each prediction's dataset is known: classes, files and settings that do not fit it."""
    _check_classes_of_models(plan)
    _check_refiners(plan)
    _check_ensembles(plan)
    _check_pseudo(plan)
    _check_files(plan)
    for name in plan.config.report.colours:
        _check_class(plan, "report.colours", name)
    _check_ablation(plan)
    check_tracker(plan.config.tracker.backend)


def _check_classes_of_models(plan: Plan) -> None:
    """Refuses models that have other classes than the dataset that they predict."""
    for member in plan.inferred():
        model, chosen = member.split(".")[0], plan.data_of(member)
        space, found = plan.datasets[chosen].space, plan.space_of_model(model)
        if (found.name, found.classes) != (space.name, space.classes):
            raise UserError(
                f"config: predictions: model {model!r} predicts the classes of {found.name}, and {chosen}, which"
                f" has those of {space.name}, is scored; name its dataset by predictions.NAME.data, or give one of"
                " them a map to the other (data.NAME.map)"
            )


def _check_refiners(plan: Plan) -> None:
    """Refuses settings that a refiner's method does not read, and unknown classes in them."""
    for name, refiner in plan.refiners.items():
        if refiner.training and not refiner.is_trained:
            raise UserError(f"config: refiners.{name}.training: allowed only next to method cascadepsp without weights")
        if refiner.proposals and not refiner.reads_proposals:
            raise UserError(f"config: refiners.{name}.proposals: allowed only next to method ssa or tubes")
        if refiner.method == "tubes" and refiner.weights and refiner.proposals.get("method") != "sam2":
            raise UserError(
                f"config: refiners.{name}.proposals.method: must be sam2 where tubes have weights; without, tubes are"
                " made of superpixels"
            )
        if refiner.search_settings and refiner.method != "temporal":
            raise UserError(f"config: refiners.{name}.search_settings: allowed only next to method temporal")
        _check_flow(f"refiners.{name}", refiner)
        if refiner.flow_weights and not refiner.follows_flow:
            raise UserError(
                f"config: refiners.{name}.flow: allowed only next to method temporal or tubes, or to"
                " cascadepsp's settings.only_uncertain"
            )
        for key in ("classes", "background"):
            for found in refiner.settings.get(key, []):
                _check_class(plan, f"refiners.{name}.settings.{key}", found)


def _check_ensembles(plan: Plan) -> None:
    """Refuses class weights of unknown classes."""
    for ensemble in plan.ensembles:
        for member in plan.member_settings(ensemble):
            for found in member.get("class_weights", ()):
                _check_class(plan, f"ensembles.{ensemble}.members.{member['name']}.class_weights", found)


def _check_pseudo(plan: Plan) -> None:
    """Refuses pseudo-labels of what is no prediction, and trainings on unknown pseudo-labels."""
    for name, row in plan.pseudo.items():
        for member in plan.pseudo_members(name):
            _check_model_tta(plan, f"pseudo.{name}.of", member)
        for found in row.keep_of:
            _check_class(plan.on(plan.pseudo_data(name)), f"pseudo.{name}.keep_of", found)
    for model in plan.finetuned():
        for name in plan.pseudo_of("finetune", model):
            if name not in plan.pseudo:
                near = did_you_mean(name, plan.pseudo)
                raise UserError(f"config: models.{model}.finetune.extra: no pseudo-labels {name!r}{near}")
            labelled, own = plan.datasets[plan.pseudo_data(name)].space, plan.space_of_model(model)
            if (labelled.name, labelled.classes) != (own.name, own.classes):
                raise UserError(
                    f"config: models.{model}.finetune.extra: pseudo.{name} has the classes of {labelled.name}, and the"
                    f" model those of {own.name}; name data of the model's classes, or map them (data.NAME.map)"
                )
        if plan.pseudo_of("finetune", model) or plan.parts_of_weights(model):
            plan.ancestors(model)
    for model in plan.pretrained():
        if plan.pseudo_of("pretrain", model):
            raise UserError(f"config: models.{model}.pretrain.extra: allowed in finetune only")


def _check_ablation(plan: Plan) -> None:
    """Refuses an ablation of what is not scored, or not on one dataset."""
    ablation = plan.config.report.ablation
    if ablation is None:
        return
    for name in ablation.predictions:
        if name not in plan.scored():
            raise UserError(
                f"config: report.ablation: {name!r} is not among predictions{did_you_mean(name, plan.scored())}"
            )
        if plan.data_of(name) != plan.data_of(ablation.baseline):
            raise UserError(
                f"config: report.ablation: {name!r} is on {plan.data_of(name)}, and the baseline on"
                f" {plan.data_of(ablation.baseline)}; name predictions of one dataset"
            )


def _check_class(plan: Plan, key: str, name: str) -> None:
    """Refuses a class that the predicted dataset does not have."""
    classes = plan.datasets[plan.dataset].space.classes
    if name not in classes:
        raise UserError(f"config: {key}: no class {name!r} in {plan.dataset}{did_you_mean(name, classes)}")


def _check_flow(key: str, row: RunTargets | RefinerRow) -> None:
    """Refuses RAFT without weights, and weights without RAFT."""
    if (row.flow == "raft") != (row.flow_weights is not None):
        raise UserError(
            f"config: {key}.flow_weights: must be the weights of torchvision's raft_large where {key}.flow is"
            f" raft, and null elsewhere; flow is {row.flow!r}, flow_weights {row.flow_weights!r}"
        )


def _check_files(plan: Plan) -> None:
    """Refuses missing folders and files."""
    absent = []
    for name, row in plan.datasets.items():
        patterns = (row.layout.images, row.layout.masks)
        roots = [] if row.root is None else [row.root, *(row.root / part.fixed_folder() for part in patterns)]
        if folder := next((folder for folder in roots if not folder.is_dir()), None):
            absent.append(f"data.{name}.root: no folder {str(folder)!r}")
    weights = [f"{key}: no file {path!r}" for key, path in plan.weight_files() if not Path(path).is_file()]
    if weights:
        weights[-1] += "; README.md says where published weights come from"
    if absent or weights:
        raise UserError("config: " + "; ".join([*absent, *weights]))
    for name, source in plan.imports.items():
        _check_import_files(name, source)


def _check_import_files(name: str, source: ImportSource) -> None:
    """Refuses an imported prediction without files, or without the tables that describe them."""
    tables = [("ids", source.ids)] if source.ids.endswith(".csv") else []
    for split in source.settings.splits:
        if mistake := source.files.filled(split=split).mistake():
            raise UserError(mistake)
        tables += [] if source.segments is None else [("segments", source.segments.path(split=split))]
    for key, path in tables:
        if not os.path.isfile(path):
            raise UserError(f"config: predictions.{name}.{key}: no file {path!r}")


def check_tracker(library: str | None) -> None:
    """Refuses an experiment tracker that is not installed."""
    if library in EXTRAS and importlib.util.find_spec(library) is None:
        raise UserError(
            f"config: tracker.backend: {library} is not installed: run `pip install 'vss[{EXTRAS[library]}]'`"
        )
