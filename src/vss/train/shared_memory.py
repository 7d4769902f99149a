"""What loading processes need of /dev/shm, before a training starts that would wait for a batch for ever.

A loading process hands a batch over in shared memory, one segment per tensor. Where none is left it prints an error,
the batch is lost, and the training waits for it. Containers have 64 MB unless they are started with more.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from vss.configs.resolved import TrainingSettings
from vss.core.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2  # batches that each process prepares ahead; torch's default, which the loader is given
_BYTES_PER_PIXEL = 3 + 8  # uint8 RGB; labels, which MMSegmentation packs as int64
_MIB = 2**20


def bytes_needed(training: TrainingSettings, processes: int, *, nodes: int = 1) -> int:
    """Returns the bytes of all batches that can be in shared memory at once on this machine.

    Args:
        training: its settings; num_workers counts per process.
        processes: that train on it, each with loading processes of its own.
        nodes: machines with as many.
    """
    share = math.ceil(training.batch_size / (nodes * processes))
    batch = share * math.prod(training.crop_size) * _BYTES_PER_PIXEL
    # Those prepared ahead, and the one the model works on.
    return processes * (training.num_workers * PREFETCH + 1) * batch


def check_shared_memory(training: TrainingSettings, *, processes: int, nodes: int = 1) -> None:
    """Refuses a training whose loading processes do not find enough shared memory.

    Raises:
        UserError: /dev/shm has less free than `bytes_needed`.
    """
    if not training.num_workers or not SHARED_MEMORY.is_dir():
        return
    needed, free = bytes_needed(training, processes, nodes=nodes), shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise UserError(
            f"{SHARED_MEMORY}: {free / _MIB:.0f} MiB are free, the loading processes need about "
            f"{math.ceil(needed / _MIB)} MiB (num_workers {training.num_workers}); start the container with --shm-size="
            f"{math.ceil(1.25 * needed / _MIB)}m or more, or set num_workers: 0 (or fewer)"
        )
