"""The folder in which a training keeps its resumable state: one a set of settings, locked while in use.

Snakemake deletes the declared outputs of a job that failed or restarts, so nothing resumable can be among them. The
folder's name holds a hash of everything the result depends on: with another learning rate a training can never continue
from checkpoints of the old one, and going back to old settings finds their finished weights.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vss import formats
from vss.progress import say
from vss.train.config import with_checkpointing

# What changes where and how a training runs but not what it computes, up to rounding and to the random numbers drawn;
# only batch norm and hard example mining, which see the images held at once, notice a smaller micro_batch (and fewer
# GPUs).
_NOT_IN_HASH = (
    "num_workers",
    "micro_batch",
    "checkpoint_interval",
    "keep_checkpoints",
    "log_interval",
    "grad_checkpoint",
)
_VALIDATION = ("val_interval", "val_frames")  # watch a training, unless the best of the validations is published
_DERIVED = ("train_pipeline", "param_scheduler")  # follow from the other settings
# Settings that came later, and the value that means what was there before: without it they would retrain everything.
ABSENT: dict[str, Any] = {}
_FINISHED = "finished.json"


def folder_for(work_dir: str | os.PathLike, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> Path:
    """Returns the work folder of a resolved config and the digests of its inputs."""
    content = {**what_counts(config), "inputs": dict(inputs)}
    return Path(work_dir) / hashlib.sha256(formats.canonical_json(content).encode()).hexdigest()[:16]


def what_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a resolved config without what changes only where and how a training runs."""
    counted = settings_that_count(config["training"])
    training = {
        key: value
        for key, value in counted.items()
        if key not in _DERIVED and not (key in ABSENT and ABSENT[key] == value)
    }
    return {**config, "model": with_checkpointing(config["model"], False), "training": training}


def settings_that_count(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns training settings without what changes only where and how a training runs, cfg_options included."""
    options = settings.get("cfg_options") or {}
    published = options.get("select", settings.get("select", "last"))
    ignored = {*_NOT_IN_HASH, *(_VALIDATION if published == "last" else ())}
    counted = {key: value for key, value in settings.items() if key not in {*ignored, "cfg_options"}}
    if options := {key: value for key, value in options.items() if key not in ignored}:
        counted["cfg_options"] = options
    return counted


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
            say(f"{folder} is in use by another process (an orphan of a killed run, perhaps); waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_finished(folder: Path) -> bool:
    """Tells whether the training in this folder came to its end."""
    return (folder / _FINISHED).is_file()


def mark_finished(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes the marker, the last file of a training; `facts` are for the reader."""
    formats.write_json(folder / _FINISHED, dict(facts))


def finished_facts(folder: Path) -> dict[str, Any]:
    """Returns what `mark_finished` was given."""
    return formats.read_json(folder / _FINISHED)
