"""Kills every stage at random moments, and compares what the run ends with to a run that was left alone: `make storm`.

    python -m tests.workflow.storm [--kills 5] [--seed 0] [--stages finetune infer] [--folder DIR]

Takes about as many runs of the tiny config as there are kills per stage, so that it is no test of the suite.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import yaml

from tests.nano_model import write_nano_model
from tests.workflow.conftest import KILLED, TINY, Project
from tests.workflow.test_imported import predict
from vss.core.index import read_dataset
from vss.core.log import log
from vss.prepare.run import prepare

# What the tests' own config has no job of.
STAGES = {
    **KILLED,
    "search": ("ensemble/searched/chosen.json", "ensemble/searched.search.log"),
    "propose": ("predictions/both.ssa/val/01.labels.h5", "propose/*.val.01.log"),
    "flow": ("flow/dis/val/01.h5", "flow/dis.val.01.log"),
    "train_refiner": ("refine/cascadepsp/fingerprint.json", "refine/cascadepsp.train.log"),
    "pseudo": ("pseudo/sure/index.csv", "pseudo/sure.log"),
    "check_masks": ("prepare/vspw/masks.val.json", "prepare/vspw.masks.val.log"),
    "import_prediction": ("predictions/peer/val/01.labels.h5", "import/peer.val.01.log"),
    "soup_of_run": ("finetune/averaged/fingerprint.json", "finetune/averaged.log"),
    "import_weights": ("finetune/given/fingerprint.json", "finetune/given.log"),
    "soup": ("finetune/mixed/fingerprint.json", "finetune/mixed.log"),
    "search_refiner": ("refine/both.tuned/chosen.json", "refine/both.tuned.search.log"),
    "score_of_split": ("score/both/val/scores.json", "score/both.val.log"),
    "track": ("tracker/passed.json", "tracker.log"),
}
# Those of a shard's frames, which are kept while a job runs.
_KEEPS_FRAMES = {"infer", "ensemble", "refine", "propose", "flow", "import_prediction"}
# Files that hold times, memory or when they were written: two undisturbed runs differ in them.
_TIMED = ("logs", "benchmarks", "report", "tracker")
_TIMED_KEYS = {"seconds", "data_seconds", "memory_mib", "time", "checksum"}


def more_stages(config: dict) -> None:
    """Adds what is searched, flow, pseudo-labels, a peer's files and weights, averages of weights, and a tracker."""
    config["ensembles"]["searched"] = {**config["ensembles"]["both"], "search_weights": True}
    config["refiners"]["temporal"] = {"method": "temporal"}
    config["models"]["convnext"]["finetune"]["checkpoint_interval"] = 1
    config["models"]["averaged"] = {"soup": {"of": "convnext", "last": 2}}
    config["models"]["given"] = {"weights": "given/weights.safetensors", "config": "upernet_convnext-nano_vspw"}
    config["models"]["mixed"] = {"soup": ["convnext", "given"]}
    config["refiners"]["tuned"] = {"method": "temporal", "search_settings": True}
    config["tracker"] = {"backend": "local"}
    added = {"searched": {}, "both.temporal": {}, "averaged.single": {}, "peer": {"labels": "peer/{split}"}}
    added |= {"mixed.single": {}, "both.tuned": {}}
    config["predictions"] |= added
    # Of test, whose frames have no masks.
    config["pseudo"] = {"sure": {"of": ["convnext.flip"], "split": "test", "transductive": True}}


def write_imported(folder: Path) -> None:
    """Writes below a project's folder the weights and label maps that its config imports, these of what it draws."""
    (folder / "given").mkdir()
    write_nano_model(folder / "given")
    settings = {"root": None, "drawn": yaml.safe_load(TINY.read_text())["data"]["vspw"]["drawn"]}
    with tempfile.TemporaryDirectory() as drawn:
        index, card, check = (Path(drawn, name) for name in ("index.csv", "card.json", "check.json"))
        prepare(dataset="vspw", settings=settings, index=index, card=card, check=check, workers=1)
        rows, dataset = read_dataset(index, card)
        predict(folder, Path(dataset.root), rows, dataset.raw_to_train)


