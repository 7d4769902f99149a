"""Measures what class weights and rare class sampling do to each class's recall: `python -m benchmarks.rare_class`.

The set is drawn: 100 pictures of a road, in half of which stand signs, 0.8% of all pixels. Every case is trained with
several seeds; a training that has ended is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

import vss
from benchmarks.shared import write_rows
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.images import read_image
from vss.core.index import read_card, read_index
from vss.prepare.run import prepare
from vss.train.run import train

ROW = "upernet_convnext-nano_vspw"
CLASSES = ("sky", "building", "verge", "road", "sign")
CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "rare_class_sampling, temperature 0.1": {"rare_class_sampling": {"temperature": 0.1}},
    "class_weights {sign: 4}": {"class_weights": {"sign": 4.0}},
    "class_weights {sign: 8}": {"class_weights": {"sign": 8.0}},
    "class_weights median_frequency": {"class_weights": "median_frequency"},
}
_HEIGHT, _WIDTH = 90, 160
_COLOURS = np.array([[150, 180, 210], [140, 110, 100], [90, 130, 70], [100, 100, 105], [190, 120, 90]], float)


def draw(root: Path) -> None:
    """Draws 60 pictures of train and 40 of val with their masks and the class table, always the same."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 40)):
        for number in range(count):
            mask = _scene(rng)
            for kind, picture in (("images", _picture(rng, mask)), ("masks", mask)):
                path = root / kind / split / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    table = "".join(f"{train_id},{name}\n" for train_id, name in enumerate(CLASSES))
    (root / "classes.csv").write_text("id,name\n" + table, encoding="utf-8")


def _scene(rng: np.random.Generator) -> np.ndarray:
    """Returns a mask [H, W] uint8: houses on the horizon, a road in front of it, signs in half of the scenes."""
    mask = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    horizon, left = rng.integers(35, 50), 0
    while left < _WIDTH:
        wide, high = rng.integers(15, 45), rng.integers(8, 28)
        if rng.random() < 0.6:
            mask[horizon - high : horizon, left : left + wide] = 1
        left += wide
    mask[horizon:] = 2
    middle = rng.integers(50, 110)
    corners = [[middle - 6, horizon], [middle + 6, horizon], [middle + 70, _HEIGHT], [middle - 70, _HEIGHT]]
    cv2.fillPoly(mask, [np.array(corners)], 3)
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            side, top = rng.integers(8, 14), rng.integers(horizon - 22, horizon + 8)
            left = rng.integers(2, _WIDTH - 16)
            mask[top : top + side, left : left + side] = 4
    return mask


def _picture(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Returns an RGB picture [H, W, 3] uint8 of a mask: colours that vary by picture, a texture per class, noise."""
    picture = (_COLOURS + rng.normal(0, 22, (len(CLASSES), 3)))[mask]
    for train_id in range(len(CLASSES)):
        grain = 2 + 3 * train_id
        noise = rng.normal(0, 28, (_HEIGHT // grain + 1, _WIDTH // grain + 1, 1)).repeat(3, 2)
        texture = cv2.resize(noise, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
        picture = np.where((mask == train_id)[..., None], picture + texture, picture)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.8) + rng.normal(0, 14, (_HEIGHT, _WIDTH, 3))
    return picture.clip(0, 255).astype(np.uint8)


def measure(case: str, seed: int, iterations: int, folder: Path) -> dict[str, Any]:
    """Trains one case with one seed and returns its recall and IoU of every class of val, in percent."""
    index, card = folder / "prepare" / "index.csv", folder / "prepare" / "dataset.json"
    out = folder / f"{'_'.join(case.replace(':', ' ').split())}-{seed}-{iterations}"
    if not (out / "weights.safetensors").exists():
        out.mkdir(parents=True, exist_ok=True)
        space = {"name": "road", "classes": list(CLASSES)}
        settings = {"config": ROW, "seed": seed, "max_iters": iterations, "label_space": space, **CASES[case]}
        names = {"weights": "safetensors", "fingerprint": "json", "config": "json", "audit": "json"}
        files = {name: out / f"{name}.{suffix}" for name, suffix in names.items()}
        work = {"log_file": out / "log.jsonl", "work_dir": folder / "work"}
        job = {"stage": "finetune", "model": case, "init": None, "init_card": None, "gpus": 0, "code": "benchmark"}
        train(settings=settings, index=index, card=card, **job, **files, **work)
    # Count the pixels of every frame of val.
    model, dataset, rows = vss.load(out, device="cpu"), read_card(card), read_index(index)
    counts = np.zeros((len(CLASSES), len(CLASSES) + 1), np.int64)
    for row in rows[rows["split"] == "val"].itertuples():
        labels = model.predict(read_image(Path(dataset.root) / row.image))
        counts += confusion_matrix(labels, dataset.read_mask(row.mask), len(CLASSES))
    recall = 100 * np.diag(counts) / counts.sum(axis=1)
    return {
        "case": case,
        "seed": seed,
        "iterations": iterations,
        "recall": dict(zip(CLASSES, recall.round(2).tolist(), strict=True)),
        "mIoU": round(100 * mean_iou(counts), 2),
    }


def main() -> None:
    """Trains every case with every seed, prints a Markdown table and writes the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rare_class", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--folder", type=Path, default=Path("work/bench-rare-class"))
    parser.add_argument("--out", type=Path, default=Path("results/bench/rare-class.json"))
    options = parser.parse_args()
    drawn, prepared = options.folder / "drawn", options.folder / "prepare"
    if not (prepared / "dataset.json").exists():
        draw(drawn)
        patterns = {"images": "images/{split}/{frame}.png", "masks": "masks/{split}/{frame}.png"}
        made = {"index": prepared / "index.csv", "card": prepared / "dataset.json", "check": prepared / "check.json"}
        settings = {"root": str(drawn.resolve()), "classes": "classes.csv", **patterns}
        prepare(dataset="road", settings=settings, workers=1, **made)
    rows = [
        measure(case, seed, options.iterations, options.folder)
        for case in options.cases
        for seed in range(options.seeds)
    ]
    write_rows(options.out, rows)
    # One line per case: mean and standard deviation over the seeds.
    table = pd.json_normalize(rows).groupby("case", sort=False)
    figures = [f"recall.{name}" for name in CLASSES] + ["mIoU"]
    mean, spread = table[figures].mean(), table[figures].std()
    print("| case | " + " | ".join([*CLASSES, "mIoU"]) + " |\n" + "|---" * (len(figures) + 1) + "|")
    for case in options.cases:
        print(f"| {case} | " + " | ".join(f"{mean[f][case]:.1f} ± {spread[f][case]:.1f}" for f in figures) + " |")


if __name__ == "__main__":
    main()
