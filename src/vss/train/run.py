"""The stages pretrain and finetune: train in a work folder that survives, publish from it.

Published files: weights.safetensors, config.json (resolved), log.jsonl, audit.json, and last the fingerprint.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vss.configs.resolved import (
    ConfigDocument,
    RowSettings,
    TrainingConfig,
    TrainingSettings,
    read_training_config,
)
from vss.configs.result_settings import result_settings
from vss.core.errors import UserError
from vss.core.files import StrPath, atomic_path, sealed, sha256_of_file, write_json
from vss.core.index import Card, read_card, read_dataset
from vss.core.log import log
from vss.core.masks import PLAIN_IDS
from vss.infer.model_files import CONFIG, WEIGHTS
from vss.prepare.recheck import checked_content
from vss.train import workdir
from vss.train.class_balance import needs_counts, write_pixels
from vss.train.job import TrainingJob, TrainingPart, write_job
from vss.train.launch import MEMORY_FULL, Nodes, follow, node_of, run_processes
from vss.train.workdir import AUDIT, BEST, LOG
from vss.weights.card import write_model_card
from vss.weights.fingerprint import FINGERPRINT, Fingerprint, sha256_of_weights, write_fingerprint

# Those that are published, by the key of their digest in the marker of a finished training.
_PUBLISHED = {"weights": WEIGHTS, "log": LOG, "audit": AUDIT, "config": CONFIG}


def train(
    *,
    stage: str,
    model: str,
    settings: RowSettings,
    index: StrPath | Sequence[StrPath],
    card: StrPath | Sequence[StrPath],
    init: StrPath | None,
    init_card: StrPath | None,
    weights: StrPath,
    work_dir: StrPath,
    gpus: int,
    code: str,
    fingerprint: StrPath | None = None,
    config: StrPath | None = None,
    log_file: StrPath | None = None,
    audit: StrPath | None = None,
    retrain_on_code_change: bool = False,
) -> None:
    """Trains a model, or continues, or finds it finished; then writes the five outputs, the fingerprint last.

    Args:
        stage: "pretrain" or "finetune".
        model: name in the user's config.
        settings: config (row), protocol, cfg_options and any top-level key of the row; batch_size counts images
            per iteration over all GPUs, max_iters optimizer steps, whatever the number of GPUs.
        index, card: the prepared dataset that is trained on; or several, of which the first has the model's classes
            and is validated on. Their weights and class maps are the setting `mix`: a map of weight and train_ids each.
        init: safetensors or published checkpoint to start from.
        init_card: card of the dataset that `init` was trained on here, for init_classes "copy"; None for published
            weights, whose classes follow from the file or from their number.
        weights: file to write.
        work_dir: folder of resumable state of this stage and model; survives failures.
        gpus: on all nodes; 0 trains on the CPU; fewer are used where this many cannot share the batch evenly.
        code: digest of the training code, for the fingerprint.
        fingerprint, config, log_file, audit: files to write; None: next to the weights, named as in the module's
            docstring.
        retrain_on_code_change: whether weights that other code has trained are trained again.

    Raises:
        UserError: settings, data or machine do not allow the training; a loss that is not finite.
        SystemExit: status 143 after a signal, when the state is on disk; the status of a worker that failed.
    """
    from vss.configs.resolve import published_settings, resolve

    if gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before CUDA is initialised
    node = node_of(os.environ, gpus=gpus, visible=_visible_gpus(gpus))
    if node is not None and node.rank > 0:
        follow(node)
        return
    nodes = None if node is None else Nodes(node, gpus=gpus // node.count)
    document = published_settings(resolve(settings))
    resolved = read_training_config(document)
    parts = _parts(index, card, settings)
    index, card = parts[0].index, parts[0].card
    rows, dataset = read_dataset(index, card)
    _check_classes(resolved, dataset, card)
    _check_teacher(resolved.training, parts)

    # The folder is named after all that the result depends on.
    inputs = {
        # Drawn data of other settings have the same frame names, but lie in another folder.
        "dataset": [dataset.sha256, Path(dataset.root).name, list(dataset.label_map), *_coding(dataset)],
        "init": None if init is None else sha256_of_weights(init),
        **({"code": code} if retrain_on_code_change else {}),
        **_mixed_in(parts),
    }
    splits = ("train", "val") if resolved.training.select == "best" else ("train",)
    content = checked_content(rows, dataset, splits)
    for number, part in enumerate(parts[1:], start=1):
        found = checked_content(*read_dataset(part.index, part.card), ("train",))
        content |= {f"{number}.{split}": digest for split, digest in found.items()}
    folder = workdir.folder_for_content(workdir.folder_for(work_dir, document, inputs), content)
    init_classes = _init_classes(resolved, init_card)
    folder = workdir.folder_for_init_classes(folder, init_classes)
    job = TrainingJob(
        what=f"{stage} {model}",
        config=resolved,
        index=index,
        card=card,
        parts=parts,
        init=None if init is None else str(init),
        init_classes=init_classes,
        folder=str(folder),
        gpus=gpus,
    )
    with workdir.locked(folder), nodes or contextlib.nullcontext():
        workdir.note_content(folder, content)
        workdir.note_init_classes(folder, init_classes)
        if workdir.is_finished(folder):
            log(f"{job.what}: finished before in {folder}, publishing")
        else:
            if needs_counts(resolved.training):
                write_pixels(folder, parts, content, what=job.what)
            _train_in(folder, job, document, code, nodes)
        published = Path(weights).parent
        files = {WEIGHTS: weights} | {
            name: given or published / name for name, given in ((LOG, log_file), (AUDIT, audit), (CONFIG, config))
        }
        _publish(folder, files, fingerprint or published / FINGERPRINT, stage, model, settings)
    write_model_card(published, dataset_card=card)


def _train_in(folder: Path, job: TrainingJob, document: ConfigDocument, code: str, nodes: Nodes | None) -> None:
    """Trains to the end in a locked work folder and marks it finished; `document` is written as its config."""
    from vss.train.checkpoint import check_best, checkpoints, remove
    from vss.train.shared_memory import check_shared_memory

    # What cannot work is refused before anything is written.
    training, machines = job.config.training, 1 if nodes is None else nodes.count
    _check_gpus(-(-job.gpus // machines))
    gpus = _even_share(job.gpus, training.batch_size, nodes=machines)
    processes = gpus or machines
    _check_running(training, gpus, processes)
    check_shared_memory(training, processes=processes // machines, nodes=machines)

    # Prepare the folder, and choose what has to be chosen for the training to fit into memory.
    check_best(folder)
    write_json(folder / CONFIG, document)
    job = replace(job, gpus=gpus, config=_fitted(job.config, gpus, job.what))

    # Train: from the newest checkpoint with fewer images at once, as long as the memory turns out to be full.
    while (smaller := _train_or_shrink(folder, job, nodes)) is not None:
        job = smaller

    # Weights of the last checkpoints stay for a soup; resumable state goes only after the marker is there.
    _keep_weights(folder, training.keep_weights)
    workdir.mark_finished(folder, {**_digests(folder), "code": code})
    for path in checkpoints(folder).values():
        remove(path)
    remove(folder / BEST)


def _train_or_shrink(folder: Path, job: TrainingJob, nodes: Nodes | None = None) -> TrainingJob | None:
    """Trains, here or in one process per GPU or node, from the newest whole checkpoint on; returns None at the end.

    Where the GPU's memory is full, returns the job with fewer images at once, and logs it, in `log.jsonl` as well. The
    effective batch stays: there are more gradient accumulation steps.

    Raises:
        UserError: `work`'s; and a full memory where nothing smaller computes the same.
        SystemExit: `run_processes`'s.
    """
    from vss.train.checkpoint import checkpoints, discard_damaged
    from vss.train.estimate import smaller_part
    from vss.train.loop import MemoryFullError, memory_full
    from vss.train.worker import work

    discard_damaged(folder)
    images = job.config.training.micro_batch
    try:
        if job.gpus <= 1 and nodes is None:
            work(job)
            return None
        write_job(job, folder / "job.json")
        try:
            count = job.gpus if nodes is None else max(job.gpus // nodes.count, 1)
            run_processes(
                [sys.executable, "-m", "vss.train.worker", str(folder / "job.json")], count=count, nodes=nodes
            )
            return None
        except SystemExit as ended:
            if ended.code != MEMORY_FULL:
                raise
            raise memory_full(images, job.what) from None
    except MemoryFullError as error:
        part = smaller_part(job.config, gpus=job.gpus, full=str(error))
    _free_memory()  # out here, where the error no longer holds the tensors of the step that failed
    start = max(checkpoints(folder), default=0)
    log(
        f"{job.what}: the GPU's memory is full with {images} images at once; continues from iteration {start} with"
        f" {part}, in more gradient accumulation steps"
    )
    # Of the lines after the checkpoint this one stays, and is published with the others.
    with open(folder / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(sealed({"iter": start, "micro_batch": part})) + "\n")
    return replace(job, config=replace(job.config, training=replace(job.config.training, micro_batch=part)))


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _keep_weights(folder: Path, count: int) -> None:
    """Writes the weights of the newest `count` checkpoints as safetensors."""
    from vss.train.checkpoint import checkpoint_weights, checkpoints
    from vss.weights.tensor_files import save_tensors

    for iteration, path in list(checkpoints(folder).items())[-count:] if count else ():
        save_tensors(checkpoint_weights(path), folder / workdir.kept_name(iteration))


def _even_share(gpus: int, batch_size: int, *, nodes: int = 1) -> int:
    """Returns the most GPUs, at most `gpus` and as many on each node, that can share a batch evenly.

    Raises:
        UserError: not even one process per node can.
    """
    if batch_size % nodes:
        raise UserError(
            f"batch_size {batch_size} cannot be shared evenly by {nodes} nodes; set one that {nodes} divides"
        )
    used = next((count for count in range(gpus, 0, -1) if batch_size % count == count % nodes == 0), 0)
    if used != gpus:
        log(f"batch_size {batch_size} cannot be shared evenly by {gpus} GPUs; {used} will be used")
    return used


def _check_running(training: TrainingSettings, gpus: int, processes: int) -> None:
    if training.precision == "float16" and not gpus:
        raise UserError("precision float16 needs a GPU; use float32 or bfloat16")
    if training.fsdp and (training.ema or training.val_interval or training.precision == "float16"):
        raise UserError(
            "fsdp shards what ema, validation and float16's loss scale need whole; set ema: null, val_interval: 0 and"
            " precision bfloat16, or fsdp: false"
        )
    share = training.batch_size // processes
    if training.micro_batch and share % min(training.micro_batch, share):
        raise UserError(f"micro_batch {training.micro_batch} does not divide a GPU's share of the batch, {share}")


def _fitted(config: TrainingConfig, gpus: int, what: str) -> TrainingConfig:
    """Returns the config with what has to be chosen for it to fit into memory, after the estimate was printed.

    With several GPUs the estimate, which measures the first one, runs in a process of its own: this one only waits for
    the ranks, and would keep memory of that GPU (or the GPU itself, where it takes one process only).
    """
    from vss.train import estimate

    if gpus <= 1:
        return estimate.check_training(config, gpus=gpus, what=what)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(estimate.check_training, config, gpus=gpus, what=what).result()


def _digests(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file that is published, by its key in the marker of a finished training."""
    return {key: sha256_of_file(folder / name) for key, name in _PUBLISHED.items()}


