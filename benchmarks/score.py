"""Measures scoring against the official evaluator's loop: `python -m benchmarks.score`, `make bench-score`.

The peer is what VSPW_baseline does for mIoU (utils.py Evaluator) and for VC8 and VC16 (VC_perclip.py), their rule
written again. Both sides read the same frames from disk, each its own format of predictions, in one thread. The
material is a real labelled clip with a real network's predictions, at 480x853, run forwards and backwards.

The score stage counts every convention of docs/metrics.md at once. So it is timed as it is, and again the three
figures that the peer has, by the same readers and windows and nothing else. What decoding alone costs is timed twice:
by the stage's readers, and with OpenCV's for the masks, as anybody would read them. All sides take turns: a busy
machine slows each of them alike.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.shared import shared_folder, write_rows
from vss.core import png
from vss.core.allocator import keep_freed_memory
from vss.core.confusion import check_labels, confusion_matrix, mean_iou
from vss.core.files import sha256_of_file
from vss.core.images import read_raw_mask
from vss.core.index import INDEX_COLUMNS, Card, read_card, write_card, write_index
from vss.core.labels import VSPW
from vss.core.labels_file import LabelsReader, LabelsWriter
from vss.core.log import log
from vss.core.masks import train_ids
from vss.score import bitmap
from vss.score.consistency import ConstantRun
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


def same_figures(clip: Clip) -> dict[str, float]:
    """Returns the figures that the peer has by the stage's own parts, without what other figures need."""
    card = read_card(clip.card)
    num_classes = len(card.classes)
    confusion = np.zeros((num_classes, num_classes + 1), np.int64)
    raw_run, label_run = ConstantRun(), ConstantRun()
    ratios: dict[int, list[float]] = {8: [], 16: []}
    with LabelsReader(clip.labels_h5) as reader:
        for at, (mask, key) in enumerate(zip(clip.masks, reader.keys(), strict=True), start=1):
            raw, labels = read_raw_mask(mask), reader.read(*key)
            truth = train_ids(raw, card.raw_to_train)
            check_labels(labels, truth, num_classes)
            counted = bitmap.counted_runs(truth, labels, [bitmap.changes(each)[0] for each in (truth, labels)], [])
            if counted is None:
                confusion += confusion_matrix(labels, truth, num_classes)
            else:
                pairs, pixels = counted
                known = pairs[:, 0] < num_classes
                confusion[pairs[known, 0], np.minimum(pairs[known, 1], num_classes)] += pixels[known, 0].astype(
                    np.int64
                )
            raw_run.add(raw)
            label_run.add(labels)
            for length, found in ratios.items():
                constant = raw_run.constant(length)
                if at >= length and (pixels := bitmap.count(constant)):
                    found.append(bitmap.count(constant & label_run.constant(length)) / pixels)
    means = {f"VC{length}": float(np.mean(found[:-1])) for length, found in ratios.items()}  # the rule: not the last
    return {"mIoU": mean_iou(confusion), **means}


def official(clip: Clip) -> dict[str, float]:
    """Returns the figures by VSPW_baseline's rule: a confusion matrix per frame, then every window pair by pair."""
    confusion = np.zeros((124, 124))
    raw, labels = [], []
    for mask, prediction in zip(clip.masks, clip.labels_png, strict=True):
        raw.append(np.array(Image.open(mask)))
        labels.append(np.array(Image.open(prediction)))
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


def decode_by_opencv(clip: Clip) -> None:
    """Only reads every mask and every label map, the masks by OpenCV, which verifies no checksum."""
    with LabelsReader(clip.labels_h5) as reader:
        for mask, key in zip(clip.masks, reader.keys(), strict=True):
            cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            reader.read(*key)


def _milliseconds(
    sides: Sequence[Callable[[Clip], Any]], clip: Clip, rounds: int
) -> list[tuple[float, dict[str, float]]]:
    """Returns each side's least CPU time per frame, and what it returned; the sides take turns.

    Each time in a process of its own, with the memory settings that it has for its users.
    """
    taken: list[list[float]] = [[] for _ in sides]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for _ in range(rounds):
            results = []
            for side, times in zip(sides, taken, strict=True):
                seconds, result = pool.apply(_timed, (side, clip))
                results.append(result)
                times.append(1e3 * seconds / len(clip.masks))
    return [(min(times), result) for times, result in zip(taken, results, strict=True)]


def _timed(side: Callable[[Clip], Any], clip: Clip) -> tuple[float, Any]:
    """Returns the CPU seconds that a side takes, and what it returned."""
    if side is not official:
        keep_freed_memory()  # as every command does
    start = time.process_time()
    result = side(clip)
    return time.process_time() - start, result


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
    built = bitmap.library() and png.library()
    log(f"read and counted by {'compiled code' if built else 'OpenCV and numpy (make ops compiles what is faster)'}")
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder), options.masks, options.labels, options.frames)
        sides = (same_figures, ours, official, decode_by_opencv, decode)
        found = _milliseconds(sides, clip, options.rounds)
    (same, same_scores), (every, scores), (peer, expected), (opencv, _), (least, _) = found
    cases = (
        ("mIoU, VC8, VC16; peer the same", same, peer, _equal(same_scores, expected)),
        ("all figures; peer mIoU, VC8, VC16", every, peer, _equal(scores, expected)),
        ("all figures; peer only decodes, masks by OpenCV", every, opencv, None),
        ("all figures; peer only decodes, by our readers", every, least, None),
    )
    rows = []
    for case, mine, other, equal in cases:
        row = {"case": case, "ours": mine, "peer": other, "ratio": other / mine, "equal": equal, "unit": "ms per frame"}
        rows.append(row)
        log(f"{case}: {mine:.2f} against {other:.2f} ms per frame, ratio {row['ratio']:.2f}, equal: {equal}")
    write_rows(options.out, rows)


def _equal(scores: dict[str, float], expected: dict[str, float]) -> bool:
    """Returns whether figures agree to 1e-12."""
    return all(abs(scores[name] - expected[name]) <= 1e-12 for name in expected)


if __name__ == "__main__":
    main()
