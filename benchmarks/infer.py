"""`make bench-infer`: the inference engine beside MMSegmentation's own test-time augmentation loop.

Same machine, same run, same weights (random: speed does not depend on them), same images and views; each side in its
own process. Labels have to be equal wherever the two best classes are not within rounding of each other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.infer_case import SIDES, our_engine
from benchmarks.shared import write_rows
from benchmarks.throughput import throughput
from vss.configs.resolve import published_settings, resolve
from vss.core.files import write_json
from vss.core.images import read_image
from vss.core.log import log
from vss.models.build import build_segmentor
from vss.weights.tensor_files import save_tensors

ROWS = ("upernet_swin-nano_vspw", "upernet_internimage-nano-h_vspw", "mask2former_internimage-nano-h_vspw")
FULL_SIZE = "mask2former_internimage-h_vspw"  # run only where there is a GPU
VIEWS = {
    "1 view": {"img_ratios": [1.0], "flip": False},
    "12 views": {"img_ratios": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True},
}
# Largest gap between the two best probabilities at which the two sides may choose differently: both round to float32,
# and MMSegmentation mirrors before its last resize, whose coordinates are rounded as well.
TIE = 1e-4


def bench_infer(
    *, out: Path, rows: Sequence[str] = ROWS, frames: int = 4, size: tuple[int, int] = (480, 853), rounds: int = 3
) -> list[dict[str, Any]]:
    """Measures every row and set of views and writes a list of {case, ours, peer, unit, ratio, equal} as JSON.

    `ratio` is how many times better ours is, above 1 for more frames per second and for less memory alike.

    Args:
        out: JSON file.
        rows: model rows, built with random weights.
        frames: images of each case.
        size: (height, width) of the images.
        rounds: the two sides take turns this often; the fastest round of each counts, the largest peak.
    """
    results = []
    with tempfile.TemporaryDirectory(prefix="vss-bench-") as folder:
        images = write_images(Path(folder) / "images", frames, size)
        for row in rows:
            model = write_model(Path(folder) / row, row)
            for name, views in VIEWS.items():
                log(f"{row}, {name}: {rounds} rounds of {len(SIDES)} sides")
                results += compare(f"{row}, {size[1]}x{size[0]}, {name}", model, images, views, rounds)
                write_rows(out, results)
    return results


def compare(case: str, model: Path, images: Path, views: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Returns the two result rows (speed, memory) of a case."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            measured[side].append(_measure_apart(side, model, images, views))
    equal = labels_agree(measured["ours"][0]["labels"], measured["peer"][0]["labels"], model, images, views)
    fps = {side: 1 / min(float(run["seconds"]) for run in runs) for side, runs in measured.items()}
    peak = {side: max(float(run["peak"]) for run in runs) for side, runs in measured.items()}
    common = {"case": case, "equal": equal}
    return [
        common | {"unit": "frames/s", **_rounded(fps, 3), "ratio": round(fps["ours"] / fps["peer"], 2)},
        common | {"unit": "MB peak", **_rounded(peak, 0), "ratio": round(peak["peer"] / peak["ours"], 2)},
    ]


def labels_agree(ours: np.ndarray, peer: np.ndarray, model: Path, images: Path, views: dict[str, Any]) -> bool:
    """Returns whether two sets of label maps [N, H, W] differ only where the best two classes tie within `TIE`."""
    engine = None
    for path, our_labels, peer_labels in zip(sorted(images.iterdir()), ours, peer, strict=True):
        differing = torch.from_numpy(our_labels != peer_labels)
        if differing.any():
            engine = engine or our_engine(model, views)
            best = engine.probabilities(read_image(path))[:, differing].topk(2, dim=0).values
            if (best[0] - best[1]).max() > TIE:
                return False
    return True


def write_images(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes JPEG images of smooth random structure and returns their folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (size[0] // 30 + 1, size[1] // 30 + 1, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        if not cv2.imwrite(str(folder / f"{number:04d}.jpg"), image):
            raise OSError(f"{folder}: cannot write images")
    return folder


def write_model(folder: Path, row: str) -> Path:
    """Writes config and random weights of a row, scaled so that many classes win somewhere."""
    config = published_settings(resolve({"config": row}))
    config["test"] = {}
    torch.manual_seed(0)
    segmentor = build_segmentor(config["model"])
    head = segmentor.decode_head
    with torch.no_grad():
        if hasattr(head, "mask_embed"):
            head.cls_embed.weight.normal_()
            head.mask_embed[-1].weight *= 20  # fresh masks are alike everywhere
        else:
            head.conv_seg.weight.normal_()
    write_json(folder / "config.json", config)
    save_tensors(segmentor.state_dict(), folder / "weights.safetensors")
    return folder


def _measure_apart(side: str, model: Path, images: Path, views: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vss-bench-") as folder:
        out = Path(folder) / "measured.npz"
        command = [sys.executable, "-m", "benchmarks.infer_case", side, "--model", model, "--images", images]
        command += ["--views", json.dumps(views), "--out", out]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"benchmark of {side} failed:\n{done.stderr}")
        with np.load(out) as measured:
            return {name: measured[name] for name in measured.files}


def _rounded(values: dict[str, float], digits: int) -> dict[str, float]:
    return {side: round(value, digits) for side, value in values.items()}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Returns the results as lines of text."""
    lines = [f"{'case':<62}{'ours':>10}{'mmseg':>10}  {'unit':<9}{'ratio':>6}  equal"]
    for row in results:
        numbers = f"{row['ours']:>10.2f}{row['peer']:>10.2f}  {row['unit']:<9}{row['ratio']:>6.2f}"
        lines.append(f"{row['case']:<62}{numbers}  {'yes' if row['equal'] else 'NO'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark from the command line and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/bench/infer.json"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 853), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    results = bench_infer(
        out=options.out, rows=options.rows, frames=options.frames, size=tuple(options.size), rounds=options.rounds
    )
    print(table(results))
    if torch.cuda.is_available():
        on_gpu = [
            throughput(row=FULL_SIZE, views=views, device="cuda", with_scores=with_scores)
            for views in VIEWS.values()
            for with_scores in (False, True)
        ]
        write_rows(options.out.with_name("infer-gpu.json"), on_gpu)
        for row in on_gpu:
            mfu = "unknown" if row["mfu"] is None else f"{row['mfu']:.1%}"
            what = f"{row['row']}{', class scores written,' if row['with_scores'] else ''} on {row['device']}"
            print(f"{what}: {row['frames_per_second']:.2f} frames/s, MFU {mfu}")


if __name__ == "__main__":
    main()
