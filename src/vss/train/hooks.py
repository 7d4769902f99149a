"""What watches a training: log and progress lines, the guard against NaN, and stopping on a signal."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from vss.core.errors import UserError
from vss.core.files import sealed, unsealed, write_text
from vss.core.log import counted, log
from vss.train.checkpoint import ResumableCheckpointHook

GRAD_NORM = "train/grad_norm"  # where MMEngine keeps it
STOPPED = 143  # exit status of a process that ended by SIGTERM


@HOOKS.register_module()
class LogHook(Hook):
    """Writes one JSON line every `interval` iterations, TensorBoard scalars, and a progress line now and then.

    Line: iter, lr (of parameters without a factor of their own), seconds (of one iteration, mean since the line
    before), data_seconds (of them waiting for samples), memory_mib (peak of the GPU, or of the process), grad_norm
    (before clipping, where gradients are clipped) and every loss (means since the line before). Validation adds lines
    with iter and its metrics. On resume, lines after the checkpoint are dropped and the sums of the line begun are
    taken from it: but for times and memory, the log is that of a training that was never interrupted.

    Args:
        path: of the JSON lines.
        tensorboard: folder of the event files.
        interval: iterations between two lines.
        what: what starts a progress line.
        seconds_between_lines: of progress on the console.
    """

    priority = "BELOW_NORMAL"

    def __init__(
        self, *, path: str, tensorboard: str, interval: int, what: str, seconds_between_lines: float = 15.0
    ) -> None:
        self._path, self._tensorboard = Path(path), Path(tensorboard)
        self._interval, self._what, self._seconds_between_lines = interval, what, seconds_between_lines
        self._sums: dict[str, float] = {}
        self._count = 0
        self._seconds_before = 0.0  # that the iterations summed up so far took before the training was resumed

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the sums of the line begun."""
        seconds = time.monotonic() - self._mark
        checkpoint["log_line"] = {"sums": dict(self._sums), "count": self._count, "seconds": seconds}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Takes over the sums of the line begun; checkpoints of earlier versions have none."""
        begun = checkpoint.get("log_line", {"sums": {}, "count": 0, "seconds": 0.0})
        self._sums, self._count, self._seconds_before = dict(begun["sums"]), begun["count"], begun["seconds"]

    def before_train_epoch(self, runner: Any) -> None:
        """Opens the files; runs after the checkpoint was restored."""
        self._first = runner.iter
        self._start = self._last_line = time.monotonic()
        self._mark = self._start - self._seconds_before
        self._lines = None
        if is_main_process():
            self._drop_lines_after(runner.iter)
            self._lines = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 closed in after_run
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._tensorboard), purge_step=runner.iter + 1)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Adds up losses; writes when a line is due."""
        facts = {"data_seconds": getattr(runner.train_loop.dataloader_iterator, "waited", 0.0)}
        if runner.optim_wrapper.clip_grad_kwargs and GRAD_NORM in runner.message_hub.log_scalars:
            norm = runner.message_hub.get_scalar(GRAD_NORM).current()
            facts |= {"grad_norm": norm} if math.isfinite(norm) else {}  # float16's scaler skips such steps
        for key, value in {**facts, **outputs}.items():
            self._sums[key] = self._sums.get(key, 0.0) + float(value)
        self._count += 1
        done = batch_idx + 1
        if done % self._interval == 0 or done == runner.max_iters:
            now = time.monotonic()
            line = {
                "iter": done,
                "lr": _base_rate(runner.optim_wrapper),
                "seconds": round((now - self._mark) / self._count, 4),
                "memory_mib": round(_peak_memory() / 2**20),
                **{key: round(value / self._count, 6) for key, value in self._sums.items()},
            }
            self.write(line)
            self._sums, self._count, self._mark = {}, 0, now
            if now - self._last_line > self._seconds_between_lines or done in (self._interval, runner.max_iters):
                self._log_progress(runner, line, now)

    def write(self, line: dict[str, float]) -> None:
        """Appends a line and its TensorBoard scalars."""
        if self._lines is not None:
            self._lines.write(json.dumps(sealed(line)) + "\n")
            self._lines.flush()
            for key, value in line.items():
                if key != "iter":
                    self._writer.add_scalar(key if "/" in key else f"train/{key}", value, line["iter"])

    def after_run(self, runner: Any) -> None:
        """Closes the files."""
        if self._lines is not None:
            self._lines.close()
            self._writer.close()

    def _log_progress(self, runner: Any, line: dict[str, float], now: float) -> None:
        self._last_line = now
        if not is_main_process():
            return
        left = (now - self._start) / (line["iter"] - self._first) * (runner.max_iters - line["iter"])
        log(
            f"{self._what}: {line['iter']}/{runner.max_iters} iterations, loss {line['loss']:.3f}, "
            f"lr {line['lr']:.2e}, {line['seconds']:.2f} s each, {_clock(left)} left"
        )

    def _drop_lines_after(self, iteration: int) -> None:
        """Keeps the lines up to an iteration; a damaged one is dropped, as it must not end the training."""
        if not self._path.exists():
            return
        kept, damaged = [], 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            number = _iteration_of(line)
            damaged += number is None
            if number is not None and number <= iteration:
                kept.append(line.decode())
        if damaged:
            log(f"{self._path}: {counted(damaged, 'line')} cannot be read (damaged, or cut short), dropped")
        write_text(self._path, "".join(kept))