def keep_every_frame(folder: Path) -> None:
    """Has the jobs of a project keep every frame at once and take longer for it: its shards are done in no time."""
    source = folder / "src" / "vss" / "core" / "unfinished.py"
    text = source.read_text(encoding="utf-8")
    for before, after in (("KEPT_EVERY = 15.0", "KEPT_EVERY = 0.0"), ("os.fsync(", "time.sleep(0.05), os.fsync(")):
        assert text.count(before) == 1
        text = text.replace(before, after)
    source.write_text(text, encoding="utf-8")


def kill_at_random(project: Project, stage: str, draw: random.Random, *, longest: float) -> bool:
    """Starts Snakemake for one stage, kills it and its jobs a random time after that stage's job began.

    About every second kill of a shard comes within half a second of its first frame.

    Returns:
        Whether it was still running.
    """
    output, log_name = STAGES[stage]
    results = project.folder / "results"

    def written(pattern: str) -> list[int]:
        with contextlib.suppress(FileNotFoundError):  # one is removed meanwhile
            return [path.stat().st_mtime_ns for path in sorted(results.glob(pattern))]
        return []

    # By a try that ended before its kill. Proposals are made only for what reads them.
    for made in (*results.glob(output), *(results.glob("proposals/*/*/01.h5") if stage == "propose" else ())):
        made.unlink()
    after_a_frame = stage in _KEEPS_FRAMES and draw.random() < 0.5
    shows = "*/**/.unfinished-*" if after_a_frame else f"logs/{log_name}"
    before = written(shows)
    run = subprocess.Popen(
        project.command(f"results/{output}"),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while written(shows) == before and run.poll() is None:
        time.sleep(0.01)
    end = time.monotonic() + draw.uniform(0, 0.5 if after_a_frame else longest)
    while time.monotonic() < end and run.poll() is None:
        time.sleep(0.01)
    at_work = run.poll() is None
    if at_work:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    project.snakemake("--unlock")
    return at_work


def content_of(path: Path) -> object:
    """Returns what is compared of a file: its bytes, or its JSON without times."""
    if path.name == "log.jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name.endswith(".config.json"):
        return _without_times(json.loads(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _without_times(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {key: _without_times(each) for key, each in value.items() if key not in _TIMED_KEYS}


def differences(one: Path, other: Path) -> list[str]:
    """Returns the files of two results folders that only one has, or that differ."""
    names = {
        path.relative_to(folder)
        for folder in (one, other)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in _TIMED
    }
    pairs = {str(name): (one / name, other / name) for name in names}
    return sorted(
        name
        for name, (first, second) in pairs.items()
        if not (first.is_file() and second.is_file() and content_of(first) == content_of(second))
    )


def main() -> int:
    """Runs the storm; returns 1 where a file differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="per stage")
    parser.add_argument("--longest", type=float, default=8.0, help="seconds after a job began")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--folder", type=Path, help="where the two projects are; by default a temporary folder")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    # The targets of the stages requested, and where all are, everything.
    whole = ["all"] if set(options.stages) == set(STAGES) else []
    targets = [*whole, *(f"results/{STAGES[stage][0]}" for stage in options.stages)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        calm, stormy = Project(Path(folder, "calm")), Project(Path(folder, "stormy"))
        kills = 0
        for project in (calm, stormy):
            keep_every_frame(project.folder)
        write_imported(calm.folder)
        for name in ("given", "peer"):
            shutil.copytree(calm.folder / name, stormy.folder / name)
        with calm.changed_config(more_stages), stormy.changed_config(more_stages):
            for stage in options.stages:
                longest, hits = options.longest, 0
                for _ in range(options.kills):
                    hit = kill_at_random(stormy, stage, draw, longest=longest)
                    longest *= 1 if hit else 0.5  # it takes less than that
                    hits += hit
                log(f"storm: {stage}: killed {hits} times")
                kills += hits
            for project in (stormy, calm):
                project.snakemake(*targets)
            left = stormy.planned(*targets)
        found = differences(calm.folder / "results", stormy.folder / "results")
        found += [str(path) for path in stormy.folder.glob("results/**/.*-*") if path.is_file()]
    log(f"storm: {kills} kills (seed {options.seed}), {len(found)} files differ, {sum(left.values())} jobs left")
    for name in found:
        log(f"  {name}")
    return int(bool(found or left))


if __name__ == "__main__":
    raise SystemExit(main())
