"""The fingerprint: a small file that stands for large weights and records what they were made from."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vss.core.errors import UserError
from vss.core.files import read_json, sha256_of_file, write_json

FINGERPRINT = "fingerprint.json"  # next to the weights that it is of


@dataclass(frozen=True)
class Fingerprint:
    """The small file that stands for large weights, so that what follows depends on content and not on file times.

    Attributes:
        sha256: of the weights file.
        stage: "pretrain", "finetune" or "refine".
        model: name in the config.
        settings: the resolved settings the weights came from.
        code: digest of the training code, None for imported weights.
    """

    sha256: str
    stage: str
    model: str
    settings: dict[str, Any]
    code: str | None


def write_fingerprint(path: str | os.PathLike, fingerprint: Fingerprint) -> None:
    """Writes a fingerprint as JSON; always the last file of a training."""
    write_json(path, asdict(fingerprint))


def read_fingerprint(path: str | os.PathLike) -> Fingerprint:
    """Reads a fingerprint; anything else is a `UserError` that names the file."""
    try:
        return Fingerprint(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: not a fingerprint of weights ({error})") from None


def sha256_of_weights(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a weights file, which has to be the one that a fingerprint beside it records.

    Published weights, and files of other names than a training gives, have no fingerprint.

    Raises:
        UserError: no such file, or not the one that was published with the fingerprint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    found = sha256_of_file(path)
    fingerprint = path.with_name(FINGERPRINT)
    if path.name == "weights.safetensors" and fingerprint.exists():
        recorded = read_fingerprint(fingerprint).sha256
        if found != recorded:
            raise UserError(
                f"{path}: its SHA-256 begins {found[:8]}, {fingerprint.name} beside it says {str(recorded)[:8]}: it was"
                " damaged or replaced; put the right file back, or delete both files so that they are made again"
            )
    return found