def _iteration_of(line: bytes) -> int | None:
    """Returns the iteration of a line of the log, None where the line is not whole."""
    try:
        number = unsealed(json.loads(line.decode()))["iter"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return number if line.endswith(b"\n") and isinstance(number, int) else None


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops the training at the first loss that is not a finite number, and names the frames of that batch.

    Raises:
        UserError: with the iteration, the losses and the frames.
    """

    priority = "VERY_HIGH"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Looks at every loss of the iteration."""
        losses = {key: float(value) for key, value in outputs.items()}
        if all(math.isfinite(value) for value in losses.values()):
            return
        wrong = ", ".join(f"{key} {value}" for key, value in losses.items() if not math.isfinite(value))
        raise not_finite(batch_idx + 1, wrong, data_batch)


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """On SIGTERM or SIGUSR1 finishes the iteration, writes a checkpoint and exits with status 143.

    With several GPUs all ranks agree on the iteration: the signal may reach them at different times.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._requested = False

    def before_run(self, runner: Any) -> None:
        """Installs the handlers, before anything slow starts."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: Any) -> None:
        self._requested = True

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leaves if a signal came."""
        requested = torch.tensor(int(self._requested))
        if get_world_size() > 1:
            requested = requested.to(next(runner.model.parameters()).device)
            all_reduce(requested, op="max")
        done = batch_idx + 1
        if requested and done != runner.max_iters:
            self._leave(runner, done)

    def leave_without_batch(self, runner: Any) -> None:
        """Leaves if a signal came while a batch is waited for.

        One process writes a checkpoint. Several cannot agree on one, as the others wait for this one's gradients: the
        newest checkpoint stays.
        """
        if not self._requested:
            return
        if get_world_size() == 1 and runner.iter:
            self._leave(runner, runner.iter)
        log(f"stopped by a signal while waiting for a batch after iteration {runner.iter}; run again to continue")
        os._exit(STOPPED)

    @staticmethod
    def _leave(runner: Any, done: int) -> None:
        checkpoints = next(hook for hook in runner.hooks if isinstance(hook, ResumableCheckpointHook))
        checkpoints.save(runner, done)
        if is_main_process():
            log(f"stopped by a signal at iteration {done}; run again to continue")
        # Workers of the data loader and the process group would take their time; the checkpoint is on disk.
        os._exit(STOPPED)


def not_finite(iteration: int, what: str, batch: dict[str, list]) -> UserError:
    """Returns the error that stops a training at a batch with numbers that are not finite; it names the frames."""
    frames = ", ".join(frame_name(sample) for sample in batch["data_samples"])
    return UserError(
        f"training stopped at iteration {iteration}: {what} on frames {frames}; "
        f"try precision float32 or a lower learning rate"
    )


def frame_name(sample: Any) -> str:
    """Returns video/frame of a data sample, or its path where the dataset gave neither."""
    info = sample.metainfo
    if "video" in info and "frame" in info:
        return f"{info['video']}/{info['frame']}"
    return str(info.get("img_path", "?"))


def _base_rate(optim_wrapper: Any) -> float:
    """Returns the learning rate that layer-wise factors multiply."""
    rates = optim_wrapper.get_lr()
    return max(rates.get("base_lr") or rates["lr"])


def _peak_memory() -> int:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
