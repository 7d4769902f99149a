"""GPU leases: Snakemake counts GPUs but never says which, so every GPU command runs under a lock per card.

`vss lease N -- COMMAND` waits until N cards of the machine are free, sets CUDA_VISIBLE_DEVICES to them and becomes the
command. The locks are file locks held by the process itself: the kernel frees them when it ends, kill -9 included.
Inside a SLURM job that was given just the cards it requested, and with N = 0, there is nothing to choose: the command
then simply runs. In a larger allocation (`salloc` with several cards and Snakemake inside it) they are leased as well.

First come, first served: who waits holds a numbered ticket, and a free card that an earlier ticket could use is left to
it, so that jobs for one card never pass a job for two for ever. Cards that no earlier ticket could use are taken.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vss.core.errors import UserError
from vss.core.log import counted, log

_SECONDS_BETWEEN_TRIES = 0.5
_TICKET = re.compile(r"ticket-([0-9]{12})")
_LONGEST_TICKET = 4096  # bytes
_SMI_SECONDS = 60


def lease(gpus: int, command: Sequence[str]) -> NoReturn:
    """Becomes `command` while holding `gpus` cards.

    Args:
        gpus: how many.
        command: its words; a `--` before them, as typed, is left out.

    Raises:
        UserError: there is no command; the number is negative; the machine has fewer cards than requested, or the
            command does not exist.
    """
    if gpus < 0:
        raise UserError(f"lease: {gpus} GPUs requested; 0 or more can be leased")
    words = list(command[1:] if command[:1] == ["--"] else command)
    if not words:
        raise UserError("no command given; usage: vss lease GPUS -- COMMAND ...")
    environment = dict(os.environ)
    slurm_job = environment.get("SLURM_JOB_ID")
    if slurm_job is None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(acquire(gpus)) if gpus > 0 else ""
    elif 0 < gpus < len(visible_cards()):
        # Card numbers may count from 0 in every SLURM job, so jobs of one machine must not share locks.
        folder = lock_folder().with_name(f"vss-gpu-leases-{slurm_job}")
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(acquire(gpus, folder=folder))
    if gpus > 0:
        log(f"lease: runs on {counted(gpus, 'GPU')}")  # the report counts GPU-hours by this line
    try:
        os.execvpe(words[0], words, environment)
    except FileNotFoundError:
        raise UserError(f"lease: no command {words[0]!r}") from None


def acquire(gpus: int, *, folder: Path | None = None) -> list[str]:
    """Waits for `gpus` free cards and returns their ids; their locks live as long as this process.

    All or nothing: a job that needs two cards never holds one while it waits, so two jobs cannot block each other.

    Args:
        gpus: number of cards, at least 1.
        folder: where the lock files are; by default one folder for all users and workflows of the machine.

    Raises:
        UserError: the machine has fewer cards than requested, or the lock files cannot be used.
    """
    cards = visible_cards()
    if len(cards) < gpus:
        raise UserError(
            f"lease: {gpus} GPUs requested, {len(cards)} visible on this machine; lower `gpus` of the training in the"
            " config, or set how many there are: snakemake --resources gpu=N"
        )
    folder = folder or lock_folder()
    _make_shared(folder)
    with _mutex(folder):
        ticket = _take_ticket(folder, gpus, cards)
    try:
        waits = False
        while True:
            with _mutex(folder):
                held = _try_lock_all(cards, gpus, folder, number=ticket.number)
            if held is not None:
                return held
            if not waits:
                log(f"lease: waiting for {gpus} of {len(cards)} GPUs")
                waits = True
            time.sleep(_SECONDS_BETWEEN_TRIES)
    finally:
        ticket.drop()


@dataclass(frozen=True)
class _Ticket:
    """A place in the queue: a file that its owner holds locked, with the number of cards and their possible ids."""

    path: Path
    number: int
    file: int

    def drop(self) -> None:
        """Leaves the queue."""
        self.path.unlink(missing_ok=True)
        os.close(self.file)


def _take_ticket(folder: Path, gpus: int, cards: Sequence[str]) -> _Ticket:
    """Joins the queue behind every ticket there is; to be called with the mutex held."""
    number = 1 + max((found for found, _ in _tickets(folder)), default=0)
    path = folder / f"ticket-{number:012d}"
    file = _open_shared(path)
    _lock(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.truncate(path, 0)
    with open(path, "w", encoding="utf-8") as writer:
        writer.write(json.dumps([gpus, list(cards)]))
    return _Ticket(path, number, file)


def _tickets(folder: Path) -> list[tuple[int, Path]]:
    """Returns the tickets of a folder by number, those of processes that are gone included."""
    names = [_TICKET.fullmatch(name) for name in os.listdir(folder)]
    return sorted((int(name[1]), folder / name[0]) for name in names if name)


def _try_lock_all(cards: Sequence[str], gpus: int, folder: Path, *, number: int) -> list[str] | None:
    """Locks the first `gpus` free cards that no earlier ticket could use; None where there are fewer."""
    free = {}
    for card in cards:
        path = folder / f"gpu-{card.replace('/', '_')}.lock"
        file = _open_shared(path)
        if _lock(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            free[card] = file
        else:
            os.close(file)
    left = _left_by_earlier(list(free), folder, number)[:gpus]
    chosen = left if len(left) == gpus else []
    for card, file in free.items():
        if card in chosen:
            os.set_inheritable(file, True)  # the lock has to survive exec
        else:
            os.close(file)
    return chosen or None


def _left_by_earlier(free: list[str], folder: Path, number: int) -> list[str]:
    """Returns the free cards without those that live tickets before `number` will take or wait for."""
    for earlier, path in _tickets(folder):
        if earlier < number and (wish := _wish_of(path)) is not None:
            count, cards = wish
            usable = [card for card in free if card in cards]
            free = [card for card in free if card not in usable[:count]]
    return free


def _wish_of(path: Path) -> tuple[int, list[str]] | None:
    """Returns the number of cards and the ids on a ticket; None for one whose owner is gone, which is removed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        if _lock(file, path, fcntl.LOCK_SH | fcntl.LOCK_NB):
            with contextlib.suppress(OSError):  # another user's, in a sticky folder
                path.unlink()
            return None
        count, cards = json.loads(os.read(file, _LONGEST_TICKET))
        return int(count), [str(card) for card in cards]
    except (ValueError, TypeError):
        return None
    finally:
        os.close(file)