def _publish(
    folder: Path,
    files: Mapping[str, StrPath],
    fingerprint: StrPath,
    stage: str,
    model: str,
    settings: RowSettings,
) -> None:
    """Copies the results of a finished training; settings that do not count change no byte of them.

    Args:
        folder: work folder.
        files: where to, by name in the work folder.
        fingerprint: written last.
        stage, model, settings: for the fingerprint.

    Raises:
        UserError: weights or config are not those that the training wrote.
    """
    facts = workdir.finished_facts(folder)
    for key, name in _PUBLISHED.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; delete {folder}, so that the model is trained again")
        with atomic_path(files[name]) as aside:
            shutil.copyfile(folder / name, aside)
            # Trainings finished by an earlier version have the digest of the weights only.
            if key in facts and sha256_of_file(aside) != facts[key]:
                _refuse_or_log_damaged(folder, name)
    write_fingerprint(
        fingerprint,
        Fingerprint(
            sha256=facts["weights"],
            stage=stage,
            model=model,
            settings=result_settings(settings),
            code=facts["code"],
        ),
    )
    log(f"{stage} {model}: weights {facts['weights'][:12]} in {files[WEIGHTS]}")


def _refuse_or_log_damaged(folder: Path, name: str) -> None:
    differs = f"{folder / name}: its SHA-256 is not the one in finished.json, it was damaged or replaced"
    if name in (WEIGHTS, CONFIG):
        raise UserError(f"{differs}; put the right file back, or delete {folder}, so that the model is trained again")
    log(f"{differs}; published as it is, nothing is computed from it")


