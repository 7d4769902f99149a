"""What one training is given: the same for the process that trains, or for every rank of several."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from vss.configs.resolved import TrainingConfig
from vss.configs.schema import from_json
from vss.core.files import read_json, write_json


@dataclass(frozen=True)
class TrainingPart:
    """One dataset that is trained on.

    Attributes:
        index, card: the prepared dataset.
        weight: how often an epoch holds each of its images.
        train_ids: the model's train id of each of its classes, or the ignore index; None where they are the model's.
        strong: whether its samples are augmented more strongly, as of pseudo-labels.
        teacher: probability from which on labels are trained on that an average of the student gives its frames, which
            have none; None where they have.
        negatives: whether its pseudo-labels come with the classes that unlabelled pixels surely do not have.
    """

    index: str
    card: str
    weight: float = 1.0
    train_ids: tuple[int, ...] | None = None
    strong: bool = False
    negatives: bool = False
    teacher: float | None = None


@dataclass(frozen=True)
class TrainingJob:
    """What one training is given.

    Attributes:
        what: starts the progress lines: stage and model.
        config: with what `estimate.check_training` chose filled in, once it has.
        index, card: the dataset that is validated on, whose classes the model has.
        parts: the datasets of the training.
        init: weights to start from, or None.
        init_classes: class names of `init`'s outputs where they are known, for init_classes "copy".
        folder: work folder of this training.
        gpus: 0 trains on the CPU.
    """

    what: str
    config: TrainingConfig
    index: str
    card: str
    parts: tuple[TrainingPart, ...]
    init: str | None
    init_classes: tuple[str, ...] | None
    folder: str
    gpus: int


def write_job(job: TrainingJob, path: Path) -> None:
    """Writes a job for `read_job` in another process."""
    write_json(path, asdict(job))


def read_job(path: str | Path) -> TrainingJob:
    """Returns the job that `write_job` wrote."""
    return from_json(TrainingJob, read_json(path))
