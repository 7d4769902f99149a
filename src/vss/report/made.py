"""What was run: protocol, data, config, versions, commit and digests of the weights."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import pandas as pd

import vss
from vss.core.checkout import checkout_commit
from vss.core.extras import installed_versions
from vss.core.files import JsonObject, read_json
from vss.core.index import Card

_PROTOCOL_WORDS = {
    "paper": "paper: what the paper says",
    "as_published": "as_published: what the authors' published code does, where it differs from the paper",
}
_LIBRARIES = (
    *("torch", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "numpy", "opencv-python", "pandas"),
    *("matplotlib", "snakemake"),
)


def what_was_run(
    *,
    protocol: str,
    split: str,
    card: Card,
    config: JsonObject,
    fingerprints: Mapping[str, str | os.PathLike],
) -> dict[str, Any]:
    """Returns what was run, for report.json and the page.

    Args:
        protocol: of the run.
        split: that was scored.
        card: of the dataset.
        config: the run's config, what does not change a result left out.
        fingerprints: fingerprint.json of the weights in use, by "stage/model".

    Returns:
        {protocol, split, dataset: {name, drawn, frames by split, classes, index_sha256, mask_values}, version, commit
        (None where the code is no checkout), python, libraries (version by name), weights: {name: sha256}, config}.

    Raises:
        UserError: a fingerprint is missing or broken.
    """
    return {
        "protocol": protocol,
        "split": split,
        "dataset": {
            "name": card.name,
            "drawn": card.drawn,
            "frames": dict(sorted(card.frames.items())),
            "classes": card.classes,
            "index_sha256": card.sha256,
            "mask_values": _mask_values(card),
        },
        "version": vss.__version__,
        "commit": checkout_commit() or None,
        "python": platform.python_version(),
        "libraries": dict(sorted(installed_versions(_LIBRARIES).items())),
        "weights": {name: read_json(path)["sha256"] for name, path in fingerprints.items()},
        "config": dict(config),
    }


def facts(made: JsonObject) -> dict[str, str]:
    """Returns what was run in words, for a list."""
    data = made["dataset"]
    frames = ", ".join(f"{count:,} {split}" for split, count in data["frames"].items())
    libraries = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    return {
        "protocol": _PROTOCOL_WORDS[made["protocol"]],
        "data": f"{data['name']}, {'drawn by this project' if data['drawn'] else 'real'}: {frames} frames",
        "index": f"SHA-256 {data['index_sha256'][:16]}",
        "scored": f"split {made['split']}; masks as distributed: {data['mask_values']}, all else is ignored",
        "code": f"vss {made['version']}" + (f", commit {made['commit']}" if made["commit"] else ""),
        "versions": f"Python {made['python']}, {libraries}",
    }


def weights_table(made: JsonObject) -> pd.DataFrame:
    """Returns one row per file of weights, as text."""
    return pd.DataFrame({"Weights": name, "SHA-256": digest} for name, digest in made["weights"].items())


def _mask_values(card: Card) -> str:
    """Returns which mask values are the classes, in words."""
    if card.coding.values == "colours":
        return (
            f"{sum(train != card.ignore_index for train in card.label_map)} colours are the {len(card.classes)} classes"
        )
    ids = [raw for raw, train in enumerate(card.label_map) if train != card.ignore_index]
    starts = [raw for raw in ids if raw - 1 not in ids]
    ends = [raw for raw in ids if raw + 1 not in ids]
    spans = [str(first) if first == last else f"{first}..{last}" for first, last in zip(starts, ends, strict=True)]
    return f"{', '.join(spans)} are the {len(card.classes)} classes"
