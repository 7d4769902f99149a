"""The plan of a run: a checked config, and what follows from it by name."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vss.configs.datasets import Dataset, MixEntry, mix_of, read_dataset_row, settings_for_jobs, train_ids_in
from vss.configs.layouts import ImportSource, ReportedRow, import_keys, import_source, reported_row
from vss.configs.schema import section_schema
from vss.configs.sections import InitModel, RunSoup, read_pseudo_settings, read_run_config
from vss.configs.seeds import with_seeds
from vss.core.dataset_content import contents
from vss.core.errors import UserError, did_you_mean
from vss.core.files import canonical_json
from vss.core.label_space import LabelSpace
from vss.core.shards import shard_of
from vss.workflow import checks
from vss.workflow.content_process import ContentProcess
from vss.workflow.digest import content_mark

# The dataset that a training is on, and weights have the classes of, where the config names none.
_TRAINED_ON = {"pretrain": "coco_stuff", "finetune": "vspw", "import": "vspw"}


class Plan:
    """A checked config, which knows what has to be made and with which settings.

    Args:
        document: the config with defaults filled in (`read_config`).
        row_names: names of the rows in src/vss/configs/rows.

    Attributes:
        document: the config as JSON, of which jobs are given parts; every seed of a model is a model of its own.
        config: the same, typed.
        seeds: the runs of models that are trained with several seeds, by the name of the run's model.

    Raises:
        UserError: names that do not exist, clash, or cannot be made; files and folders that are not there.
    """

    def __init__(self, document: dict[str, Any], *, row_names: Iterable[str]) -> None:
        self.document, self.seeds = with_seeds(document)
        config = self.config = read_run_config(self.document)
        self.models, self.tta, self.ensembles, self.refiners = (
            config.models,
            config.tta,
            config.ensembles,
            config.refiners,
        )
        self.pseudo = {
            name: read_pseudo_settings(row, where=f"config: pseudo.{name}") for name, row in config.pseudo.items()
        }
        rows = {name: row or {} for name, row in config.predictions.items()}
        self.predictions: dict[str, ReportedRow] = {name: reported_row(row) for name, row in rows.items()}
        self.split: str = config.targets.score_split
        self._submitted = list(config.targets.submit)
        self._views: dict[str, Plan] = {}
        self._marks: dict[str, str] = {}
        self._contents: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self._content_processes: dict[str, ContentProcess] = {}
        self._content_lock = threading.Lock()
        self._import_contents: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._shards: dict[str, list[str]] = {}
        self.imports: dict[str, ImportSource] = {
            name: import_source(row, where=f"config: predictions.{name}")
            for name, row in rows.items()
            if import_keys(row)
        }
        checks.check_names(self)
        checks.check_models(self, sorted(row_names))
        self.datasets = self._read_datasets()
        checks.check_predictions(self)
        self.dataset: str = self._predicted_dataset()
        self.default_dataset = self.dataset
        self._data_of = self._datasets_of_predictions()
        checks.check_uses(self)

    # -- models

    def pretrained(self) -> list[str]:
        """Returns the models that are trained on another dataset first."""
        return [name for name, model in self.models.items() if model.pretrain is not None]

    def finetuned(self) -> list[str]:
        """Returns the models that are trained here on what is predicted, or in its classes."""
        return [name for name, model in self.models.items() if model.finetune is not None]

    def trainings(self) -> list[str]:
        """Returns every training as "stage/model", pretrainings first."""
        return [f"pretrain/{name}" for name in self.pretrained()] + [f"finetune/{name}" for name in self.finetuned()]

    def imported(self) -> list[str]:
        """Returns the models whose finished weights are named in the config."""
        return [name for name, model in self.models.items() if model.weights is not None]

    def soups(self) -> list[str]:
        """Returns the models that are averages of other models' weights."""
        return [name for name, model in self.models.items() if model.soup is not None]

    def soup_parts(self, model: str) -> list[str]:
        """Returns the models whose weights a soup averages; a single one where it is of one training."""
        return list(self.models[model].soup_parts)

    def soups_of_runs(self) -> list[str]:
        """Returns the soups of the last weights of one training."""
        return [name for name in self.soups() if isinstance(self.models[name].soup, RunSoup)]

    def soup_dataset(self, model: str) -> str:
        """Returns the dataset that a soup of one training is chosen on."""
        return self.trained_on("finetune", self.soup_parts(model)[0])

    def soup_settings(self, model: str) -> dict[str, Any]:
        """Returns the settings of a soup of one training."""
        return self.document["models"][model]["soup"]

    def _kept_for_soups(self, name: str) -> dict[str, Any]:
        """Returns how many checkpoints' weights a training keeps; nothing where no soup is made of them."""
        soups = [model.soup for model in self.models.values() if isinstance(model.soup, RunSoup)]
        last = max((soup.last for soup in soups if soup.of == name), default=1)
        return {"keep_weights": last - 1} if last > 1 else {}

    def training_settings(self, stage: str, model: str) -> dict[str, Any]:
        """Returns a training's settings as its job takes them; GPUs are not part of them."""
        left_out = ("init", "gpus", "nodes", "data", "extra")
        given = self.document["models"][model][stage]  # keys that are not given stay the row's
        settings = {key: value for key, value in given.items() if key not in left_out}
        kept = self._kept_for_soups(model) if stage == "finetune" else {}
        settings["cfg_options"] = {**self.models[model].cfg_options, **kept, **settings["cfg_options"]}
        added = {**self._label_space(stage, model), **self._mix_settings(stage, model)}
        return {**settings, **added, "protocol": self.config.protocol}

    def import_settings(self, model: str) -> dict[str, Any]:
        """Returns what imported weights depend on, but for the file itself."""
        row = self.models[model]
        chosen = {"config": row.config, "cfg_options": row.cfg_options}
        return {**chosen, **self._label_space("import", model), "protocol": self.config.protocol}

    def trained_on(self, stage: str, model: str) -> str:
        """Returns the dataset whose classes a model is trained in, or (stage "import") its weights have."""
        return self.training_mix(stage, model)[0].name

    def training_mix(self, stage: str, model: str) -> list[MixEntry]:
        """Returns the datasets that a model is trained on, the one whose classes it has first."""
        row = self.models[model]
        return mix_of(row.data if stage == "import" else row.training(stage).data, _TRAINED_ON[stage])

    def training_datasets(self, stage: str, model: str) -> list[str]:
        """Returns the names of the datasets that a model is trained on."""
        return [entry.name for entry in self.training_mix(stage, model)]

    def _mix_settings(self, stage: str, model: str) -> dict[str, Any]:
        """Returns the weights and class maps of several datasets as a training takes them; nothing for a single one."""
        first, *others = mix = self.training_mix(stage, model)
        extra = [
            {"weight": weight, "strong": True, **self._marks_of_pseudo(name)}
            for name, weight in self._extra(stage, model).items()
        ]
        if not others and first.weight == 1 and not extra:
            return {}
        target, where = self.datasets[first.name].space, f"config: models.{model}.{stage}.data"
        ids = [train_ids_in(entry, self.datasets[entry.name], target, where=f"{where}: {entry.name}") for entry in mix]
        mixed = [{"weight": entry.weight, "train_ids": each} for entry, each in zip(mix, ids, strict=True)]
        return {"mix": [*mixed, *extra]}

    def _extra(self, stage: str, model: str) -> dict[str, float]:
        """Returns the weights of the pseudo-labels that a model is trained on, by their names."""
        row = self.models[model].trainings.get(stage)
        return {} if row is None else {name.removeprefix("pseudo."): weight for name, weight in row.extra.items()}

    def _marks_of_pseudo(self, name: str) -> dict[str, Any]:
        """Returns what a training has to know of pseudo-labels next to their weight."""
        chosen = self.pseudo[name]
        teacher = {"teacher": chosen.least} if chosen.teacher == "ema" else {}
        return {**teacher, **({"negatives": True} if chosen.negatives else {})}

    def pseudo_of(self, stage: str, model: str) -> list[str]:
        """Returns the names of the pseudo-labels that a model is trained on."""
        return list(self._extra(stage, model))

    def pseudo_settings(self, pseudo: str) -> dict[str, Any]:
        """Returns the settings of pseudo-labels."""
        return self.document["pseudo"][pseudo]

    def pseudo_members(self, pseudo: str) -> list[str]:
        """Returns the predictions that pseudo-labels are made of."""
        return list(self.pseudo[pseudo].of)

    def pseudo_split(self, pseudo: str) -> str:
        """Returns the split that pseudo-labels are of."""
        return self.pseudo[pseudo].split

    def pseudo_data(self, pseudo: str) -> str:
        """Returns the dataset that pseudo-labels are of."""
        return self.pseudo[pseudo].data or self.default_dataset

    def _pseudo_in_use(self) -> list[str]:
        return list(dict.fromkeys(name for model in self.finetuned() for name in self.pseudo_of("finetune", model)))

    def ancestors(self, model: str) -> list[str]:
        """Returns the models that a model's weights depend on, itself first.

        Raises:
            UserError: it depends on itself.
        """
        found, todo = [model], [model]
        while todo:
            name = todo.pop()
            before = self.parts_of_weights(name)
            if model in before:
                raise UserError(
                    f"config: models.{model}: its weights start from themselves; name another model as finetune.init"
                )
            for pseudo in self.pseudo_of("finetune", name):
                before = [*before, *(member.split(".")[0] for member in self.pseudo_members(pseudo))]
            if model in before:
                raise UserError(
                    f"config: models.{model}.finetune.extra: its pseudo-labels are made by itself; name a model of the"
                    " round before"
                )
            todo += [other for other in before if other not in found]
            found += [other for other in before if other not in found]
        return found

    def is_transductive(self, prediction: str) -> bool:
        """Returns whether a prediction is of a model that was trained on frames that are scored or submitted."""
        models = [member.split(".")[0] for member in self.made_of(prediction) if member not in self.imports]
        before = {each for model in models for each in self.ancestors(model)}
        names = {pseudo for model in before for pseudo in self.pseudo_of("finetune", model)}
        return any(self.pseudo_split(name) != "train" for name in names)

    def _label_space(self, stage: str, model: str) -> dict[str, Any]:
        """Returns the classes of a training as its settings name them; nothing where they are those of its row."""
        space = self.datasets[self.trained_on(stage, model)].space
        if space.name == _TRAINED_ON[stage]:
            return {}
        colours = {"colours": list(space.colours)} if space.colours else {}
        return {"label_space": {"name": space.name, "classes": list(space.classes), **colours}}

    def space_of_model(self, model: str) -> LabelSpace:
        """Returns the label space of a model's predictions."""
        return self.datasets[self.dataset_of_weights(model)].space

    def dataset_of_weights(self, model: str) -> str:
        """Returns the dataset whose classes a model has."""
        if parts := self.soup_parts(model):
            return self.dataset_of_weights(parts[0])
        return self.trained_on("import" if self.models[model].finetune is None else "finetune", model)

    def training_gpus(self, stage: str, model: str) -> int:
        """Returns how many GPUs a training requests."""
        return self.models[model].training(stage).gpus

    def training_nodes(self, stage: str, model: str) -> int:
        """Returns on how many nodes a training's GPUs are, where SLURM runs it."""
        return self.models[model].training(stage).nodes

    def published_init(self, stage: str, model: str) -> str | None:
        """Returns the path of published weights that a training starts from."""
        init = self.models[model].training(stage).init
        return init if isinstance(init, str) else None

    def initial_weights(self, model: str) -> tuple[str, str] | None:
        """Returns (stage, model) of the weights made here that a finetune starts from: its pretrain's or another's."""
        row = self.models[model]
        if row.pretrain is not None:
            return "pretrain", model
        init = None if row.finetune is None else row.finetune.init
        return ("finetune", init.model) if isinstance(init, InitModel) else None

    def parts_of_weights(self, model: str) -> list[str]:
        """Returns the models whose weights a model's are made of: a soup's parts, or where its finetune starts."""
        stage, start = self.initial_weights(model) or ("", model)
        return [start] if stage == "finetune" else self.soup_parts(model)

    def published_weights(self, name: str) -> str:
        """Returns the path of the finished weights that the config gives a model or a refiner; empty for none."""
        row = self.models[name] if name in self.models else self.refiners[name]
        return row.weights or ""

    def published_content(self, name: str) -> str | None:
        """Returns a mark of the content of those weights, None for none."""
        return self.content_of(self.published_weights(name) or None)

    def title(self, name: str, *, with_seed: bool = True) -> str:
        """Returns the report's name of a model, ensemble, refiner or prediction, and of which seed it is."""
        run = self.seeds.get(name.split(".")[0]) if with_seed else None
        of_seed = "" if run is None else f", seed {run.seed}"
        rows = (
            table[name] for table in (self.predictions, self.models, self.ensembles, self.refiners) if name in table
        )
        titles = [row.title for row in rows if row.title is not None]
        if titles:
            return titles[0] + of_seed
        if "." in name:
            parts = (part for part in name.split(".") if not self._is_plain(part))
            return " + ".join(self.title(part, with_seed=with_seed) for part in parts)
        return (name if run is None else run.model) + of_seed

    def first_seed(self, prediction: str) -> str | None:
        """Returns the prediction of the first of several seeds; None where its model is trained once."""
        model, dot, rest = prediction.partition(".")
        return f"{self.seeds[model].model}{dot}{rest}" if model in self.seeds else None

    def _is_plain(self, name: str) -> bool:
        """Returns whether a name is that of a tta with one unflipped view at the model's own scale."""
        views = self.tta.get(name)
        return views is not None and (views.get("img_ratios", [1.0]), views.get("flip", False)) == ([1.0], False)

    # -- data

    def split_lists(self, dataset: str) -> list[str]:
        """Returns the files that list a real dataset's splits."""
        row = self.datasets[dataset]
        root = row.settings.root
        if root is None:
            return []
        names = (row.layout.list_file(split) for split in row.layout.splits)
        lists = (os.path.join(root, name) for name in names if name)
        return [path for path in lists if os.path.exists(path)]

    def data_files(self, dataset: str) -> list[str]:
        """Returns the files that a prepared dataset depends on, next to images and masks: lists and class tables."""
        return [*self.split_lists(dataset), *map(str, self.datasets[dataset].tables)]

    def data_settings(self, dataset: str) -> dict[str, Any]:
        """Returns what a prepared dataset depends on; shards are not part of it."""
        settings = settings_for_jobs(dataset, self.config.data)
        return {key: value for key, value in settings.items() if key != "shards"}

    def data_content(self, dataset: str) -> dict[str, str]:
        """Returns by split a digest of a real dataset's lists, images and masks; nothing for drawn data."""
        return self._content_and_images(dataset)[0]

    def index_content(self, dataset: str) -> dict[str, str]:
        """Returns by split a digest of the files that decide which frames a dataset's index has.

        Masks do where frames with damaged ones are left out, and where some frames have none; where these stop the run,
        they leave the index as it is.
        """
        content, images = self._content_and_images(dataset)
        row = self.datasets[dataset]
        return content if row.settings.on_problem == "skip" or not row.layout.all_labelled else images

    def split_content(self, dataset: str, split: str) -> str | None:
        """Returns the digest of the images and masks of one split; None for drawn data."""
        return self.data_content(dataset).get(split)

    def _content_and_images(self, dataset: str) -> tuple[dict[str, str], dict[str, str]]:
        """Returns `contents` of a real dataset, taken once per run."""
        row = self.datasets[dataset]
        if row.root is None:
            return {}, {}
        with self._content_lock:  # the notes before a run ask as well, in a thread
            if dataset not in self._contents:
                started = self._content_processes.pop(dataset, None)
                self._contents[dataset] = contents(row.layout, row.root) if started is None else started.result()
            return self._contents[dataset]

    def start_contents(self) -> None:
        """Starts to look at the files of the real datasets in use, while the plan is made that needs their digests."""
        trained_on = (self.training_datasets(*name.split("/")) for name in self.trainings())
        for name in dict.fromkeys([*self.scored_datasets(), *itertools.chain.from_iterable(trained_on)]):
            row = self.datasets[name]
            if row.root is not None:
                self._content_processes[name] = ContentProcess(row.layout, row.root)

    def data_digest(self, dataset: str, splits: Iterable[str]) -> str:
        """Returns 16 hexadecimal digits that change with a dataset's settings and with the files of some splits.

        What is done with problems changes nothing where there are none, and a training would cost weeks.
        """
        counted = {key: value for key, value in self.data_settings(dataset).items() if key != "on_problem"}
        content: dict[str, Any] = {split: self.data_content(dataset).get(split) for split in splits}
        if tables := self.datasets[dataset].tables:
            content["tables"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in tables]
        return hashlib.sha256(canonical_json([counted, content]).encode()).hexdigest()[:16]

    def training_data(self, stage: str, model: str) -> str:
        """Returns the digest of the data that a training's weights depend on ("refine": of a refiner's).

        Validation only watches a training, unless the weights that validate best are chosen.
        """
        datasets = [self.dataset] if stage == "refine" else self.training_datasets(stage, model)
        settings = {} if stage == "refine" else self.training_settings(stage, model)
        options = settings.get("cfg_options", {})
        best = options.get("select", settings.get("select")) == "best"
        splits = ("train", "val") if best else ("train",)
        first, *others = (self.data_digest(name, splits if name == datasets[0] else ("train",)) for name in datasets)
        return hashlib.sha256(canonical_json([first, *others]).encode()).hexdigest()[:16] if others else first

    # -- predictions

    def data_of(self, prediction: str) -> str:
        """Returns the dataset that a prediction is predicted on and scored with."""
        return self._data_of.get(self.base(prediction), self.dataset)

    def scored_datasets(self) -> list[str]:
        """Returns the datasets that predictions are scored with, that of `targets.data` first."""
        return list(dict.fromkeys(sorted(map(self.data_of, self.predictions), key=lambda name: name != self.dataset)))

    def on(self, dataset: str) -> Plan:
        """Returns the plan of what is predicted and scored on one of the datasets."""
        if dataset not in self._views:
            view = copy.copy(self)
            view.dataset, view._shards = dataset, {}
            view.predictions = {name: row for name, row in self.predictions.items() if self.data_of(name) == dataset}
            view._submitted = [name for name in self._submitted if self.data_of(name) == dataset]
            self._views[dataset] = view
        return self._views[dataset]

    def scored(self) -> list[str]:
        """Returns every prediction that is scored, in the config's order; an imported one where it covers the split."""
        return [name for name in self.predictions if name not in self.imports or self.covers(name, self.split)]

    def submitted(self) -> list[str]:
        """Returns every prediction of the test split that is zipped."""
        return self._submitted

    def shards(self, split: str) -> list[str]:
        """Returns the shard names of a split: "00", "01", ..., with three digits where there are more than 100."""
        if split not in self._shards:  # every job asks, and a list of 1,000 names takes 0.1 ms
            count = self.datasets[self.dataset].settings.shards[split]
            self._shards[split] = [f"{shard:0{2 if count <= 100 else 3}d}" for shard in range(count)]
        return self._shards[split]

    def members(self, ensemble: str) -> list[str]:
        """Returns the members of an ensemble: `model.tta`, or the name of an imported prediction."""
        return list(self.ensembles[ensemble].members)

    def member_settings(self, ensemble: str) -> list[dict[str, Any]]:
        """Returns the members of an ensemble as the stage wants them: name, weight and what else the config gives."""
        members = self.ensembles[ensemble].members
        return [
            {"name": name, "weight": 1, **({"weight": given} if isinstance(given, (int, float)) else given)}
            for name, given in members.items()
        ]

    def refinement(self, prediction: str) -> tuple[str, str] | None:
        """Returns (what is refined, refiner) where the prediction ends in a refiner's name, else None."""
        head, _, last = prediction.rpartition(".")
        return (head, last) if last in self.refiners else None

    def base(self, prediction: str) -> str:
        """Returns the prediction without its refiners: `model.tta` or an ensemble's name."""
        for source, _ in self.refinements(prediction):
            prediction = source
        return prediction

    def inferred(self) -> list[str]:
        """Returns every `model.tta` that is run for what is scored or submitted."""
        made_of = [self.made_of(name) for name in (*self.scored(), *self.submitted())]
        members = self._members_of_pseudo()
        return list(dict.fromkeys(name for names in [*made_of, members] for name in names if name not in self.imports))

    def _members_of_pseudo(self) -> list[str]:
        """Returns the predictions that pseudo-labels in use are made of."""
        return [member for name in self._pseudo_in_use() if name in self.pseudo for member in self.pseudo_members(name)]

    def with_scores(self) -> list[str]:
        """Returns the predictions whose class scores are stored, because an ensemble, a refiner or pseudo-labels in use
        read them.
        """
        return list(self._with_scores)

    @functools.cached_property
    def _with_scores(self) -> list[str]:
        """`with_scores`, which depends on all predictions and is needed by every job that scores or refines one."""
        names = [*self.scored(), *self.submitted()]
        used = {self.base(name) for name in names} & set(self.ensembles)
        members = {member for name in used for member in self.members(name)}
        refined = {source for name in names for source, refiner in self.refinements(name) if self.needs_scores(refiner)}
        return sorted(members | refined | set(self._members_of_pseudo()))

    def calibrated(self, prediction: str) -> bool:
        """Returns whether a prediction's calibration is scored; imported label maps have no confidence of their own."""
        has_confidence = prediction not in self.imports or self.imports[prediction].has_scores
        return self.config.targets.calibration and has_confidence and prediction in self.with_scores()

    def reads_scores(self, prediction: str, refiner: str) -> bool:
        """Returns whether a refiner reads the class scores of what it refines."""
        return self.needs_scores(refiner) is not False and prediction in self.with_scores()

    def needs_scores(self, refiner: str) -> bool | None:
        """Returns whether a refiner needs class scores; None: it reads them where they are stored anyway."""
        chosen = self.refiners[refiner]
        schema = section_schema(chosen.method)["properties"].get("votes")
        if schema is None:
            return None if chosen.only_uncertain else False
        votes = chosen.settings.get("votes", schema["default"])
        return None if votes is None else votes == "scores"

    def reads_flow(self, prediction: str, refiner: str) -> bool:
        """Returns whether a refiner reads optical flow."""
        chosen = self.refiners[refiner]
        return chosen.follows_flow and not (chosen.only_uncertain and self.reads_scores(prediction, refiner))

    def refinements(self, prediction: str) -> Iterator[tuple[str, str]]:
        """Yields (what is refined, refiner) for every refiner that a prediction's name ends in, the last one first."""
        while (refined := self.refinement(prediction)) is not None:
            yield refined
            prediction = refined[0]

    def made_of(self, prediction: str) -> list[str]:
        """Returns what a prediction is made of, refiners aside: an ensemble's members, or itself alone."""
        base = self.base(prediction)
        return self.members(base) if base in self.ensembles else [base]

    def import_content(self, name: str, split: str, shard: str) -> dict[str, str]:
        """Returns digests of what a shard of an imported prediction is read from: the files of its videos, and tables.

        Where the files' names do not give the video for certain, the files of all shards count. Taken once per run.
        """
        source = self.imports[name]
        files = source.files.filled(split=split)
        video_is_known = files.has_part_of_its_own("video")
        if (name, split) not in self._import_contents:
            found = files.contents("video" if video_is_known else "")
            self._import_contents[name, split] = _dealt(found, len(self.on(self.data_of(name)).shards(split)))
        mine = self._import_contents[name, split][int(shard)]
        tables = [source.ids] if source.ids.endswith(".csv") else []
        tables += [] if source.segments is None else [source.segments.path(split=split)]
        marks = [str(self.content_of(table)) for table in tables]
        return {"files": hashlib.sha256(canonical_json(mine).encode()).hexdigest()[:16], "tables": " ".join(marks)}

    def covers(self, name: str, split: str) -> bool:
        """Returns whether an imported prediction has a split."""
        return split in self.imports[name].settings.splits

    def members_possible(self) -> list[str]:
        """Returns every `model.tta` of the config, used or not."""
        return [f"{model}.{tta}" for model in self.models for tta in self.tta]

    def views(self, model: str, tta: str) -> dict[str, Any]:
        """Returns the view settings of a prediction: the model's own, overridden by the tta's."""
        return {**self.models[model].test, **self.tta[tta]}

    def searches(self, ensemble: str) -> bool:
        """Returns whether an ensemble's weights or temperatures are chosen on val."""
        return self.ensembles[ensemble].searches

    def searched(self) -> list[str]:
        """Returns the ensembles in use whose weights or temperatures are chosen on val."""
        used = dict.fromkeys(self.base(name) for name in (*self.scored(), *self.submitted()))
        return [name for name in used if name in self.ensembles and self.searches(name)]

    def searches_settings(self, refiner: str) -> bool:
        """Returns whether a refiner's settings are chosen on val."""
        return self.refiners[refiner].search_settings

    def searched_refinements(self) -> list[str]:
        """Returns the predictions in use that end in a refiner whose settings are chosen on val."""
        used = dict.fromkeys(
            f"{source}.{refiner}"
            for name in (*self.scored(), *self.submitted())
            for source, refiner in self.refinements(name)
            if self.searches_settings(refiner)
        )
        return list(used)

    def trains_refiner(self, refiner: str) -> bool:
        """Returns whether a refiner's small network is trained here."""
        return self.refiners[refiner].is_trained

    def proposal_set(self, refiner: str) -> str:
        """Returns the name of a refiner's mask proposals; refiners whose proposals are made alike share them."""
        chosen = self.refiners[refiner]
        source = "superpixels" if chosen.weights is None else chosen.proposals.get("method", "sam")
        made_of = {"settings": chosen.proposals, "weights": self.content_of(chosen.weights)}
        if chosen.weights_config is not None:
            made_of["config"] = self.content_of(chosen.weights_config)
        made_by = canonical_json(made_of)
        return f"{source}-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}"

    def content_of(self, published: str | None) -> str | None:
        """Returns a mark of a published file's content, None for no file; read once, for all the jobs that ask."""
        if published is None:
            return None
        if published not in self._marks:
            self._marks[published] = content_mark(published)
        return self._marks[published]

    def proposal_sets(self) -> dict[str, str]:
        """Returns every set of mask proposals with a refiner that uses it."""
        return {self.proposal_set(name): name for name in self.refiners if self.reads_proposals(name)}

    def reads_proposals(self, refiner: str) -> bool:
        """Returns whether a refiner reads mask proposals."""
        return self.refiners[refiner].reads_proposals

    def proposals_content(self, proposals: str) -> str | None:
        """Returns a mark of the content of the weights that a set of mask proposals needs, None for none."""
        return self.published_content(self.proposal_sets()[proposals])

    def proposals_gpu(self, proposals: str) -> int:
        """Returns how many GPUs making a set of mask proposals requests: superpixels are made on the CPU."""
        return int(bool(self.published_weights(self.proposal_sets()[proposals])))

    def flow_set(self, refiner: str) -> str:
        """Returns the name of the optical flow that a refiner follows: the method, and its weights' content."""
        chosen = self.refiners[refiner]
        content = self.content_of(chosen.flow_weights)
        return chosen.flow if content is None else f"{chosen.flow}-{content[:8]}"

    def flow_sets(self) -> dict[str, str]:
        """Returns every set of optical flow with a refiner that follows it."""
        return {self.flow_set(name): name for name, row in self.refiners.items() if row.follows_flow}

    def flow_gpu(self, flow: str) -> int:
        """Returns how many GPUs estimating a set of optical flow requests: DIS runs on the CPU."""
        return int(self.refiners[self.flow_sets()[flow]].flow == "raft")

    def refiner_gpu(self, refiner: str) -> int:
        """Returns how many GPUs a refiner requests: the vote over segments is counted on the CPU."""
        return int(self.refiners[refiner].method == "cascadepsp")

    def shown(self) -> list[str]:
        """Returns the predictions shown as overlays: the ones named, else the last refined one and its source."""
        if named := [name for name in self.config.report.overlays if name in self.predictions]:
            return named
        for name in reversed(self.scored()):
            if refined := self.refinement(name):
                return [refined[0], name]
        return self.scored()[-1:]

    def _read_datasets(self) -> dict[str, Dataset]:
        """Returns the rows of `data` as they resolve.

        Raises:
            UserError: a mistake in one, or a training on an unknown dataset.
        """
        rows = self.config.data
        try:
            datasets = {name: read_dataset_row(name, row, rows) for name, row in rows.items()}
        except UserError as error:
            raise UserError(f"config: {error}") from None
        for name, model in self.models.items():
            for stage in [*model.trainings, *(["import"] if model.weights is not None else [])]:
                names = self.training_datasets(stage, name)
                for trained_on in (each for each in names if each not in datasets):
                    key = "data" if stage == "import" else f"{stage}.data"
                    near = did_you_mean(trained_on, datasets)
                    raise UserError(
                        f"config: models.{name}.{key}: no dataset {trained_on!r}{near}; data has {', '.join(datasets)}"
                    )
        return datasets

    def _predicted_dataset(self) -> str:
        """Returns the dataset that is predicted and scored where a prediction names none.

        Raises:
            UserError: `targets.data`, or the `data` of a prediction, names none.
        """
        named = {f"predictions.{name}": row.data for name, row in self.predictions.items()}
        for key, data in {**named, **{f"pseudo.{name}": row.data for name, row in self.pseudo.items()}}.items():
            if data is not None and data not in self.datasets:
                raise UserError(f"config: {key}.data: no dataset {data!r}{did_you_mean(data, self.datasets)}")
        chosen = self.config.targets.data
        if chosen is not None and chosen not in self.datasets:
            raise UserError(f"config: targets.data: no dataset {chosen!r}{did_you_mean(chosen, self.datasets)}")
        if chosen is not None:
            return chosen
        unnamed = [name for name in (*self.scored(), *self.submitted()) if not self._named_data(name)]
        members = [member for name in unnamed for member in self.made_of(name) if member not in self.imports]
        if members:
            return self._dataset_of_classes(members[0].split(".")[0])
        used = [self._named_data(name) for name in self.predictions]
        return next(iter(self.datasets)) if unnamed or not used else used[0]

    def _named_data(self, prediction: str) -> str:
        """Returns the dataset that a prediction's row names, or that of what it refines; empty where none does."""
        names = (name for name in (prediction, self.base(prediction)) if name in self.predictions)
        return next((data for name in names if (data := self.predictions[name].data) is not None), "")

    def _datasets_of_predictions(self) -> dict[str, str]:
        """Returns the dataset of every `model.tta`, ensemble and imported prediction in use.

        Raises:
            UserError: it would be predicted on two, or a stage that knows one dataset only is to run on another.
        """
        found: dict[str, str] = {}
        for pseudo in filter(self.pseudo.__contains__, self._pseudo_in_use()):
            chosen = self.pseudo_data(pseudo)
            for member in self.pseudo_members(pseudo):
                if found.setdefault(member, chosen) != chosen:
                    raise UserError(
                        f"config: pseudo.{pseudo}.data: is {chosen!r}, and {member} is predicted on {found[member]} as"
                        " well; a tta of another name is another prediction"
                    )
        for name in (*self.predictions, *self.submitted()):
            base, chosen = self.base(name), self._named_data(name) or self.dataset
            where = f"config: predictions.{name}.data: is {chosen!r}"
            if chosen != self.dataset:
                if name != base:
                    raise UserError(f"{where}, and refiners run on {self.dataset} only; drop .{name.split('.')[-1]}")
                if base in self.ensembles and self.searches(base):
                    raise UserError(
                        f"{where}, and weights are searched on {self.dataset} only; give ensembles.{base} some"
                    )
            for part in dict.fromkeys((base, *self.made_of(base))):
                if found.setdefault(part, chosen) != chosen:
                    raise UserError(
                        f"{where}, and {part} is predicted on {found[part]} as well; a tta of another name is another"
                        " prediction"
                    )
        return found

    def _dataset_of_classes(self, model: str) -> str:
        """Returns the dataset whose own classes a model has: the one it was trained on, unless that is mapped."""
        trained_on = self.dataset_of_weights(model)
        target = self.datasets[trained_on].settings.map
        if target is None:
            return trained_on
        if target.to in self.datasets:
            return target.to
        space = self.datasets[trained_on].space
        return next((name for name, row in self.datasets.items() if row.own_space == space), trained_on)

    def weight_files(self) -> Iterator[tuple[str, str]]:
        """Yields (key in the config, path) of every file of published weights."""
        for name, model in self.models.items():
            if model.weights is not None:
                yield f"models.{name}.weights", model.weights
            for stage, training in model.trainings.items():
                if isinstance(training.init, str):
                    yield f"models.{name}.{stage}.init", training.init
        for name, refiner in self.refiners.items():
            if refiner.weights is not None:
                yield f"refiners.{name}.weights", refiner.weights
            if refiner.weights_config is not None:
                yield f"refiners.{name}.weights", refiner.weights_config
            if refiner.flow_weights is not None:
                yield f"refiners.{name}.flow_weights", refiner.flow_weights
        if self.config.targets.flow_weights is not None:
            yield "targets.flow_weights", self.config.targets.flow_weights


def _dealt(digests: Mapping[str, str], shards: int) -> list[dict[str, str]]:
    """Returns the digests of every shard's videos; one of no video is every shard's."""
    dealt: list[dict[str, str]] = [{} for _ in range(shards)]
    for video, digest in digests.items():
        for shard in [shard_of(video, shards)] if video else range(shards):
            dealt[shard][video] = digest
    return dealt


def any_of(names: Iterable[str]) -> str:
    """Returns a regular expression that matches exactly the names; one that matches nothing where there are none."""
    return "|".join(sorted(re.escape(name) for name in names)) or "(?!)"


def export_paths_to_jobs(repository: Path) -> None:
    """Makes jobs find this interpreter and this checkout, through PATH and PYTHONPATH.

    The project need not be installed where jobs run (a conda environment has its dependencies only), and its
    interpreter need not be first on PATH (.venv/bin/snakemake may be called without activating the environment).
    """
    sources = [str(repository / "src"), str(repository / "cuda_ops")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