def _check_gpus(gpus: int) -> None:
    if (visible := _visible_gpus(gpus)) < gpus:
        raise UserError(f"{gpus} GPUs requested, torch sees {visible} (CUDA_VISIBLE_DEVICES?)")


def _visible_gpus(gpus: int) -> int:
    """Returns how many GPUs this machine has; 0 without a look where none are requested."""
    if not gpus:
        return 0
    import torch

    return torch.cuda.device_count()


def _parts(
    index: StrPath | Sequence[StrPath], card: StrPath | Sequence[StrPath], settings: RowSettings
) -> tuple[TrainingPart, ...]:
    """Returns the datasets of a training with their weights and class maps.

    The values of `mix` stay as the settings have them (1 is not 1.0): the work folder is named after them.
    """
    indices, cards = ([each] if isinstance(each, StrPath) else list(each) for each in (index, card))
    mix = settings.get("mix") or [{}] * len(indices)
    if not len(indices) == len(cards) == len(mix):
        raise UserError(
            f"settings: mix names {len(mix)} datasets, index {len(indices)} and card {len(cards)}; must be as many"
        )
    return tuple(
        TrainingPart(
            str(one),
            str(other),
            entry.get("weight", 1.0),
            _tuple_or_none(entry.get("train_ids")),
            entry.get("strong", False),
            entry.get("negatives", False),
            entry.get("teacher"),
        )
        for one, other, entry in zip(indices, cards, mix, strict=True)
    )


