"""Measures what a student gains on its teacher: `python -m benchmarks.pseudo`.

On drawn data half of the training videos lose their labels. A teacher is trained on the other half and labels the
frames that lost theirs. The student starts from the teacher's weights and is trained on both halves at a lower learning
rate; a control does the same for as many iterations without the pseudo-labels, so that the student's gain on it is
theirs, and its gain on the teacher what a round brings. All are scored on val, with several seeds of data and training.
Last, a teacher is trained on labels one class of which is wrong on purpose: its student has the right ones of its own
half, and must not be wrong more often than the teacher.

What is trained stays in the folder: a run that was stopped continues, and parts of it may be run one after the other
(`--seeds 0`, `--seeds 1`, ...; `--no-wrong`), before one of all seeds collects them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.shared import write_rows
from vss.core.confusion import confusion_matrix, mean_iou
from vss.core.files import read_json, sha256_of_file, write_text
from vss.core.index import read_dataset, write_card, write_index
from vss.core.labels_file import LabelsReader
from vss.infer.run import infer
from vss.prepare.run import prepare
from vss.pseudo.run import pseudo
from vss.train.run import train

ROW = "upernet_convnext-nano_vspw"
# Eight classes, which so few iterations learn to tell apart, and one for everything else that is drawn: without a class
# a quarter of the pixels could only be given wrong pseudo-labels.
CLASSES = ("other", "sky", "building", "tree", "grass", "road", "water", "wall", "floor")
DRAWN = {"train_videos": 48, "train_frames": 3, "val_videos": 32, "val_frames": 2}
SCENES = 4
IGNORED = 255  # what is drawn of everything else, before it becomes the first class
WRONG = ("sky", "wall")  # what the wrong teacher takes the first for
CONTINUED_RATE = 1e-3  # learning rate of a training that starts from the teacher's weights; the row's is 4e-3
WEIGHT = 0.25  # of the pseudo-labelled frames in an epoch
SETTINGS: dict[str, Any] = {"keep": 0.5, "negatives": True}


@dataclass(frozen=True)
class Data:
    """A prepared dataset."""

    index: Path
    card: Path


@dataclass(frozen=True)
class Setting:
    """What is the same in all trainings of a comparison."""

    iterations: int
    folder: Path
    seed: int

    def finetune(self, name: str, *parts: tuple[Data, Mapping[str, Any]], start: Path | None = None) -> Path:
        """Trains a model on datasets, each with its entry of `mix`, and returns its folder; once.

        Args:
            name: of the model and its folder.
            parts: datasets and entries.
            start: folder of the model whose training is continued for half as many iterations.
        """
        folder = self.folder / name
        lower = {} if start is None else {"optim_wrapper.optimizer.lr": CONTINUED_RATE}
        if not (folder / "weights.safetensors").exists():
            train(
                stage="finetune",
                model=name,
                settings={
                    "config": ROW,
                    "max_iters": self.iterations if start is None else self.iterations // 2,
                    "cfg_options": {"crop_size": [48, 64], **lower},
                    "init_classes": "new" if start is None else "copy",
                    "label_space": {"name": "drawn", "classes": list(CLASSES)},
                    "seed": self.seed,
                    **({"mix": [dict(entry) for _, entry in parts]} if len(parts) > 1 else {}),
                },
                index=[data.index for data, _ in parts],
                card=[data.card for data, _ in parts],
                init=start and start / "weights.safetensors",
                init_card=start and parts[0][0].card,
                weights=folder / "weights.safetensors",
                work_dir=folder / "work",
                gpus=0,
                code="benchmark",
            )
        return folder

    def predict(self, model: Path, data: Data, split: str) -> Path:
        """Predicts a split with class scores and returns the folder of its files."""
        folder = model / split
        infer(
            settings={"prediction": f"{model.name}.single"},
            weights=model / "weights.safetensors",
            config=model / "config.json",
            index=data.index,
            card=data.card,
            split=split,
            shard=0,
            shards=1,
            out=[folder / "00.labels.h5", folder / "00.scores.h5"],
            device="cpu",
        )
        return folder

    def label(self, teacher: Path, hidden: Data, name: str, **settings: Any) -> tuple[Data, dict[str, Any]]:
        """Makes pseudo-labels of the frames without masks; returns them and their summary."""
        folder = self.folder / name
        scores = self.predict(teacher, hidden, "train") / "00.scores.h5"
        made = Data(folder / "index.csv", folder / "dataset.json")
        pseudo(
            settings={"of": [f"{teacher.name}.single"], **settings},
            scores=[[scores]],
            index=hidden.index,
            card=hidden.card,
            out_index=made.index,
            out_card=made.card,
            summary=folder / "summary.json",
        )
        return made, read_json(folder / "summary.json")


def draw(folder: Path, seed: int) -> Data:
    """Draws the dataset of a seed."""
    made = Data(folder / "prepare" / "index.csv", folder / "prepare" / "dataset.json")
    if not made.card.exists():
        table = folder / "classes.csv"
        rows = [f"{number},{name},{name}" for number, name in enumerate(CLASSES)]
        write_text(table, "\n".join(["id,name,train_name", *rows, ""]))
        settings = {
            "images": "{split}/{video}/frames/{frame}.jpg",
            "masks": "{split}/{video}/labels/{frame}.png",
            "classes": str(table),
            "drawn": {**DRAWN, "seed": seed},
        }
        prepare(dataset="drawn", settings=settings, index=made.index, card=made.card, check=folder / "check.json")
    return with_masks(made, folder / "whole", replaced(made, "whole", IGNORED, CLASSES.index("other")))


def with_masks(data: Data, folder: Path, masks: Sequence[str]) -> Data:
    """Returns a copy of a dataset with other masks, one for each row of its index; empty = none."""
    table, card = read_dataset(data.index, data.card)
    made = Data(folder / "index.csv", folder / "dataset.json")
    folder.mkdir(parents=True, exist_ok=True)
    write_index(made.index, table.assign(mask=list(masks)))
    write_card(made.card, replace(card, sha256=sha256_of_file(made.index)))
    return made


def is_hidden(table: pd.DataFrame) -> np.ndarray:
    """Returns whether each row is a frame of the half of train's videos that lose their labels.

    Videos are drawn scene after scene, `SCENES` of them in turn: each scene has as many videos in both halves.
    """
    videos = sorted(set(table.loc[table["split"] == "train", "video"]))
    hidden = [video for number, video in enumerate(videos) if number // SCENES % 2]
    return (table["video"].isin(hidden) & (table["split"] == "train")).to_numpy()


def replaced(data: Data, name: str, value: int, by: int) -> list[str]:
    """Writes masks of another name in which one value is replaced by another; returns their paths below the root."""
    table, card = read_dataset(data.index, data.card)
    found = []
    for row in table.itertuples():
        raw = cv2.imread(str(Path(card.root) / row.mask), cv2.IMREAD_GRAYSCALE)
        found.append(f"{name}/{row.split}-{row.video}-{row.frame}.png")
        path = Path(card.root) / found[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.where(raw == value, by, raw).astype(np.uint8))
    return found


def scores(predicted: Path, data: Data, split: str, rows: np.ndarray | None = None) -> dict[str, float]:
    """Returns the mIoU and the share of wrong pixels of a prediction in percent, of some rows or of a split's."""
    table, card = read_dataset(data.index, data.card)
    table = table[(table["split"] == split) if rows is None else rows]
    total = 0
    with LabelsReader(predicted / "00.labels.h5") as reader:
        for row in table.itertuples():
            total = total + confusion_matrix(
                reader.read(row.video, row.frame), card.read_mask(row.mask), len(card.classes)
            )
    return {"miou": 100 * mean_iou(total), "wrong": _wrong(total)}