@contextlib.contextmanager
def _mutex(folder: Path) -> Iterator[None]:
    """Holds the queue for this process: tickets and cards are looked at by one process at a time."""
    path = folder / "queue.lock"
    file = _open_shared(path)
    try:
        while not _lock(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            time.sleep(_SECONDS_BETWEEN_TRIES / 50)
        yield
    finally:
        os.close(file)


def _lock(file: int, path: Path, how: int) -> bool:
    """Returns whether an open file could be locked without waiting.

    Raises:
        UserError: the file system knows no locks.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{path}: cannot be locked ({error.strerror}); set TMPDIR to a folder on a local disk of this machine"
        ) from None
    return True


def lock_folder() -> Path:
    """Returns the folder of the locks, one for all users and workflows of the machine."""
    return Path(tempfile.gettempdir()) / "vss-gpu-leases"


def _make_shared(folder: Path) -> None:
    """Makes a folder in which every user may make files; the umask would keep the others out.

    Raises:
        UserError: something else, a link for example, has its name.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise UserError(f"{folder}: not a folder; remove it, it has the name of the folder of GPU leases") from None
        return
    folder.chmod(0o1777)


def _open_shared(path: Path) -> int:
    """Opens a lock file that may be another user's: to read, since in a sticky folder only its owner may write.

    Links are not followed, and a FIFO does not make this wait: anybody can put either into a shared folder.

    Raises:
        UserError: not a plain file.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
                raise
            raise UserError(f"{path}: not a plain file; remove it, it has the name of a GPU lease") from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise UserError(f"{path}: not a plain file; remove it, it has the name of a GPU lease") from None
        return file
    os.fchmod(file, 0o644)  # whatever the umask
    return file


def visible_cards() -> list[str]:
    """Returns the ids of the cards this process may use: CUDA_VISIBLE_DEVICES, else what nvidia-smi lists.

    Raises:
        UserError: nvidia-smi does not answer, as where the driver waits for a card that is lost.
    """
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        cards = dict.fromkeys(card.strip() for card in visible.split(","))  # a card that is named twice is one card
        return [card for card in cards if card and not card.startswith("-")]  # -1: none
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        command = ["nvidia-smi", "-L"]
        listing = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SMI_SECONDS).stdout
    except subprocess.TimeoutExpired:
        raise UserError(
            f"lease: nvidia-smi has not answered for {_SMI_SECONDS} s; is a card lost? Set CUDA_VISIBLE_DEVICES to"
            " those that work"
        ) from None
    return [str(number) for number, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]
