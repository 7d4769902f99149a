"""MMEngine's iteration-based loop, with one difference: an iteration is always one optimizer step.

MMEngine counts forward passes, so with gradient accumulation its max_iters, schedules, logs and checkpoints all have
to be multiplied by hand. Here the loader gives a rank's whole share of the global batch, and the loop feeds it to the
model in micro-batches that fit.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS

from vss.core.errors import UserError
from vss.train.checkpoint import bare
from vss.train.hooks import StopOnSignalHook, not_finite

Batch = dict[str, list]

POLL_SECONDS = 5  # after which the loader gives up a wait for a batch, which is then taken up again
PATIENCE_SECONDS = 600.0  # slow storage may take minutes for a batch; a lost one never comes


@LOOPS.register_module()
class MicroBatchLoop(IterBasedTrainLoop):
    """Runs `max_iters` optimizer steps, each of `accumulate` gradient accumulation steps over equal parts of the batch.

    The model's random numbers (stochastic depth, dropout, sampled points) are seeded before every step from (seed,
    iteration, rank), so that a resumed training draws what the uninterrupted one would have drawn.

    Args:
        accumulate: gradient accumulation steps, which this rank's share is cut into.
        seed: of the model's random numbers.
    """

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, *, accumulate: int, seed: int) -> None:
        super().__init__(runner, dataloader, max_iters)
        self._accumulate, self._seed = accumulate, seed

    def start_at(self, iteration: int) -> None:
        """Makes `run` continue after `iteration` steps."""
        self._iter = iteration
        self._count_from(iteration)

    def run(self) -> torch.nn.Module:
        """Trains and returns the model."""
        self._count_from(self._iter)
        on_wait = next(hook.leave_without_batch for hook in self.runner.hooks if isinstance(hook, StopOnSignalHook))
        self.dataloader_iterator = TimedIterator(
            self.dataloader_iterator, on_wait=functools.partial(on_wait, self.runner)
        )
        try:
            return super().run()
        finally:
            # Loading processes leave SIGTERM to us (worker.py), so that Python could not end them at exit.
            loading = self.dataloader_iterator._iterator
            if hasattr(loading, "_shutdown_workers"):
                loading._shutdown_workers()

    def _count_from(self, iteration: int) -> None:
        """Sets the optimizer wrapper, which counts gradient accumulation steps, to an iteration."""
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, iteration * self._accumulate, self._max_iters * self._accumulate
        )

    def run_iter(self, data_batch: Batch) -> None:
        """Takes one optimizer step.

        Raises:
            UserError: the model's predictions are not finite.
            MemoryFullError: the GPU's memory is full.
        """
        torch.manual_seed(_mix(self._seed, self._iter, get_rank()))
        try:
            # A teacher labels here, with the model's own memory in use; what a loss is divided by follows the labels.
            self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
            head = bare(self.runner.model).decode_head
            if self._accumulate > 1 and hasattr(head, "share_denominators"):
                head.share_denominators(data_batch["data_samples"], self._accumulate)
            if hasattr(head, "anneal"):
                head.anneal(self._iter / max(self._max_iters - 1, 1))
            steps = [
                self.runner.model.train_step(micro_batch, optim_wrapper=self.runner.optim_wrapper)
                for micro_batch in _micro_batches(data_batch, self._accumulate)
            ]
        except FloatingPointError as error:
            raise not_finite(self._iter + 1, str(error), data_batch) from error
        except torch.OutOfMemoryError as error:
            images = len(data_batch["inputs"]) // self._accumulate
            raise memory_full(images, f"training stopped at iteration {self._iter + 1}") from error
        losses = torch.stack([torch.stack([step[key].detach().float() for key in steps[0]]) for step in steps])
        outputs = dict(zip(steps[0], losses.mean(0).tolist(), strict=True))  # one wait for the GPU
        self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1


class MemoryFullError(UserError):
    """The GPU's memory is full; fewer images at once may fit."""


def memory_full(images: int, what: str) -> MemoryFullError:
    """Returns the refusal of a training that does not fit with so many images at once; `what` starts it."""
    return MemoryFullError(
        f"{what}: the GPU's memory is full with {images} images at once; lower micro_batch or crop_size, set"
        " grad_checkpoint, or use precision bfloat16"
    )


_LOADER_CURE = "see the lines above; where /dev/shm or memory is short, set num_workers lower, or 0"


class TimedIterator:
    """Batches of a data loader, with a deadline, and how long each was waited for.

    The loader gives up a wait after `POLL_SECONDS`, so that a signal is heard while no batch comes.

    Args:
        batches: the loader's iterator.
        patience: seconds after which a batch is taken for lost.
        on_wait: called after every `POLL_SECONDS` without a batch.

    Attributes:
        waited: seconds, of the last batch.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        *,
        patience: float = PATIENCE_SECONDS,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._batches, self._patience, self._on_wait = batches, patience, on_wait
        self.waited = 0.0

    def __getattr__(self, name: str) -> Any:  # the rest is the loader's
        return getattr(self._batches, name)

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
            UserError: of a loading process; or one has died, or no batch came within the deadline.
        """
        start = time.monotonic()
        try:
            while True:
                try:
                    return next(self._batches)
                except RuntimeError as error:
                    if not str(error).startswith("DataLoader"):
                        raise
                    self._wait_on_or_raise(str(error), time.monotonic() - start)
        except UserError as error:  # of a loading process: torch makes its whole traceback the message
            raise UserError(str(error).rpartition(f"{UserError.__module__}.UserError: ")[2].strip()) from None
        finally:
            self.waited = time.monotonic() - start

    def _wait_on_or_raise(self, message: str, waited: float) -> None:
        """Returns where the loader only gave up a wait that may go on."""
        if not message.startswith("DataLoader timed out"):
            raise loading_process_ended(message) from None
        self._on_wait()
        if waited >= self._patience:
            raise UserError(f"no batch came from the loading processes for {waited:.0f} s; {_LOADER_CURE}") from None


def loading_process_ended(message: str) -> UserError:
    """Returns the refusal of a training one of whose loading processes ended; `message` is torch's."""
    return UserError(f"a loading process ended ({' '.join(message.split())[:120]}); {_LOADER_CURE}")


def _micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    size, rest = divmod(len(batch["inputs"]), count)
    assert rest == 0, (len(batch["inputs"]), count)
    for start in range(0, size * count, size):
        yield {key: values[start : start + size] for key, values in batch.items()}


def _mix(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
