"""Inside a batch job: what SLURM tells Snakemake, its jobs have to hear.

Where SLURM tracks processes by cgroups, a signal before the time limit (`--signal`), `scancel` and preemption reach the
first process of a step only: the Snakemake that runs the job. SIGUSR1 would end it; after SIGTERM it waits for its
job, which has heard nothing and is killed with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
# Shells would end without waiting for what they run; srun would end its processes, which SLURM signals itself.
_NOT_SIGNALLED = ("bash", "sh", "dash", "srun")


def pass_on_to_jobs() -> None:
    """From now on, passes SIGTERM and SIGUSR1 on to every process below this one; to be called by the main thread.

    SIGUSR1 then does nothing else here. SIGTERM does what it is handled by, now or later: Snakemake sets its own
    handler after this call.
    """
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # of every signal that has a handler in Python
    threading.Thread(target=_listen, args=(reader,), name="signals", daemon=True).start()


def _listen(reader: int) -> None:
    import psutil  # Snakemake's own dependency

    while numbers := os.read(reader, 64):
        for number in PASSED_ON:
            if number in numbers:
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if process.name() not in _NOT_SIGNALLED:
                            process.send_signal(number)
