"""GPU leases: Snakemake counts GPUs but never says which, so every GPU command runs under a lock per card.

`vss lease N -- COMMAND` waits until N cards of the machine are free, sets CUDA_VISIBLE_DEVICES to them and becomes the
command. The locks are file locks held by the process itself: the kernel frees them when it ends, kill -9 included.
Inside a SLURM job that was given just the cards it asked for, and with N = 0, there is nothing to choose: the command
then simply runs. In a larger allocation (`salloc` with several cards and Snakemake inside it) they are leased as well.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vss.core.errors import UserError
from vss.core.log import log

_SECONDS_BETWEEN_TRIES = 0.5


def lease(gpus: int, command: Sequence[str]) -> NoReturn:
    """Becomes `command` while holding `gpus` cards.

    Raises:
        UserError: the machine has fewer cards than asked for, or the command does not exist.
    """
    environment = dict(os.environ)
    slurm_job = environment.get("SLURM_JOB_ID")
    if slurm_job is None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(acquire(gpus)) if gpus > 0 else ""
    elif 0 < gpus < len(visible_cards()):
        # Card numbers may count from 0 in every SLURM job, so jobs of one machine must not share locks.
        folder = lock_folder().with_name(f"vss-gpu-leases-{slurm_job}")
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(acquire(gpus, folder=folder))
    try:
        os.execvpe(command[0], list(command), environment)
    except FileNotFoundError:
        raise UserError(f"lease: no command {command[0]!r}") from None


def acquire(gpus: int, *, folder: Path | None = None) -> list[str]:
    """Waits for `gpus` free cards and returns their ids; their locks live as long as this process.

    All or nothing: a job that needs two cards never sits on one while it waits, so two jobs cannot block each other.

    Args:
        gpus: cards wanted, at least 1.
        folder: where the lock files are; by default one folder for all users and workflows of the machine.

    Raises:
        UserError: the machine has fewer cards than asked for.
    """
    cards = visible_cards()
    if len(cards) < gpus:
        raise UserError(
            f"lease: {gpus} GPUs asked for, {len(cards)} visible on this machine; lower `gpus` of the training in the"
            " config, or say how many there are: snakemake --resources gpu=N"
        )
    folder = folder or lock_folder()
    _make_shared(folder)
    told = False
    while True:
        held = _try(cards, gpus, folder)
        if held is not None:
            return held
        if not told:
            log(f"lease: waiting for {gpus} of {len(cards)} GPUs")
            told = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _try(cards: Sequence[str], gpus: int, folder: Path) -> list[str] | None:
    held: list[tuple[str, int]] = []
    for card in cards:
        file = _open_shared(folder / f"gpu-{card}.lock")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        held.append((card, file))
        if len(held) == gpus:
            for _, locked in held:
                os.set_inheritable(locked, True)  # the lock has to survive exec
            return [card for card, _ in held]
    for _, locked in held:
        os.close(locked)
    return None


def lock_folder() -> Path:
    """Returns the folder of the locks, one for all users and workflows of the machine."""
    return Path(tempfile.gettempdir()) / "vss-gpu-leases"


def _make_shared(folder: Path) -> None:
    """Makes a folder in which every user may make files; the umask would keep the others out."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o1777)


def _open_shared(path: Path) -> int:
    """Opens a lock file that may be another user's: to read, since in a sticky folder only its owner may write."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return os.open(path, os.O_RDONLY)
    os.fchmod(file, 0o644)  # whatever the umask
    return file


def visible_cards() -> list[str]:
    """Returns the ids of the cards this process may use: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        cards = [card.strip() for card in visible.split(",")]
        return [card for card in cards if card and not card.startswith("-")]  # -1: none
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]
