"""Finding the model that a user names: a folder, a trained model's name, or a row with a published checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vss import configs
from vss.configs.resolve import published_settings, resolve
from vss.core.errors import UserError, did_you_mean
from vss.core.files import read_json

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


@dataclass(frozen=True)
class ModelFiles:
    """A model that can be loaded.

    Attributes:
        name: its name in messages.
        config: the resolved config.
        weights: safetensors or a published checkpoint.
    """

    name: str
    config: dict[str, Any]
    weights: Path


def find_model(
    model: str | os.PathLike, weights: str | os.PathLike | None = None, *, results: str | os.PathLike = "results"
) -> ModelFiles:
    """Returns the files of a model.

    Args:
        model: a folder with `config.json` and `weights.safetensors`; the name of a model whose training is in
            `results`; a row's name, with `weights`; or "ROW:FILE", which says both.
        weights: safetensors or a published checkpoint; None = those of the folder.
        results: the results folder of a config.

    Raises:
        UserError: there is no such model, or one of its files is missing.
    """
    text = os.fspath(model)
    row, colon, file = text.partition(":")
    if weights is None and colon and row in configs.names():
        text, weights = row, file
    if weights is not None and text in configs.names():
        if not Path(weights).is_file():
            raise UserError(f"{weights}: no such weights file")
        return ModelFiles(text, published_settings(resolve({"config": text})), Path(weights))
    folder = next((path for path in (Path(text), Path(results, "finetune", text)) if (path / CONFIG).is_file()), None)
    if folder is None:
        raise UserError(_unknown(text, Path(results, "finetune")))
    found = Path(weights) if weights is not None else folder / WEIGHTS
    if not found.is_file():
        raise UserError(f"{found}: no such file; train the model first")
    config = read_json(folder / CONFIG)
    for key in ("model", "classes"):
        if not isinstance(config, dict) or key not in config:
            raise UserError(f"{folder / CONFIG}: not a resolved model config, key {key!r} is missing")
    return ModelFiles(folder.resolve().name, config, found)


def _unknown(model: str, trained: Path) -> str:
    known = sorted(folder.name for folder in trained.glob("*/") if (folder / CONFIG).is_file())
    if model in configs.names():
        return f"model {model!r}: a row needs weights, as {model}:FILE"
    near = did_you_mean(model, [*known, *configs.names()])
    return f"model {model!r}: no such folder or trained model{near}; in {trained}: {', '.join(known) or 'none'}"
