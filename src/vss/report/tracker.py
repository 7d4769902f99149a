"""Passes a report to an experiment tracker: scores, training curves and pictures, through MMEngine's backends."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import vis_backend  # noqa: F401 (registers the backends)

from vss.configs.schema import read_section
from vss.configs.sections import TrackerSettings
from vss.core.errors import UserError
from vss.core.files import JsonObject, StrPath, read_json, write_json
from vss.core.images import read_image
from vss.core.log import log
from vss.report.figures import read_log

_BACKENDS = {
    "local": "LocalVisBackend",
    "tensorboard": "TensorboardVisBackend",
    "mlflow": "MLflowVisBackend",
    "wandb": "WandbVisBackend",
}
# MLflow's uploads at its end what it finds in a folder: here its own files. It takes at most 100 parameters at once;
# all of them are in the text of the config.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mlflow": {"artifact_suffix": (), "tracked_config_keys": ("protocol", "split", "version", "commit")}
}
# Files that a second pass would append the same lines to, or show next to its own.
_APPENDED_TO = {"local": "scalars.json", "tensorboard": "events.out.tfevents.*"}


def track(
    *,
    settings: JsonObject,
    record: str | os.PathLike,
    pictures: Sequence[StrPath],
    logs: Mapping[str, StrPath],
    folder: str | os.PathLike,
    out: str | os.PathLike,
) -> None:
    """Passes scores (percent, by prediction), training curves (by "stage/model") and pictures to a tracker.

    Args:
        settings: see `TrackerSettings`.
        record: report.json.
        pictures: PNG files.
        logs: training logs by "stage/model".
        folder: where the backend writes what it writes on this machine.
        out: JSON file to write: how many scores, lines of curves and pictures were passed.

    Raises:
        UserError: no backend is given, it does not take an option, its server cannot be reached, or a file is missing.
    """
    chosen = read_section(TrackerSettings, "tracker", settings, where="tracker")
    if chosen.backend is None:
        raise UserError(f"tracker.backend: is null, must be one of {', '.join(_BACKENDS)}")
    report = read_json(record)
    curves = {name: read_log(path) for name, path in logs.items()}
    images = {Path(path).name: read_image(path) for path in pictures}
    scores = {
        f"{prediction['name']}/{key}": value
        for prediction in report["predictions"]
        for key, value in prediction["scores"].items()
        if value is not None
    }
    if chosen.backend in _APPENDED_TO:
        for earlier in Path(folder).glob(_APPENDED_TO[chosen.backend]):
            earlier.unlink()
    try:
        options = {**_DEFAULTS.get(chosen.backend, {}), **chosen.options}
        if chosen.backend == "mlflow":  # which no longer writes plain files
            Path(folder).mkdir(parents=True, exist_ok=True)
            options.setdefault("tracking_uri", f"sqlite:///{Path(folder).resolve()}/mlflow.db")
            options.setdefault("artifact_location", Path(folder).resolve().as_uri())
        backend = VISBACKENDS.build({**options, "type": _BACKENDS[chosen.backend], "save_dir": str(folder)})
        backend.add_config(Config({**report["run"], "work_dir": str(folder)}))
        for name, curve in curves.items():
            for iteration, values in _lines(name, curve):
                backend.add_scalars(values, step=iteration)
        backend.add_scalars(scores, step=0)
        for name, image in images.items():
            backend.add_image(name, image)
        backend.close()
    except ImportError:
        raise  # names the extra
    except Exception as error:  # every tracker has errors of its own
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"tracker: {chosen.backend} failed ({detail}); see tracker.options in docs/config.md") from None
    passed = {"scores": len(scores), "curves": sum(map(len, curves.values())), "pictures": sorted(images)}
    write_json(out, {"backend": chosen.backend, **passed})
    log(f"tracker: passed {len(scores)} scores, {len(curves)} curves, {len(images)} pictures to {chosen.backend}")


def _lines(name: str, curve: pd.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Returns (iteration, figures by name) of every line of a training's log."""
    lines = []
    for record in curve.to_dict("records"):
        figures = {f"{name}/{key}": float(value) for key, value in record.items()
                   if isinstance(value, (int, float)) and pd.notna(value)}  # fmt: skip
        lines.append((int(record["iter"]), figures))
    return lines
