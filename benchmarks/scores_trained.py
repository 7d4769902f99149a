"""Measures what storing class scores changes on a finished run's own models: `python -m benchmarks.scores_trained`.

Every ensemble of the run is computed twice: from the scores as they are stored, and from the probabilities of the same
models on the same frames, never stored. What is compared, and how, the files themselves say.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.shared import write_rows
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.errors import UserError
from vss.core.files import sha256_of_file
from vss.core.images import read_image
from vss.core.index import Card, read_card, read_index
from vss.core.labels_file import LabelsReader
from vss.core.log import track
from vss.core.scores_file import ScoresReader
from vss.ensemble.members import Member, open_members
from vss.ensemble.run import WeightedMean
from vss.infer.engine import Engine
from vss.infer.load import load_engine, read_plan


def measure(results: Path, *, split: str = "val", frames: int | None = None) -> list[dict[str, Any]]:
    """Returns one row per ensemble: frames, size, bytes per frame and member, share of dense fp16, agreement and mIoU.

    Args:
        results: the run's results folder.
        split: a labelled split that the ensembles were made for.
        frames: how many frames, evenly spaced; None = all.

    Raises:
        UserError: the folder has no ensemble of that split.
    """
    index = read_index(results / "prepare" / "vspw" / "index.csv")
    rows = index[(index["split"] == split) & (index["mask"] != "")]
    if frames is not None and frames < len(rows):
        rows = rows.iloc[np.linspace(0, len(rows) - 1, frames).round().astype(int)]
    card = read_card(results / "prepare" / "vspw" / "dataset.json")
    found = [_compare(results, name, members, split, rows, card) for name, members in _ensembles(results, split)]
    if not found:
        raise UserError(f"{results}: no ensemble of split {split!r}")
    return found


def _ensembles(results: Path, split: str) -> Iterator[tuple[str, list[Member]]]:
    for path in sorted((results / "predictions").glob(f"*/{split}/00.labels.h5")):
        with LabelsReader(path) as reader:
            if reader.provenance["stage"] == "ensemble":
                yield path.parts[-3], [Member(**member) for member in reader.provenance["members"]]


def _compare(
    results: Path, name: str, members: list[Member], split: str, rows: pd.DataFrame, card: Card
) -> dict[str, Any]:
    files = [sorted((results / "predictions" / m.name / split).glob("[0-9]*.scores.h5")) for m in members]
    engines = [_engine(results, member, paths[0]) for member, paths in zip(members, files, strict=True)]
    weights = np.array([member.weight for member in members]) / sum(member.weight for member in members)
    same, dense_confusion, stored_confusion = [], 0, 0
    with contextlib.ExitStack() as stack:
        opened = open_members(stack, members, files)
        mean = WeightedMean(members, opened)
        for row in track(list(rows.itertuples(index=False)), what=f"{name}: dense against stored"):
            image = read_image(Path(card.root) / row.image)
            truth = card.read_mask(row.mask)
            each = [engine.probabilities(image).numpy() for engine in engines]
            dense = sum(w * p for w, p in zip(weights, each, strict=True)).argmax(axis=0).astype(np.uint8)
            stored = mean.read(row.video, row.frame, size=truth.shape).labels
            same.append((dense == stored).mean())
            dense_confusion = dense_confusion + confusion_matrix(dense, truth, len(card.classes))
            stored_confusion = stored_confusion + confusion_matrix(stored, truth, len(card.classes))
    size = _bytes_a_frame([path for paths in files for path in paths])
    pixels = float((rows["height"] * rows["width"]).mean())
    return {
        "ensemble": name,
        "members": len(members),
        "frames": len(rows),
        "pixels_a_frame": pixels,
        "bytes_a_frame": size,
        "percent_of_fp16": 100 * size / (2 * len(card.classes) * pixels),
        "percent_agreeing": 100 * float(np.mean(same)),
        "miou_dense": 100 * mean_iou(dense_confusion),
        "miou_stored": 100 * mean_iou(stored_confusion),
    }


def _bytes_a_frame(files: list[Path]) -> float:
    frames = 0
    for path in files:
        with ScoresReader(path) as reader:
            frames += len(reader.keys())
    return sum(os.path.getsize(path) for path in files) / frames


def _engine(results: Path, member: Member, scores: Path) -> Engine:
    """Returns the engine that made a member's scores.

    Raises:
        UserError: the member's weights are no longer those, or it has settings that are not compared here.
    """
    if member.temperature != 1 or member.class_weights:
        raise UserError(f"member {member.name!r}: has a temperature or weights by class, which are not compared here")
    folder = results / "finetune" / member.name.split(".")[0]
    with ScoresReader(scores) as reader:
        settings, made_of = reader.provenance["settings"], reader.provenance["weights_sha256"]
    if made_of != [sha256_of_file(folder / "weights.safetensors")]:
        raise UserError(f"{scores}: was made with other weights than those in {folder}")
    return load_engine(read_plan(folder / "config.json", settings, "cpu"), folder / "weights.safetensors")


def main() -> None:
    """Measures and prints a Markdown table; writes the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scores_trained", description=main.__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--split", default="val", choices=("val", "train"))
    parser.add_argument("--frames", type=int, help="evenly spaced (default: all)")
    parser.add_argument("--out", type=Path, default=Path("results/bench/scores-trained.json"))
    options = parser.parse_args()
    rows = measure(options.results, split=options.split, frames=options.frames)
    write_rows(options.out, rows)
    print("| ensemble | frames | MB per frame | of dense fp16 | agrees | mIoU, stored - dense |\n" + "|---" * 6 + "|")
    for row in rows:
        change = row["miou_stored"] - row["miou_dense"]
        print(
            f"| {row['ensemble']} | {row['frames']} | {row['bytes_a_frame'] / 1e6:.3f} | {row['percent_of_fp16']:.2f}%"
            f" | {row['percent_agreeing']:.3f}% | {change:+.3f} |"
        )


if __name__ == "__main__":
    main()
