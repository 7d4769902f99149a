"""Resumable checkpoints: written aside and renamed, each with its SHA-256 next to it, the newest k kept.

One is a file, or where parameters are sharded over the ranks a folder of files (sharding.py).

A checkpoint holds everything the rest of a training depends on that is not a function of (settings, seed, iteration):
weights, optimizer, schedules, loss scale, the sums of the log line begun and, where used, the moving average. Order of
samples, augmentations and the model's random numbers are functions of the iteration (sampling.py, loop.py).
"""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves_with_path

from vss.core.errors import UserError
from vss.core.log import log
from vss.train import whole
from vss.train.sharding import Parts, own_part, read_shards, shards_are_whole, write_shards
from vss.train.workdir import BEST

_NAME = re.compile(r"iter_(\d+)(\.pth)?")


def checkpoints(folder: Path) -> dict[int, Path]:
    """Returns the checkpoints of a work folder by iteration, oldest first."""
    found = {int(match[1]): path for path in folder.glob("iter_*") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint, which need not be there."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        whole.remove(checkpoint)


def discard_damaged(folder: Path) -> None:
    """Removes checkpoints newer than the newest whole one, so that a training continues from that; logs each."""
    found = list(checkpoints(folder).items())
    while found and not (shards_are_whole if found[-1][1].is_dir() else whole.is_whole)(found[-1][1]):
        _, path = found.pop()
        remove(path)
        onward = f"iteration {found[-1][0]}" if found else "iteration 0, as no other is left"
        log(f"{path}: damaged or cut short, removed; the training continues from {onward}")


def check_best(folder: Path) -> None:
    """Checks the best weights so far, which cannot be made again from a checkpoint.

    Raises:
        UserError: they are damaged.
    """
    if (folder / BEST).exists() and not whole.is_whole(folder / BEST):
        raise UserError(
            f"{folder / BEST}: damaged: its SHA-256 is not the one next to it; delete {folder} to train again, or only"
            " this file to choose among the validations that are still to come"
        )


def bare(model: nn.Module) -> nn.Module:
    """Returns the model inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class ResumableCheckpointHook(Hook):
    """Restores the newest checkpoint before training and writes one every `interval` iterations.

    Args:
        folder: where checkpoints are.
        interval: iterations between two checkpoints; 0 writes none but the one that a signal requests.
        keep: newest checkpoints kept.
    """

    priority = "VERY_LOW"

    def __init__(self, *, folder: str, interval: int, keep: int) -> None:
        assert keep >= 1, keep
        self._folder, self._interval, self._keep = Path(folder), interval, keep

    def before_train(self, runner: Any) -> None:
        """Continues from the newest checkpoint, if there is one."""
        found = checkpoints(self._folder)
        if found:
            iteration, path = list(found.items())[-1]
            self._restore(runner, path)
            runner.train_loop.start_at(iteration)
            log(f"continue from iteration {iteration} ({path})")

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Writes a checkpoint when its time has come."""
        done = batch_idx + 1
        if self._interval and done % self._interval == 0 and done < runner.max_iters:
            self.save(runner, done)

    def save(self, runner: Any, iteration: int) -> None:
        """Writes the checkpoint of `iteration` finished iterations, and removes all but the newest `keep`."""
        if isinstance(runner.model, FSDPModule):
            write_shards(self._folder / f"iter_{iteration}", self.collect(runner))
        elif is_main_process():
            checkpoint = self.collect(runner)
            whole.save_whole(self._folder / f"iter_{iteration}.pth", lambda aside: torch.save(checkpoint, aside))
        if is_main_process():
            for old in list(checkpoints(self._folder).values())[: -self._keep]:
                remove(old)
        barrier()

    @staticmethod
    def collect(runner: Any) -> dict[str, Any]:
        """Returns a checkpoint; its `state_dict` holds the weights to publish (averaged ones, where averaged).

        Raises:
            UserError: a number of it is inf or nan. A gradient that overflows spoils the weights or the optimizer while
                the loss of its iteration is still finite; a checkpoint with them would be continued for ever.
        """
        checkpoint = {
            "state_dict": bare(runner.model).state_dict(),
            "optimizer": runner.optim_wrapper.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
        }
        runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        for path, value in tree_leaves_with_path(checkpoint):
            value = value.to_local() if isinstance(value, DTensor) else value
            if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
                name = " ".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
                iteration = min(runner.iter + 1, runner.max_iters)
                raise UserError(
                    f"training stopped at iteration {iteration}: {name} is not finite after it; the checkpoint before "
                    f"is kept; try precision float32, a lower learning rate or clip_grad"
                )
        return checkpoint

    @staticmethod
    def _restore(runner: Any, path: Path) -> None:
        try:
            # Mapped: the ranks of a machine share its pages, and a 1.1-billion-parameter checkpoint is 13 GB.
            load = read_shards if path.is_dir() else _load
            checkpoint = load(path)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
            raise UserError(f"{path}: not a checkpoint of this training ({type(error).__name__}); delete it") from error
        runner._resume = True  # MMEngine's EMAHook reads the flag to tell resuming from loading
        runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = bare(runner.model)
        own = model.state_dict()
        model.load_state_dict({name: own_part(value, own[name]) for name, value in checkpoint["state_dict"].items()})
        runner.optim_wrapper.load_state_dict(_own_optimizer_state(runner.optim_wrapper, checkpoint["optimizer"]))
        for scheduler, state in zip(runner.param_schedulers, checkpoint["param_schedulers"], strict=True):
            scheduler.load_state_dict(state)


def checkpoint_weights(path: Path) -> dict[str, Tensor]:
    """Returns the weights in a checkpoint, whole where they were sharded; averaged ones, where averaged."""
    state = (read_shards(path) if path.is_dir() else _load(path))["state_dict"]
    return {name: value.joined() if isinstance(value, Parts) else value for name, value in state.items()}


def _load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _own_optimizer_state(optim_wrapper: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of an optimizer as this rank needs it; parameters are numbered in the order of their groups."""
    parameters = [parameter for group in optim_wrapper.param_groups for parameter in group["params"]]
    state = {
        number: {name: own_part(value, parameters[number]) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": state}