def _tuple_or_none(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


def _mixed_in(parts: Sequence[TrainingPart]) -> dict[str, Any]:
    """Returns what a training on several datasets depends on, but for the first one; nothing for a single one."""
    if len(parts) == 1 and parts[0].weight == 1:
        return {}
    facts = []
    for part in parts:
        dataset = read_card(part.card)
        where = [dataset.sha256, Path(dataset.root).name, list(dataset.label_map), *_coding(dataset)]
        marks: list[Any] = [mark for mark in ("strong", "negatives") if getattr(part, mark)]
        marks += [] if part.teacher is None else [{"teacher": part.teacher}]
        facts.append([part.weight, part.train_ids, where, *marks])
    return {"mix": facts}


def _check_classes(config: TrainingConfig, dataset: Card, card: StrPath) -> None:
    if dataset.label_space != config.dataset:
        raise UserError(
            f"{card}: dataset is {dataset.label_space!r}, row {config.row} is for {config.dataset!r};"
            " other classes are named by the setting label_space"
        )
    if tuple(dataset.classes) != config.classes:
        raise UserError(f"{card}: class names differ from those of {config.dataset}; prepare the dataset again")


def _check_teacher(training: TrainingSettings, parts: Sequence[TrainingPart]) -> None:
    if all(part.teacher is None for part in parts):
        return
    if training.fsdp:
        raise UserError("fsdp shards the weights, and a teacher (ema) averages them whole; set fsdp: false")
    if training.rare_class_sampling is not None:
        raise UserError(
            "rare_class_sampling chooses frames by their labels, and those that a teacher (ema) labels have none; set"
            " it to null"
        )


def _coding(dataset: Card) -> list[dict[str, Any]]:
    """Returns how the masks hold raw ids, where they do not hold them plainly."""
    return [] if dataset.coding == PLAIN_IDS else [asdict(dataset.coding)]


def _init_classes(config: TrainingConfig, init_card: StrPath | None) -> tuple[str, ...] | None:
    """Returns the class names of the outputs of the weights to start from, by which class rows are copied.

    None where only the file has them, and where no row is copied.
    """
    if init_card is None or config.training.init_classes != "copy":
        return None
    dataset = read_card(init_card)
    if dataset.label_space == "coco_stuff" and config.protocol == "as_published":
        return (*dataset.classes[1:], "never trained")  # see IndexDataset.label_shift
    return tuple(dataset.classes)
