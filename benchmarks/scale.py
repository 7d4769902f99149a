"""How long the workflow plans at full size: the paper's config on a dummy VSPW of the real number of files.

    python -m benchmarks.scale FOLDER            # 475,000 hard links; remove FOLDER afterwards

The frames of a split are links to one image and one mask, so that they take no room but their names. What is done is
made of empty files and `snakemake --touch`. `--shards 1000 --predictions 100` plans that many in place of the paper's.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PAPER = REPOSITORY / "workflow" / "configs" / "pvuw2023.yaml"
# Of the VSPW release: videos and frames by split.
VSPW = {"train": (2806, 198_244), "val": (343, 24_502), "test": (387, 28_887)}
_LINKS = 60_000  # to one file; ext4 allows 65,000
_SIZE = (480, 853)


def draw_dummy(root: Path, *, share: float = 1.0) -> int:
    """Makes a dummy VSPW of the release's number of files; returns the number of frames.

    Args:
        root: folder to make; nothing is done where it is already there.
        share: of the release's videos and frames.
    """
    frames = {split: (round(videos * share), round(count * share)) for split, (videos, count) in VSPW.items()}
    if not root.exists():
        root.mkdir(parents=True)
        labels = np.random.default_rng(0).integers(1, 124, (6, 8)).astype(np.uint8)
        mask = cv2.resize(labels, _SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        image = _Source(root / "image.jpg", np.stack([mask] * 3, -1))
        sources = {"origin": (image, ".jpg"), "mask": (_Source(root / "mask.png", mask), ".png")}
        for split, (videos, count) in frames.items():
            names = [f"{split}_{number:04d}" for number in range(videos)]
            for number, name in enumerate(names):
                own = range(number * count // videos, (number + 1) * count // videos)
                for part, (source, suffix) in sources.items():
                    if part == "mask" and split == "test":
                        continue
                    folder = root / "data" / name / part
                    folder.mkdir(parents=True)
                    for frame in range(len(own)):
                        source.link(f"{folder}/{frame:08d}{suffix}")
            (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return sum(count for _, count in frames.values())


class _Source:
    """An image file that others are hard links to."""

    def __init__(self, path: Path, image: np.ndarray) -> None:
        cv2.imwrite(str(path), image)
        self._path, self._content, self._links = path, path.read_bytes(), 0

    def link(self, to: str) -> None:
        self._links += 1
        if self._links % _LINKS == 0:  # a copy takes the next ones
            self._path = self._path.with_stem(f"{self._path.stem}-{self._links}")
            self._path.write_bytes(self._content)
        os.link(self._path, to)


def dummy_config(folder: Path, *, shards: int | None = None, predictions: int | None = None) -> dict[str, Any]:
    """Returns the paper's config on a dummy VSPW and empty stand-ins for all else that it names, made in `folder`.

    Args:
        folder: holds `vspw`.
        shards: of every split of VSPW, in place of the config's.
        predictions: so many in place of the config's, all of one model.
    """
    config = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    config |= {"results": f"{folder}/results", "work": f"{folder}/work"}
    config["data"]["vspw"] |= {"root": f"{folder}/vspw", "checks": "fast"}
    config["data"]["coco_stuff"]["root"] = f"{folder}/coco"
    for part in ("images", "stuffthingmaps"):
        for split in ("train2017", "val2017"):
            Path(folder, "coco", part, split).mkdir(parents=True, exist_ok=True)
    stages = [model.get(stage, {}) for model in config["models"].values() for stage in ("pretrain", "finetune")]
    tables = [*config["models"].values(), *config["refiners"].values(), *stages]
    for table in tables:
        for key in {"weights", "init"} & table.keys():
            table[key] = f"{folder}/{Path(table[key]).name}"
            Path(table[key]).touch()
    if shards:
        config["data"]["vspw"]["shards"] = dict.fromkeys(VSPW, shards)
    return config | (_many(config["models"]["swin-l"], predictions) if predictions else {})


def _many(model: dict[str, Any], predictions: int) -> dict[str, Any]:
    """Returns the sections of a config with many predictions of one model: of five, one averages three, one refines."""
    scales = {f"scale{number}": {"img_ratios": [1 + number / 1000]} for number in range(predictions)}
    single = [f"swin-l.{name}" for name in scales]
    members = {f"mean{start}": dict.fromkeys(single[start : start + 3], 1) for start in range(0, predictions, 5)}
    names = [*single[: predictions - 2 * len(members)], *members, *(f"{name}.steady" for name in members)]
    return {
        "models": {"swin-l": model},
        "tta": scales,
        "ensembles": {name: {"members": each} for name, each in members.items()},
        "refiners": {"steady": {"method": "temporal"}},
        "predictions": {name: {} for name in names},
        "targets": {},
    }


def snakemake(folder: Path, config: Path, *words: str, check: bool = True) -> tuple[str, str]:
    """Runs Snakemake on a config, in a working folder.

    Returns:
        What it printed, and its seconds, its seconds of a core, and megabytes at its peak as cells of a table.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(config), "--cores", "2", *words]
    log = folder / "snakemake.log"
    start = time.monotonic()
    with open(log, "wb") as file:
        run = subprocess.Popen(command, stdout=file, stderr=file)
        _, status, usage = os.wait4(run.pid, 0)
    seconds, text = time.monotonic() - start, log.read_text(encoding="utf-8", errors="replace")
    if status and check:
        raise SystemExit(f"snakemake {' '.join(words)} failed\n{text[-3000:]}")
    return text, f"{seconds:.1f} | {usage.ru_utime + usage.ru_stime:.1f} | {usage.ru_maxrss / 1000:.0f}"


def jobs_planned(text: str) -> int:
    """Returns the number of jobs of a dry run, 0 where there is nothing to be done."""
    found = re.search(r"^total +(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def pretend_done(folder: Path, config: Path) -> None:
    """Makes every output of a config as an empty file, and Snakemake believe that all of them are up to date."""
    summary, _ = snakemake(folder, config, "--summary")
    for line in summary.splitlines():
        name, tab, _ = line.partition("\t")
        if tab and name != "output_file":
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    snakemake(folder, config, "--touch", check=False)  # the last word, the table, cannot be read from an empty file


def main(arguments: Iterable[str] | None = None) -> None:
    """Makes the dummy, and prints a row for a dry run of everything and one of everything already done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to make, on a disk with room for 500,000 names")
    parser.add_argument("--share", type=float, default=1.0, help="of VSPW's files")
    parser.add_argument("--shards", type=int, help="of every split, in place of the config's")
    parser.add_argument("--predictions", type=int, help="so many in place of the paper's")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    frames = draw_dummy(folder / "vspw", share=options.share)
    for made in ("results", "work", ".snakemake"):  # by a run before
        shutil.rmtree(folder / made, ignore_errors=True)
    config = folder / "config.yaml"
    content = dummy_config(folder, shards=options.shards, predictions=options.predictions)
    config.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    print(f"| {frames:,} frames | jobs | seconds | CPU seconds | MB |\n|---|---|---|---|---|")
    text, cells = snakemake(folder, config, "--dry-run", "--quiet", "rules")
    print(f"| dry run of everything | {jobs_planned(text)} | {cells} |", flush=True)
    pretend_done(folder, config)
    text, cells = snakemake(folder, config, "--dry-run", "--quiet", "rules")
    print(f"| dry run of everything done | {jobs_planned(text)} | {cells} |")


if __name__ == "__main__":
    main()