def wrong_among_kept(made: Data, data: Data) -> float:
    """Returns the share of kept pseudo-labels that are wrong, in percent."""
    (table, card), (truth, own) = read_dataset(made.index, made.card), read_dataset(data.index, data.card)
    masks = {(row.video, row.frame): row.mask for row in truth.itertuples()}
    total = 0
    for row in table.itertuples():
        kept = card.read_mask(row.mask)
        right = np.where(kept == 255, 255, own.read_mask(masks[row.video, row.frame])).astype(np.uint8)
        total = total + confusion_matrix(kept, right, len(own.classes))
    return _wrong(total)


def _wrong(confusion: np.ndarray) -> float:
    return 100 * float(1 - np.diagonal(confusion).sum() / confusion.sum())


def compare(folder: Path, seed: int, iterations: int, *, wrong: bool = False, **settings: Any) -> dict[str, Any]:
    """Returns the scores of a teacher, its student and its control, and what was kept of the teacher's labels.

    Args:
        folder: of everything that is made.
        seed: of data and trainings.
        iterations: of the teacher's training; the other two have half as many.
        wrong: whether the teacher is trained on wrong labels.
        settings: of the pseudo-labels.
    """
    data = draw(folder / f"data-{seed}", seed)
    setting = Setting(iterations, folder / f"{'wrong-' if wrong else ''}{seed}-{iterations}", seed)
    table, _ = read_dataset(data.index, data.card)
    hidden = is_hidden(table)
    half = with_masks(data, setting.folder / "half", np.where(hidden, "", table["mask"]))
    taught = half
    if wrong:
        masks = np.where(hidden, "", replaced(data, "wrong", *map(CLASSES.index, WRONG)))
        taught = with_masks(data, setting.folder / "half-wrong", masks)

    teacher = setting.finetune("teacher", (taught, {}))
    made, summary = setting.label(teacher, half, "pseudo", **settings)
    entry = {"weight": WEIGHT, "strong": True, **({"negatives": True} if settings.get("negatives") else {})}
    control = setting.finetune("control", (half, {}), start=teacher)
    student = setting.finetune("student", (half, {"weight": 1.0, "train_ids": None}), (made, entry), start=teacher)
    models = {"teacher": teacher, "control": control, "student": student}
    found = {name: scores(setting.predict(model, data, "val"), data, "val") for name, model in models.items()}
    return {
        "seed": seed,
        "iterations": iterations,
        "wrong_on_purpose": wrong,
        **settings,
        "kept_percent": 100 * sum(summary["kept"]) / sum(summary["pixels"]),
        "teacher_wrong_of_hidden": scores(teacher / "train", data, "train", hidden)["wrong"],
        "wrong_among_kept": wrong_among_kept(made, data),
        **{f"{name}_{key}": value for name, each in found.items() for key, value in each.items()},
    }


