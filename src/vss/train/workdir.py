"""The folder in which a training keeps its checkpoints: one per set of settings, locked while in use.

Snakemake deletes the declared outputs of a job that failed or restarts, so nothing resumable can be among them. The
folder's name holds a hash of everything the result depends on: with another learning rate a training can never continue
from checkpoints of the old one, and going back to old settings finds their finished weights.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vss.configs.resolved import ConfigDocument
from vss.configs.result_settings import result_config
from vss.core.errors import UserError
from vss.core.files import JsonObject, canonical_json, read_json, write_json
from vss.core.log import log

# Next to weights.safetensors and config.json (`vss.infer.model_files`).
BEST, AUDIT, LOG = "best.safetensors", "audit.json", "log.jsonl"
_KEPT = re.compile(r"weights_(\d+)\.safetensors")
_FINISHED = "finished.json"
# What a folder was begun with that its name does not hold.
_CONTENT, _INIT_CLASSES = "content.json", "init_classes.json"


def folder_for(work_dir: str | os.PathLike, config: ConfigDocument, inputs: JsonObject) -> Path:
    """Returns the work folder of a resolved config and the digests of its inputs."""
    content = {**result_config(config), "inputs": dict(inputs)}
    return Path(work_dir) / hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def folder_for_content(folder: Path, content: Mapping[str, str | None]) -> Path:
    """Returns where a training on files of this content goes: `folder`, or one next to it if `folder` is of another.

    Args:
        folder: by all else that the result depends on (`folder_for`).
        content: digests of the files trained on, by split; empty for drawn data. A folder of which nothing is known,
            of an earlier version of this project, is taken for one of the same content.
    """
    return _folder_noted(folder, _CONTENT, dict(content))


def folder_for_init_classes(folder: Path, classes: Sequence[str] | None) -> Path:
    """Returns where a training goes whose first weights' outputs are of these classes, as `folder_for_content` does.

    Args:
        folder: by all else that the result depends on. One of which nothing is known, of an earlier version, is taken
            for one of the same classes.
        classes: names by output, by which class rows are copied; None where none are, or the weights' file names them.
    """
    return _folder_noted(folder, _INIT_CLASSES, {} if classes is None else {"classes": list(classes)})


def _folder_noted(folder: Path, name: str, value: JsonObject) -> Path:
    noted = folder / name
    if not value or not noted.is_file() or read_json(noted) == value:
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]}")


def note_content(folder: Path, content: Mapping[str, str | None]) -> None:
    """Notes in a locked folder the content of the files that are trained on."""
    if content:
        write_json(folder / _CONTENT, content)


def note_init_classes(folder: Path, classes: Sequence[str] | None) -> None:
    """Notes in a locked folder the classes of the outputs of the weights that a training starts from."""
    if classes is not None:
        write_json(folder / _INIT_CLASSES, {"classes": list(classes)})


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; waits while another process trains in it.

    The kernel frees the lock when its holders die, however they die. Processes started with open files inherited hold
    it too, so that ranks whose parent was killed keep others out as long as they run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"{folder} is in use by another process (an orphan of a killed run, perhaps); waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # NFS without a lock daemon, Lustre mounted without flock
            raise UserError(
                f"{folder / 'lock'}: its file system cannot lock files ({error.strerror}), so that two trainings could "
                "write to one folder; put `work` on a file system that can, or mount it with locks"
            ) from None
        yield


def finished_folder(work_dir: str | os.PathLike, sha256: str) -> Path:
    """Returns the work folder in which a training made weights of this digest.

    Raises:
        UserError: there is none: it was deleted, or the weights were made elsewhere.
    """
    for folder in sorted(Path(work_dir).glob("*/")):
        if is_finished(folder) and finished_facts(folder)["weights"] == sha256:
            return folder
    raise UserError(f"{work_dir}: holds no training of weights {sha256[:12]}; delete its results to train it again")


def kept_weights(folder: Path) -> list[Path]:
    """Returns the weights of the last checkpoints that a finished training kept (`keep_weights`), oldest first."""
    found = {int(match[1]): path for path in folder.glob("*") if (match := _KEPT.fullmatch(path.name))}
    return [found[iteration] for iteration in sorted(found)]


def kept_name(iteration: int) -> str:
    """Returns the file name of weights that are kept."""
    return f"weights_{iteration}.safetensors"


def is_finished(folder: Path) -> bool:
    """Returns whether the training in this folder came to its end."""
    return (folder / _FINISHED).is_file()


def mark_finished(folder: Path, facts: Mapping[str, str]) -> None:
    """Writes the marker, the last file of a training, with facts for whoever publishes it."""
    write_json(folder / _FINISHED, dict(facts))


def finished_facts(folder: Path) -> dict[str, str]:
    """Returns what `mark_finished` was given.

    Raises:
        UserError: the marker is damaged.
    """
    facts = read_json(folder / _FINISHED)
    if not isinstance(facts, dict) or not {"weights", "code"} <= set(facts):
        raise UserError(f"{folder / _FINISHED}: damaged; delete {folder}, so that the model is trained again")
    return facts
