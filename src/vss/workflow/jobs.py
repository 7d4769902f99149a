"""What the jobs of a plan are given: settings, files of weights, notes before a run, short words of commands."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vss.configs.layouts import import_keys
from vss.core.errors import UserError
from vss.core.files import JsonObject, read_json, write_json
from vss.core.log import log
from vss.workflow.digest import stage_digest, trained_with_other_code
from vss.workflow.needs import needed_jobs
from vss.workflow.plan import Plan
from vss.workflow.settings import counted_settings, training_digest

# How a report writes a dataset; another one by its name in the config.
_DATASET_TITLES = {"vspw": "VSPW", "coco_stuff": "COCO-Stuff"}
# What the report shows of the config: all that a result depends on.
_SHOWN_OF_CONFIG = ("protocol", "data", "models", "tta", "ensembles", "refiners", "predictions")
_PROVENANCE = {"settings", "row", "data", "init", "code"}

# ---- training

# What a training requests of SLURM next to its GPUs.
NODE_RESOURCES = ("nodes", "gres", "mpi", "tasks", "tasks_per_gpu")


def node_resources(plan: Plan, stage: str, model: str) -> dict[str, int | str | None]:
    """Returns what a training requests of SLURM next to its GPUs, by `NODE_RESOURCES`; None for nothing.

    On several nodes these are as many GPUs on each. "mpi" has Snakemake's executor start the job in the batch script of
    the first node, from where the training starts its processes on the others; a step around it could hold one node's
    GPUs only. One task per node then goes with it, but none per GPU.
    """
    gpus, nodes = plan.training_gpus(stage, model), plan.training_nodes(stage, model)
    if nodes == 1:
        return dict.fromkeys(NODE_RESOURCES, None) | {"nodes": 1}
    return {"nodes": nodes, "gres": f"gpu:{gpus // nodes}", "mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}


def training_code(plan: Plan, stage: str) -> str:
    """Returns the digest of a training's code, which costs weeks: only where the config demands it."""
    return stage_digest(stage) if plan.config.retrain_on_code_change else "kept"


def training_provenance(plan: Plan, stage: str, name: str) -> dict[str, Any]:
    """Returns all that a training's weights depend on, but for other trainings: settings, data, published files, code.

    Args:
        stage: "pretrain", "finetune" or "refine".
        name: the model's, or the refiner's.
    """
    if stage == "refine":
        settings, row, published = plan.refiners[name].training, None, None
    else:
        settings, row = counted_settings(plan, stage, name), training_digest(plan, f"{stage}/{name}")
        published = plan.published_init(stage, name)
    return {
        "settings": settings,
        "row": row,
        "data": plan.training_data(stage, name),
        "init": plan.content_of(published),
        "code": training_code(plan, "train_refiner" if stage == "refine" else stage),
    }


def settings_of(noted: JsonObject) -> JsonObject:
    """Returns a training's settings from what `rule settings` has noted (`training_provenance`), or as they are."""
    return noted["settings"] if noted.keys() == _PROVENANCE else noted