def gain(rows: Sequence[Mapping[str, Any]], over: str) -> dict[str, Any]:
    """Returns the student's mean gain in mIoU on another model over seeds, with Student's 95% interval."""
    gains = np.array([row["student_miou"] - row[f"{over}_miou"] for row in rows])
    error = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    return {
        "gain_on": over,
        "gains": gains.tolist(),
        "mean_gain": gains.mean(),
        "interval": [gains.mean() - error, gains.mean() + error],
    }


def main() -> None:
    """Measures and prints a Markdown table; writes the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pseudo", description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=900)
    parser.add_argument("--no-wrong", action="store_true", help="leave the wrong teacher out")
    parser.add_argument("--folder", type=Path, default=Path("work/bench-pseudo"), help="of what is trained")
    parser.add_argument("--out", type=Path, default=Path("results/bench/pseudo.json"))
    options = parser.parse_args()
    run = [compare(options.folder, seed, options.iterations, **SETTINGS) for seed in options.seeds]
    wrong = [] if options.no_wrong else options.seeds[:1]
    rows = [*run, *(compare(options.folder, seed, options.iterations, wrong=True, **SETTINGS) for seed in wrong)]
    summary = [gain(run, over) for over in ("teacher", "control")] if len(run) > 1 else []
    write_rows(options.out, [*rows, *summary])
    print(
        "| seed | teacher | control | student | kept | wrong: teacher, kept labels, control, student |\n"
        + "|---" * 6
        + "|"
    )
    for row in rows:
        name = f"{row['seed']}, wrong teacher" if row["wrong_on_purpose"] else row["seed"]
        scores_of = " | ".join(f"{row[f'{model}_miou']:.1f}" for model in ("teacher", "control", "student"))
        wrongs = ("teacher_wrong", "wrong_among_kept", "control_wrong", "student_wrong")
        shares = ", ".join(f"{row[key]:.1f}%" for key in wrongs)
        print(f"| {name} | {scores_of} | {row['kept_percent']:.0f}% | {shares} |")
    for found in summary:
        low, high = found["interval"]
        gains = ", ".join(f"{each:+.1f}" for each in found["gains"])
        print(
            f"\non the {found['gain_on']}: {gains}; mean {found['mean_gain']:+.1f} mIoU,"
            f" 95% interval {low:+.1f} to {high:+.1f}"
        )


if __name__ == "__main__":
    main()
