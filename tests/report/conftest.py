"""A small finished run, as the report stage finds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_dataset import write_dataset, write_labels

from vss.core.files import write_json
from vss.report.run import FILES, report
from vss.score.shard import score_shard
from vss.score.summary import summarise

HOSTILE = '<img src=x onerror="document.title=1"> & </script><b>'


@pytest.fixture(scope="session", autouse=True)
def _one_date() -> Iterator[None]:
    """The metadata name a date: the same one in every test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # 2023-11-14
        yield


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of `report` without `out`: two videos, three predictions, one of them a refinement, two trainings.

    The first frame of each video could not be refined.
    """
    tmp_path = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(5)
    truth = {
        "a <b> & --c": [np.repeat([[1, 2, 255]], 8, 0).repeat(4, 1).astype(np.uint8)] * 10,
        "zw\u00f6lf": [np.repeat([[3], [4]], 6, 0).repeat(10, 1).astype(np.uint8)] * 9,
    }
    images = {v: [rng.integers(0, 256, (*m.shape, 3), np.uint8) for m in maps] for v, maps in truth.items()}
    dataset = write_dataset(tmp_path / "data", truth, images=images)
    inputs: dict[str, Any] = {key: {} for key in ("scores", "per_class", "per_video", "draws", "logs", "labels")}
    for name, wrong in (("net.single", 0.2), ("net.single.ssa", 0.1), ("other", 0.5)):
        labels = {
            video: [
                np.where(rng.random(m.shape) < wrong, 7, np.where(m == 255, 9, m - 1)).astype(np.uint8) for m in maps
            ]
            for video, maps in truth.items()
        }
        folder = tmp_path / name
        path = write_labels(folder / "00.labels.h5", labels, unrefined="cut short" if name.endswith(".ssa") else "")
        score_shard(
            labels=path, index=dataset.index, card=dataset.card, split="val", shard=0, shards=1, out=folder / "c.npz",
            refines=inputs["labels"][name.removesuffix(".ssa")][0] if name.endswith(".ssa") else None,
        )  # fmt: skip
        names = {
            "scores": "scores.json",
            "per_class": "per_class.csv",
            "per_video": "per_video.csv",
            "draws": "draws.npz",
        }
        files = {key: folder / file for key, file in names.items()}
        summarise(shards=[folder / "c.npz"], card=dataset.card, **files)
        for key, file in files.items():
            inputs[key][name] = file
        inputs["labels"][name] = [path]
        inputs["results"] = tmp_path
        _write_benchmark(tmp_path / f"benchmarks/infer/{name}.val.00.tsv", 19 * len(name))
    del inputs["labels"]["other"]
    for training in ("pretrain/net", "finetune/net"):
        log = tmp_path / f"{training}.jsonl"
        log.parent.mkdir(exist_ok=True)
        lines = [{"iter": 5 * n, "loss": 3 / n, "seconds": 0.2, "memory_mib": 700} for n in range(1, 21)]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        inputs["logs"][training] = log
    inputs["config"] = tmp_path / "config.json"
    write_json(inputs["config"], {"models": {"net": {"title": "</pre><b>"}}})
    settings = {
        "title": "A run of <small> & big",
        "protocol": "paper",
        "split": "val",
        "rows": [
            {"name": "net.single", "title": "Net, one | two", "table": 1, "paper": {"val": 56.24, "test1": 48.09}},
            {"name": "net.single.ssa", "title": "Net, one | two + SSA", "table": 4, "paper": {"test": 64.11}},
            {"name": "other", "title": "Other <x>", "table": None, "paper": {}},
        ],
        "shown": ["net.single", "net.single.ssa"],
        "frames": 3,
        "titles": {"net": "Net"},
        "trainings": ["pretrain/net", "finetune/net"],
    }
    # Not to be changed by a test: the report of it is shared.
    return {"settings": settings, "inputs": inputs, "index": dataset.index, "card": dataset.card}


def _write_benchmark(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:00\t100.5\t{seconds / 2}\n")


def out_in(folder: Path) -> dict[str, Path]:
    """Returns the output files of a report in a folder."""
    return {key: folder / name for key, name in FILES.items()}


@pytest.fixture(scope="module")
def written(finished_run, tmp_path_factory) -> dict[str, Path]:
    """The report of the finished run."""
    folder = tmp_path_factory.mktemp("report")
    report(**finished_run, folder=folder)
    return out_in(folder)


@pytest.fixture(scope="module")
def large(finished_run, tmp_path_factory) -> dict[str, Path]:
    """The report of 40 predictions with hostile names, in 124 classes."""
    settings, inputs = dict(finished_run["settings"]), dict(finished_run["inputs"])
    named = settings["rows"]
    names = {f"copy{number}": named[number % 3]["name"] for number in range(37)}
    settings["rows"] = [*named, *({"name": name, "title": f"{name} {HOSTILE}"} for name in names)]
    settings["title"], settings["titles"] = f"Report {HOSTILE}", {"net": f"Net {HOSTILE}"}
    for kind in ("scores", "per_class", "draws"):
        inputs[kind] = {**inputs[kind], **{name: inputs[kind][source] for name, source in names.items()}}
    folder = tmp_path_factory.mktemp("large")
    report(**finished_run | {"settings": settings, "inputs": inputs}, folder=folder)
    return out_in(folder)


@pytest.fixture
def write_report(finished_run, tmp_path):
    """Returns write(settings={...}, inputs={...}, card=...): the report of the run with these changes."""

    def write(*, settings: dict[str, Any] | None = None, inputs: dict[str, Any] | None = None, **files: Path):
        run = finished_run | files
        run["settings"] = run["settings"] | (settings or {})
        run["inputs"] = run["inputs"] | (inputs or {})
        report(**run, folder=tmp_path / "report")
        return out_in(tmp_path / "report")

    return write