def training_arguments(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a training's command with its settings joined, and the digest of its code.

    Args:
        command: "pretrain", "finetune" or "train-refiner".
        arguments: settings, as given or as `rule settings` has noted them; running (perhaps), what joins them.
    """
    arguments = dict(arguments)
    given, running = arguments["settings"], arguments.pop("running", None)
    settings = settings_of(given)
    if running is not None and (running or settings is not given):
        from vss.configs.result_settings import joined_settings

        settings = joined_settings(settings, running)
    return {**arguments, "settings": settings, "code": stage_digest(command.replace("-", "_"))}


def trained_with_other_settings(plan: Plan) -> list[str]:
    """Returns the finished trainings whose settings are not those that `rule settings` noted; code does not count."""
    refiners = [f"refine/{name}" for name in plan.refiners if plan.trains_refiner(name)]
    found = []
    for training in [*plan.trainings(), *refiners]:
        folder = Path(plan.config.results, training)
        if not all((folder / name).exists() for name in ("settings.json", "fingerprint.json")):
            continue
        today = training_provenance(plan, *training.split("/"))
        try:
            noted = read_json(folder / "settings.json")
        except UserError:
            noted = {}  # damaged: nothing is known, and the rule writes it again
        if not isinstance(noted, dict) or noted | {"code": None} != today | {"code": None}:
            found.append(training)
    return found


def notes(plan: Plan) -> list[str]:
    """Returns what a user should know before a run: finished weights that today's code or settings did not make."""
    lines = []
    names = trained_with_other_code(plan.config.results, plan.trainings())
    if names and not plan.config.retrain_on_code_change:
        lines.append(
            "note: training code has changed since these weights were made, which are kept"
            f" (retrain_on_code_change: true retrains): {', '.join(names)}"
        )
    if names := trained_with_other_settings(plan):
        lines.append(
            f"note: settings have changed since these were trained: {', '.join(names)}. They are trained again"
            " where Snakemake knows how they were made; where .snakemake was lost, add --forcerun settings"
        )
    return lines


def print_notes(plan: Plan) -> threading.Thread:
    """Prints `notes` while Snakemake plans, since they wait for the look at the datasets' files; returns the thread.

    It is to be joined before a job writes the settings that the notes are about.
    """

    def print_all() -> None:
        try:
            lines = notes(plan)
        except UserError as mistake:
            lines = [str(mistake)]
        for line in lines:
            log(line)

    thread = threading.Thread(target=print_all, name="notes")
    thread.start()
    return thread


def init_weights(plan: Plan, stage: str, model: str) -> str:
    """Returns where the weights are that a training starts from; empty where it starts from none."""
    if stage == "finetune" and (made_here := plan.initial_weights(model)) is not None:
        return os.path.join(plan.config.results, *made_here, "weights.safetensors")
    return plan.published_init(stage, model) or ""


# ---- predictions


def infer_settings(plan: Plan, member: str) -> dict[str, Any]:
    """Returns the settings of running `model.tta`."""
    model, tta = member.split(".")
    return {"prediction": member, "tta": plan.views(model, tta), "protocol": plan.config.protocol}


def import_settings(plan: Plan, name: str) -> dict[str, Any]:
    """Returns the settings of importing a prediction: its row, without what changes nothing in the files."""
    unused = {"splits"} if name in plan.with_scores() else {"splits", "confidence"}
    row = import_keys(plan.config.predictions[name] or {})
    return {"prediction": name, **{key: value for key, value in row.items() if key not in unused}}


def ensemble_settings(plan: Plan, ensemble: str) -> dict[str, Any]:
    """Returns the settings of averaging an ensemble's members."""
    return {"prediction": ensemble, "members": plan.member_settings(ensemble)}


def search_settings(plan: Plan, ensemble: str) -> dict[str, Any]:
    """Returns the settings of the search of an ensemble's weights."""
    chosen = plan.ensembles[ensemble]
    switches = {"search_weights": chosen.search_weights, "fit_temperature": chosen.fit_temperature}
    return {**ensemble_settings(plan, ensemble), **switches}


def proposals_settings(plan: Plan, proposals: str) -> dict[str, Any]:
    """Returns the settings of a set of mask proposals, which all refiners that use it share."""
    return dict(plan.refiners[plan.proposal_sets()[proposals]].proposals)


def proposals_weights(plan: Plan, proposals: str) -> str:
    """Returns the weights that a set of mask proposals needs; empty where it needs none."""
    return plan.refiners[plan.proposal_sets()[proposals]].weights or ""


def proposals_cache(plan: Plan) -> str:
    """Returns the folder that mask proposals of today's code are kept in for other checkouts; empty for none."""
    folder = plan.config.proposals_cache
    return "" if folder is None else os.path.join(folder, stage_digest("propose"))


def flow_method(plan: Plan, flow: str) -> str:
    """Returns how a set of optical flow is estimated."""
    return plan.refiners[plan.flow_sets()[flow]].flow


def flow_weights(plan: Plan, flow: str) -> str:
    """Returns the weights that a set of optical flow needs; empty where it needs none."""
    return plan.refiners[plan.flow_sets()[flow]].flow_weights or ""


def refine_settings(plan: Plan, refiner: str) -> dict[str, Any]:
    """Returns the settings of a refiner."""
    chosen = plan.refiners[refiner]
    return {"method": chosen.method, "settings": chosen.settings, "on_problem": chosen.on_problem}


def search_refiner_settings(plan: Plan, refiner: str) -> dict[str, Any]:
    """Returns the settings with which the search of a refiner's settings begins."""
    return dict(plan.refiners[refiner].settings)


def refiner_weights(plan: Plan, refiner: str) -> str:
    """Returns where CascadePSP's weights are, published or trained here; empty where none are needed."""
    chosen = plan.refiners[refiner]
    if chosen.method != "cascadepsp":
        return ""
    return chosen.weights or os.path.join(plan.config.results, "refine", refiner, "weights.safetensors")


# ---- score


def flow_options(plan: Plan) -> list[str]:
    """Returns the optical flow of the score stage as words of its command line."""
    return _words({"--flow": plan.config.targets.flow, "--flow-weights": plan.config.targets.flow_weights})


def submit_options(plan: Plan) -> list[str]:
    """Returns the settings of the submit stage as words of its command line."""
    return _words({"--fill": plan.config.submit.fill, "--pngs": plan.config.submit.pngs})


def _words(options: Mapping[str, str | None]) -> list[str]:
    """Returns the options that are set as words of a command line."""
    return [word for name, value in options.items() if value for word in (name, value)]


# ---- report


def _marked_title(plan: Plan, prediction: str, *, with_seed: bool = True) -> str:
    """Returns a prediction's name in the report, which says where a model was trained on frames that are scored."""
    marked = " (transductive)" if plan.is_transductive(prediction) else ""
    return plan.title(prediction, with_seed=with_seed) + marked


def _report_row(plan: Plan, name: str) -> dict[str, Any]:
    """Returns a prediction's row of the report, as the schema's `report_job` has it."""
    row, first = plan.predictions[name], plan.first_seed(name)
    settings = {"name": name, "title": _marked_title(plan, name), "table": row.table, "paper": row.paper}
    if first is None:
        return settings
    return {**settings, "seeds_of": first, "seeds_title": _marked_title(plan, first, with_seed=False)}


def report_settings(plan: Plan) -> dict[str, Any]:
    """Returns the settings of the report: its rows, titles and order, and the config's section of it."""
    title = f"Video semantic segmentation on {_DATASET_TITLES.get(plan.dataset, plan.dataset)}"
    section = plan.document["report"]
    if plan.dataset != plan.default_dataset:  # whose classes and videos the section may name
        classes = plan.datasets[plan.dataset].space.classes
        colours = {name: colour for name, colour in section["colours"].items() if name in classes}
        videos = section["videos"]
        section = {**section, "colours": colours, "videos": videos if isinstance(videos, int) else len(videos)}
    ablation = plan.config.report.ablation
    if ablation is not None and plan.data_of(ablation.baseline) != plan.dataset:
        ablation, section = None, {**section, "ablation": None}
    return {
        "title": title,
        **section,
        "jobs": {} if ablation is None else {name: needed_jobs(plan, name) for name in ablation.predictions},
        "titles": {name: plan.title(name) for name in (*plan.models, *plan.ensembles, *plan.imports)},
        "protocol": plan.config.protocol,
        "split": plan.split,
        "rows": [_report_row(plan, name) for name in plan.scored()],
        "shown": plan.shown(),
        "trainings": plan.trainings(),
        "members": {name: plan.members(name) for name in plan.ensembles},
    }


def report_inputs(plan: Plan) -> dict[str, Any]:
    """Returns the report's input files by kind, and by the name of what they belong to."""
    results, split = plan.config.results, plan.split
    return {
        "scores": {name: f"{results}/score/{name}/{split}/scores.json" for name in plan.scored()},
        "per_class": {name: f"{results}/score/{name}/{split}/per_class.csv" for name in plan.scored()},
        "per_video": {name: f"{results}/score/{name}/{split}/per_video.csv" for name in plan.scored()},
        "draws": {name: f"{results}/score/{name}/{split}/draws.npz" for name in plan.scored()},
        "logs": training_logs(plan),
        "fingerprints": {
            f"finetune/{name}": f"{results}/finetune/{name}/fingerprint.json"
            for name in dict.fromkeys(member.split(".")[0] for member in plan.inferred())
        },
        "results": results,
        "config": config_copy(plan),
        "chosen": {name: f"{results}/ensemble/{name}/chosen.json" for name in plan.searched()},
        "refiners_chosen": chosen_of_refiners(plan),
        "labels": {
            name: [f"{results}/predictions/{name}/{split}/{shard}.labels.h5" for shard in plan.shards(split)]
            for name in plan.shown()
        },
    }


def chosen_of_refiners(plan: Plan) -> dict[str, str]:
    """Returns the results of the searches of refiners' settings, by the prediction that such a refiner makes."""
    return {name: f"{plan.config.results}/refine/{name}/chosen.json" for name in plan.searched_refinements()}


def config_copy(plan: Plan) -> str:
    """Returns where the config of the last run is, for the report; no rule makes it, as a change of it reruns none."""
    return f"{plan.config.results}/report/config.json"


def write_config_copy(plan: Plan) -> None:
    """Writes what the report shows of the config."""
    write_json(config_copy(plan), {key: plan.document[key] for key in _SHOWN_OF_CONFIG})


def training_logs(plan: Plan) -> dict[str, str]:
    """Returns the log of every training, by "stage/model"."""
    return {name: f"{plan.config.results}/{name}/log.jsonl" for name in plan.trainings()}


# ---- command lines


def braced(files: list[str], shards: list[str]) -> str:
    """Returns shell words for one file per shard, in bash's short form: `folder/{00..39}.npz`.

    Args:
        files: which differ in the shard's name only, in the order of `shards`.
        shards: names of equal length that count up by one.
    """
    first = files[0]
    if len(files) == 1:
        return shlex.quote(first)
    start = first.rindex(shards[0])
    end = start + len(shards[0])
    return f"{shlex.quote(first[:start])}{{{shards[0]}..{shards[-1]}}}{shlex.quote(first[end:])}"


def scores_options(files: list[str], shards: list[str]) -> str:
    """Returns `--scores` once per member, each with that member's files in bash's short form.

    Args:
        files: of all members, member by member, each in the order of `shards`.
        shards: names of the shards.
    """
    starts = range(0, len(files), len(shards))
    return " ".join(f"--scores {braced(files[start : start + len(shards)], shards)}" for start in starts)
