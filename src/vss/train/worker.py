"""One process of a training: builds what the job says and hands it to MMEngine's Runner.

`run.train` calls `work` in its own process, or starts one process per GPU with `python -m vss.train.worker JOB`.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
import traceback
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import convert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

import vss.train.datasets
import vss.train.hooks
import vss.train.loop
import vss.train.optim
import vss.train.sampling
import vss.train.teacher
import vss.train.validate  # noqa: F401  all of these register their parts with MMSeg
from vss.configs.resolve import param_scheduler, train_pipeline
from vss.configs.resolved import TrainingSettings
from vss.core.errors import UserError
from vss.core.files import write_json
from vss.core.log import log
from vss.infer.model_files import WEIGHTS
from vss.models.build import build_segmentor
from vss.train.checkpoint import ResumableCheckpointHook, check_best, checkpoints
from vss.train.class_balance import CLASS_PIXELS, log_weights, loss_weights, weighted
from vss.train.disk_space import full_disk_is_one_line
from vss.train.job import TrainingJob, read_job
from vss.train.launch import MEMORY_FULL
from vss.train.loop import POLL_SECONDS, MemoryFullError, loading_process_ended
from vss.train.sharding import gathered, shard_parameters
from vss.train.shared_memory import PREFETCH
from vss.train.workdir import AUDIT, BEST, LOG
from vss.weights.audit import Audit
from vss.weights.tensor_files import read_tensor_file, save_tensors
from vss.weights.weights_file import read_weights


def work(job: TrainingJob) -> None:
    """Trains to the end, continuing from the newest checkpoint, and leaves weights.safetensors in the job's folder.

    Raises:
        UserError: the data, a number that is not finite or the disk stops the training.
        MemoryFullError: the GPU's memory does; fewer images at once may fit.
    """
    with full_disk_is_one_line(Path(job.folder)):
        _train(job)


def _train(job: TrainingJob) -> None:
    training, folder = job.config.training, Path(job.folder)
    _quieten()

    # The model, with the same weights in every rank.
    torch.manual_seed(training.seed)
    weights = loss_weights(training, job.config.classes or (), folder)
    model = build_segmentor(weighted(job.config.model, weights))
    if weights is not None and _rank() == 0:
        log_weights(job.what, job.config.classes or (), weights)
    _initialise(model, job)
    init_process_group(job)

    # MMEngine trains; the default hooks give way to ours.
    runner = _TrainRunner(
        model=model,
        work_dir=str(folder / "mmengine"),
        train_dataloader=_dataloader(job),
        train_cfg=dict(
            type="MicroBatchLoop",
            max_iters=training.iterations,
            accumulate=training.accumulation_steps(_processes()),
            seed=training.seed,
        ),
        optim_wrapper=_optim_wrapper(job),
        param_scheduler=param_scheduler(training),
        default_hooks=dict(runtime_info=None, timer=None, sampler_seed=None, logger=None, checkpoint=None),
        custom_hooks=_hooks(job),
        launcher="pytorch" if _processes() > 1 else "none",
        env_cfg=dict(cudnn_benchmark=True),
        log_level="WARNING",
        default_scope="mmseg",
        randomness=dict(seed=training.seed),
        cfg=Config(_wrapping(job)),
    )
    try:
        runner.train()
    except RuntimeError as error:  # raised wherever this process is when the kernel reports the death
        if not str(error).startswith("DataLoader worker"):
            raise
        raise loading_process_ended(str(error)) from None
    _save_result(runner, training, folder)


class _TrainRunner(Runner):
    """MMEngine's Runner without what it writes and asks of the system at the start, which our own files have."""

    def _log_env(self, env_cfg: dict) -> None:
        pass

    def dump_config(self) -> None:
        pass

    def _init_model_weights(self) -> None:
        pass  # `_initialise` did; every rank did the same

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if not self.cfg.get("fsdp"):
            return super().wrap_model(model_wrapper_cfg, model)
        model = model.to(get_device())
        if sync_bn := self.cfg.get("sync_bn"):
            model = convert_sync_batchnorm(model, sync_bn)
        return shard_parameters(model)

    def build_optim_wrapper(self, optim_wrapper: dict) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # MMSeg's constructor for ConvNeXt prints every parameter
            return super().build_optim_wrapper(optim_wrapper)


def _initialise(model: nn.Module, job: TrainingJob) -> None:
    """Loads the weights to start from, and writes the audit; on resume the checkpoint replaces them anyway."""
    folder = Path(job.folder)
    if checkpoints(folder) and (folder / AUDIT).exists():
        return
    if job.init is None:
        audit = Audit(source="none", new=list(model.state_dict()))
    else:
        classes = job.config.classes if job.config.training.init_classes == "copy" else None
        audit = read_weights(job.init).initialise(model, classes=classes, source_classes=job.init_classes)
    if _rank() == 0:
        write_json(folder / AUDIT, audit.to_json())
        log(f"{job.what}: weights from {audit.summary()}")


def init_process_group(job: TrainingJob) -> None:
    """Sets up the process group of several ranks; MMEngine's own set-up requires a GPU even where none takes part."""
    if _processes() > 1:
        if job.gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Long enough for a validation, or a checkpoint on slow storage, that the other ranks wait for.
        torch.distributed.init_process_group("nccl" if job.gpus else "gloo", timeout=timedelta(hours=1))


