"""The model card: a page next to the weights that says what they were made from and how to use them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import vss
from vss.core.checkout import checkout_commit
from vss.core.errors import UserError
from vss.core.files import JsonObject, read_json, write_text
from vss.weights.fingerprint import FINGERPRINT

CARD = "README.md"
_CONFIG, _AUDIT, _LOG = "config.json", "audit.json", "log.jsonl"
# Settings of a training that a reader looks for; config.json has all of them.
_SHOWN = (
    "max_iters",
    "stop_iter",
    "batch_size",
    "crop_size",
    "scale",
    "ratio_range",
    "precision",
    "seed",
    "ema",
    "select",
)
_TERMS = {
    "vspw": "VSPW is for non-commercial research (its download page has the terms); weights trained on it share them.",
    "coco_stuff": "COCO-Stuff: annotations CC BY 4.0, images under their Flickr terms.",
}
_SCORES = ("mIoU", "fwIoU", "VC8", "VC16")


def write_model_card(folder: str | os.PathLike, *, dataset_card: str | os.PathLike | None = None) -> None:
    """Writes the card of the model in `folder` to `CARD`; nothing where its files have other names.

    Args:
        folder: with config.json and fingerprint.json; audit.json and log.jsonl are read where they are there.
        dataset_card: of the data that it was trained on; None = unknown.
    """
    if not all(Path(folder, name).is_file() for name in (_CONFIG, FINGERPRINT)):
        return
    write_text(Path(folder, CARD), "\n".join(_lines(Path(folder), dataset_card, {})))


def card(*, model: str | os.PathLike, results: str | os.PathLike = "results") -> None:
    """Writes a trained model's card again, with the scores that its predictions have by now.

    Args:
        model: a folder with config.json, or the name of a model whose training is in `results`.
        results: the results folder of a config; `score` and `prepare` are read below it.

    Raises:
        UserError: there is no such model.
    """
    folder = Path(model) if Path(model, _CONFIG).is_file() else Path(results, "finetune", os.fspath(model))
    for name in (_CONFIG, FINGERPRINT):
        if not (folder / name).is_file():
            raise UserError(f"model {os.fspath(model)!r}: no {name} in {folder}; train the model, or name its folder")
    dataset = read_json(folder / _CONFIG).get("dataset")
    known = Path(results, "prepare", str(dataset), "dataset.json")
    scores = {
        f"{path.parts[-3]}, {path.parts[-2]}": read_json(path)
        for path in sorted(Path(results, "score").glob(f"{folder.name}.*/*/scores.json"))
    }
    write_text(folder / CARD, "\n".join(_lines(folder, known if known.is_file() else None, scores)))
    print(folder / CARD)


def _lines(folder: Path, dataset_card: str | os.PathLike | None, scores: JsonObject) -> Iterator[str]:
    config, fingerprint = read_json(folder / _CONFIG), read_json(folder / FINGERPRINT)
    training = config.get("training", {})
    yield from (f"# {fingerprint['model']}", "", f"Row `{config['row']}`, protocol `{config['protocol']}`,")
    yield from (f"{len(config['classes'])} classes (names by train id in `{_CONFIG}`).", "", "## Data", "")
    dataset = None if dataset_card is None else read_json(dataset_card)
    yield from _data(config, dataset)
    yield from _start(folder, fingerprint["settings"])
    yield from ("", "## Settings", "", "| setting | value |", "|---|---|")
    yield from (f"| {key} | {json.dumps(training[key])} |" for key in _SHOWN if training.get(key) is not None)
    yield f"| set in the config | {json.dumps(fingerprint['settings'], sort_keys=True)} |"
    yield from ("", "## Scores", "")
    yield from _scores(folder, scores, fingerprint["model"])
    yield from ("", "## Made by", "", f"vss {vss.__version__}{_commit()}, stage {fingerprint['stage']}.")
    yield f"SHA-256 of the weights: `{fingerprint['sha256']}`."
    yield from ("", "## Licence notes", "", "The code is Apache-2.0.")
    if config["dataset"] in _TERMS and not (dataset and dataset["drawn"]):
        yield _TERMS[config["dataset"]]
    yield "Published weights that a training starts from keep their own terms."
    yield from ("", "## Use", "", "```python", "import vss", "", f"model = vss.load({json.dumps(folder.as_posix())})")
    yield from ('labels = model.predict("frame.jpg")  # [H, W] uint8 train ids', "```", "")


def _data(config: JsonObject, card: JsonObject | None) -> Iterator[str]:
    if card is None:
        yield f"Dataset `{config['dataset']}`."
        return
    frames = ", ".join(f"{count} {split}" for split, count in card["frames"].items())
    drawn = " (**drawn** by this project: these weights know no real images)" if card["drawn"] else ""
    yield f"Dataset `{card['name']}`{drawn}: {frames} frames."


def _start(folder: Path, settings: JsonObject) -> Iterator[str]:
    """Yields what the weights were filled from: a published file, a pretraining, other models, or nothing."""
    if "soup" in settings:
        yield f"The average of the weights of {len(settings['soup'])} models."
        return
    audit = read_json(folder / _AUDIT) if (folder / _AUDIT).is_file() else {}
    if audit.get("source"):
        filled = sum(len(audit.get(key, ())) for key in ("loaded", "renamed", "resized"))
        kind = f" ({audit['kind']})" if audit.get("kind") else ""
        new = len(audit.get("new", ()))
        yield f"Filled from `{Path(audit['source']).name}`{kind}: {filled} tensors; {new} were new."
    else:
        yield "Started from random weights."


def _scores(folder: Path, scores: JsonObject, model: str) -> Iterator[str]:
    if scores:
        yield from (f"| prediction, split | {' | '.join(_SCORES)} |", "|---" * (1 + len(_SCORES)) + "|")
        for name, found in scores.items():
            cells = (f"{found[key]:.4f}" if isinstance(found.get(key), float) else "-" for key in _SCORES)
            yield f"| {name}{' (drawn data)' if found.get('drawn') else ''} | {' | '.join(cells)} |"
        return
    log = folder / _LOG
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    if validated := [record for record in records if "mIoU" in record]:
        yield f"mIoU of the last validation (iteration {validated[-1]['iter']}): {validated[-1]['mIoU']:.4f}."
    yield f"None yet of its predictions; `vss card {model}` writes this page again with them."


def _commit() -> str:
    found = checkout_commit()
    return f", commit {found}" if found else ""
