"""Measures scoring against the official evaluator's loop: `python -m benchmarks.score`, `make bench-score`.

The peer is what VSPW_baseline does for mIoU (utils.py Evaluator) and for VC8 and VC16 (VC_perclip.py), their rule
written again. Both sides read the same frames from disk, each its own format of predictions, in one thread. The
material is a real labelled clip with a real network's predictions, at 480x853, run forwards and backwards.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.shared import shared_folder, write_rows
from vss.core.files import sha256_of_file
from vss.core.images import read_raw_mask
from vss.core.index import INDEX_COLUMNS, Card, write_card, write_index
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.log import log
from vss.score.counts import load_counts, merge_counts
from vss.score.shard import score_shard
from vss.score.summary import overall_scores

_SHARED = shared_folder() / "data"
MASKS = _SHARED / "VSPW_480p" / "data" / "camvid_0016E5" / "mask"
LABELS = _SHARED / "preds" / "espnet_camvid" / "camvid_0016E5"
SIZE = (480, 853)


@dataclass(frozen=True)
class Clip:
    """Where the frames of one video are on disk."""

    masks: list[Path]
    labels_png: list[Path]
    labels_h5: Path
    index: Path
    card: Path


def write_clip(folder: Path, masks: Path, labels: Path, frames: int) -> Clip:
    """Writes a clip of so many frames, back and forth through the source, its predictions as PNG and as our file."""
    names = sorted(path.name for path in masks.glob("*.png"))
    there_and_back = names + names[-2:0:-1]
    lookup = VSPW.raw_to_train()
    rows, mask_paths, png_paths = [], [], []
    with LabelsWriter(folder / "00.labels.h5", classes=VSPW.classes, provenance={}) as writer:
        for at in range(frames):
            name, frame = there_and_back[at % len(there_and_back)], f"{at:08d}"
            raw, found = (
                cv2.resize(read_raw_mask(source / name), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
                for source in (masks, labels)
            )
            predicted = lookup[np.where(found == 0, 1, found)]  # "others" is no class that may be predicted
            for kind, values, paths in (("mask", raw, mask_paths), ("labels", predicted, png_paths)):
                paths.append(folder / f"{frame}.{kind}.png")
                Image.fromarray(values).save(paths[-1])
            writer.write("clip", frame, predicted)
            rows.append(("clip", frame, "val", "", mask_paths[-1].name, *SIZE))
    index, card = folder / "index.csv", folder / "dataset.json"
    write_index(index, pd.DataFrame(rows, columns=list(INDEX_COLUMNS)))
    label_map = lookup.tolist()
    digest = sha256_of_file(index)
    write_card(card, Card("vspw", str(folder), list(VSPW.classes), label_map, False, {"val": frames}, digest))
    return Clip(mask_paths, png_paths, folder / "00.labels.h5", index, card)


def ours(clip: Clip) -> dict[str, float]:
    """Returns the figures as the score stage counts and sums them, files included."""
    out = clip.index.with_name("00.npz")
    score_shard(
        labels=clip.labels_h5, index=clip.index, card=clip.card, split="val", shard=0, shards=1, out=out
    )  # fmt: skip
    scores = overall_scores(merge_counts([load_counts(out)]))
    return {name: scores[name] for name in ("mIoU", "VC8", "VC16")}


def official(clip: Clip) -> dict[str, float]:
    """Returns the figures by the rule of VSPW_baseline: a confusion matrix a frame, then every window pair by pair."""
    confusion = np.zeros((124, 124))
    raw, labels = [], []
    for mask, png in zip(clip.masks, clip.labels_png, strict=True):
        raw.append(np.array(Image.open(mask)))
        labels.append(np.array(Image.open(png)))
        truth = raw[-1].copy()
        truth[truth == 0] = 255
        truth = truth - 1
        truth[truth == 254] = 255
        known = (truth >= 0) & (truth < 124)
        pair = 124 * truth[known].astype("int") + labels[-1][known]
        confusion += np.bincount(pair, minlength=124**2).reshape(124, 124)
    present = confusion.sum(axis=1) > 0
    hit = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        iou = hit / (confusion.sum(axis=1) + confusion.sum(axis=0) - hit)
    found = {"mIoU": float(np.nansum(iou * present) / present.sum())}
    for length in (8, 16):
        ratios = []
        for start in range(len(raw) - length):
            constant, kept = np.ones(SIZE), np.ones(SIZE)
            for step in range(1, length):
                constant = np.logical_and(constant, raw[start] == raw[start + step])
                kept = np.logical_and(kept, labels[start] == labels[start + step])
            ratios.append((constant * kept).sum() / constant.sum())
        found[f"VC{length}"] = float(np.nanmean(ratios))
    return found


def decode(clip: Clip) -> None:
    """Only reads every mask and every label map, as the score stage does."""
    with LabelsReader(clip.labels_h5) as reader:
        for mask, key in zip(clip.masks, reader.keys(), strict=True):
            read_raw_mask(mask)
            reader.read(*key)


def _milliseconds(call: Callable[[Clip], Any], clip: Clip, rounds: int) -> tuple[float, Any]:
    """Returns the least CPU time per frame, and what the call returned."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        result = call(clip)
        taken.append(1e3 * (time.process_time() - start) / len(clip.masks))
    return min(taken), result


def main() -> None:
    """Measures and writes the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=main.__doc__)
    parser.add_argument("--masks", type=Path, default=MASKS, help="folder of a clip's raw masks (PNG)")
    parser.add_argument("--labels", type=Path, default=LABELS, help="folder of its predictions, raw ids (PNG)")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/bench/score.json"))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder), options.masks, options.labels, options.frames)
        mine, scores = _milliseconds(ours, clip, options.rounds)
        peer, expected = _milliseconds(official, clip, options.rounds)
        least, _ = _milliseconds(decode, clip, options.rounds)
    equal = all(abs(scores[name] - expected[name]) <= 1e-12 for name in expected)
    rows = [
        {"case": "all scores; peer mIoU, VC8, VC16", "ours": mine, "peer": peer, "ratio": peer / mine, "equal": equal},
        {"case": "all scores; peer only decodes", "ours": mine, "peer": least, "ratio": least / mine, "equal": None},
    ]
    for row in rows:
        row["unit"] = "ms per frame"
        log(f"{row['case']}: {row['ours']:.2f} against {row['peer']:.2f} ms per frame, equal: {row['equal']}")
    write_rows(options.out, rows)


if __name__ == "__main__":
    main()