def _dataloader(job: TrainingJob) -> dict[str, Any]:
    training = job.config.training
    negatives = any(part.negatives for part in job.parts)  # then all samples say which, be it none
    datasets = [
        dict(
            type="IndexDataset",
            index=part.index,
            card=part.card,
            split="train",
            label_shift=training.label_shift and part is job.parts[0],
            train_ids=part.train_ids,
            num_classes=len(job.config.classes),
            with_negatives=part.negatives,
            pipeline=train_pipeline(
                training, len(job.config.classes), strong=part.strong, negatives=negatives, teacher=part.teacher
            ),
        )
        for part in job.parts
    ]
    weights = [part.weight for part in job.parts]
    rare = training.rare_class_sampling
    by_class = None if rare is None else {"pixels": str(Path(job.folder, CLASS_PIXELS)), "settings": asdict(rare)}
    workers = training.num_workers
    return dict(
        batch_size=training.batch_size // _processes(),
        num_workers=workers,
        **({"prefetch_factor": PREFETCH, "timeout": POLL_SECONDS} if workers else {}),
        pin_memory=job.gpus > 0,
        sampler=dict(type="PositionSampler"),
        dataset=dict(
            type="SeededDataset", datasets=datasets, weights=weights, seed=training.seed, rare_classes=by_class
        ),
        worker_init_fn=dict(type=ignore_signals_in_worker),
    )


def ignore_signals_in_worker(worker_id: int) -> None:
    # A batch system signals every process of a job; loaders that die first would take the checkpoint with them.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _optim_wrapper(job: TrainingJob) -> dict[str, Any]:
    training = job.config.training
    wrapper = {
        "float32": dict(type="FiniteOptimWrapper"),
        "bfloat16": dict(type="BFloat16OptimWrapper"),
        "float16": dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16"),
    }[training.precision]
    return {**training.optim_wrapper, **wrapper, "accumulative_counts": training.accumulation_steps(_processes())}


def _hooks(job: TrainingJob) -> list[dict[str, Any]]:
    training, folder = job.config.training, Path(job.folder)
    # Those of every training; a loss that is not finite is refused before it is logged or saved.
    hooks = [
        dict(type="FiniteLossHook"),
        dict(
            type="LogHook",
            path=str(folder / LOG),
            tensorboard=str(folder / "tensorboard"),
            interval=training.log_interval,
            what=job.what,
        ),
        dict(
            type="ResumableCheckpointHook",
            folder=str(folder),
            interval=training.checkpoint_interval,
            keep=max(training.keep_checkpoints, training.keep_weights),
        ),
        dict(type="StopOnSignalHook"),
    ]

    # Those that settings request.
    if training.val_interval:
        hooks.append(
            dict(
                type="ValidationHook",
                index=job.index,
                card=job.card,
                config=job.config,
                best=str(folder / BEST),
            )
        )
    if any(part.teacher is not None for part in job.parts):
        share = training.batch_size // _processes()
        hooks.append(dict(type="TeacherHook", at_once=share // training.accumulation_steps(_processes())))
    if training.ema:
        hooks.append(dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=training.ema))
    return hooks


def _wrapping(job: TrainingJob) -> dict[str, Any]:
    """Returns what the Runner reads from `cfg`: how the model is wrapped for several processes."""
    if _processes() == 1:
        return {}
    sync_bn = dict(sync_bn="torch") if job.gpus else {}
    if job.config.training.fsdp:
        return dict(fsdp=True, **sync_bn)
    wrapper = dict(type="MMDistributedDataParallel", broadcast_buffers=False, gradient_as_bucket_view=True)
    if not job.gpus:
        wrapper["device_ids"] = None
    return dict(**sync_bn, model_wrapper_cfg=wrapper)


def _save_result(runner: Runner, training: TrainingSettings, folder: Path) -> None:
    if training.fsdp:  # every rank has a part
        state = ResumableCheckpointHook.collect(runner)["state_dict"]
        tensors = {name: gathered(tensor) for name, tensor in state.items()}
    if not is_main_process():
        return
    if training.select == "best":
        check_best(folder)
        # The best stays: a run killed right after this trains its last iterations again, and must find it.
        tensors = read_tensor_file(folder / BEST).tensors
    elif not training.fsdp:
        tensors = ResumableCheckpointHook.collect(runner)["state_dict"]
    save_tensors(tensors, folder / WEIGHTS)


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _quieten() -> None:
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=UserWarning, module="mm(engine|cv|seg|pretrain).*")
    logging.getLogger("mmengine").setLevel(logging.WARNING)


def main(path: str) -> int:
    """Runs the job in a JSON file as the rank that the environment names; returns the exit status.

    A rank that fails leaves at once: the others wait for it in an exchange, and taking the process group apart would
    wait for them.
    """
    _stop_with_the_parent()
    try:
        work(read_job(path))
    except UserError as error:
        log(str(error))
        os._exit(MEMORY_FULL if isinstance(error, MemoryFullError) else 2)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def _stop_with_the_parent() -> None:
    """Has the kernel send SIGTERM when the parent dies, so that no rank outlives a killed job for long."""
    set_parent_death_signal = 1  # linux/prctl.h PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
