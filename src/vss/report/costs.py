"""What a run took: time, memory, disk and GPU time of every stage, from the benchmark files that Snakemake writes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vss.core.errors import UserError
from vss.core.stages import READERS, with_readers

_FOLDERS = {"propose": "proposals"}  # where a stage's files lie in another folder than that of its name
_PREDICTS = ("infer", "import", "ensemble", "refine")
_GPUS = re.compile(rb"lease: runs on ([0-9]+) GPU")


@dataclass(frozen=True)
class JobCost:
    """What one job took, the last time it ran: NaN where Snakemake measured nothing.

    Attributes:
        stage: folder of its benchmark file, "infer".
        name: of its benchmark file, "swin.single.val.00".
        seconds: from start to end.
        cpu_seconds: of all its processes.
        memory_mib: largest resident set.
        gpus: that it held.
    """

    stage: str
    name: str
    seconds: float
    cpu_seconds: float
    memory_mib: float
    gpus: int


@dataclass(frozen=True)
class StageCost:
    """What a stage took: sums over its jobs, the longest job, the largest memory of one.

    Attributes:
        disk_bytes: of its results.
        gpu_seconds: seconds of each job by the GPUs that it held.
        rerun_seconds, rerun_gpu_seconds: of the stage and of all that is made of its results.
    """

    stage: str
    jobs: int
    seconds: float
    longest: float
    cpu_seconds: float
    memory_mib: float
    disk_bytes: int
    gpu_seconds: float
    rerun_seconds: float
    rerun_gpu_seconds: float


def read_jobs(results: str | os.PathLike, trainings: Mapping[str, pd.DataFrame]) -> list[JobCost]:
    """Returns what the jobs of a run took, by their benchmark files; none where there are no such files.

    A training that was stopped and resumed is measured from its last start; its log knows the time of all its
    iterations, which counts where it is longer.

    Args:
        results: folder of the results.
        trainings: logs by "stage/model", as `vss.report.figures.read_log` returns them.

    Raises:
        UserError: a benchmark file is not one.
    """
    jobs = []
    root = Path(results)
    for path in sorted((root / "benchmarks").glob("*/*.tsv")):
        stage, name = path.parent.name, path.name.removesuffix(".tsv")
        if stage not in READERS:
            continue
        try:
            row = pd.read_csv(path, sep="\t", na_values=["-", "NA"]).iloc[-1]
            seconds, cpu, memory = (float(row[key]) for key in ("s", "cpu_time", "max_rss"))
        except (OSError, ValueError, LookupError) as error:
            raise UserError(f"{path}: is no benchmark file of Snakemake ({error}); delete it") from None
        if f"{stage}/{name}" in trainings:
            log = trainings[f"{stage}/{name}"]
            seconds = max(seconds, training_seconds(log))
            memory = max([memory, *log.get("memory_mib", pd.Series(dtype=float)).dropna()])
        jobs.append(JobCost(stage, name, seconds, cpu, memory, _gpus(root / "logs" / stage / f"{name}.log")))
    return jobs


def training_seconds(log: pd.DataFrame) -> float:
    """Returns how long a training's iterations took, those of every start; 0 where nothing was logged."""
    if "seconds" not in log:
        return 0.0
    lines = log[log["seconds"].notna()]
    return float((lines["iter"].diff().fillna(lines["iter"]) * lines["seconds"]).sum())


def _gpus(log: Path) -> int:
    """Returns how many GPUs a job held, by the line that `vss lease` writes to its log; 0 where there is none."""
    try:
        found = _GPUS.findall(log.read_bytes())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def stage_costs(results: str | os.PathLike, jobs: Sequence[JobCost]) -> list[StageCost]:
    """Returns what each stage took that has a job, in the order of the flow.

    Args:
        results: folder of the results, whose size on disk is taken.
        jobs: as `read_jobs` returns them.
    """
    by_stage = {stage: found for stage in READERS if (found := [job for job in jobs if job.stage == stage])}
    seconds = {stage: _sum(job.seconds for job in found) for stage, found in by_stage.items()}
    gpu_seconds = {stage: _sum(job.seconds * job.gpus for job in found) for stage, found in by_stage.items()}
    predicted_by = {_prediction(job): job.stage for job in jobs if job.stage in _PREDICTS}
    costs = []
    for stage, found in by_stage.items():
        rerun = with_readers(stage, by_stage)
        costs.append(
            StageCost(
                stage=stage,
                jobs=len(found),
                seconds=seconds[stage],
                longest=max((job.seconds for job in found if not math.isnan(job.seconds)), default=math.nan),
                cpu_seconds=_sum(job.cpu_seconds for job in found),
                memory_mib=max((job.memory_mib for job in found if not math.isnan(job.memory_mib)), default=math.nan),
                disk_bytes=_disk(Path(results), stage, [name for name, by in predicted_by.items() if by == stage]),
                gpu_seconds=gpu_seconds[stage],
                rerun_seconds=sum(seconds[name] for name in rerun),
                rerun_gpu_seconds=sum(gpu_seconds[name] for name in rerun),
            )
        )
    return costs


def prediction_seconds(
    prediction: str, jobs: Sequence[JobCost], *, split: str, members: Mapping[str, Sequence[str]]
) -> float:
    """Returns how long predicting a split took, all that the prediction is made of included; NaN where unknown.

    Args:
        prediction: `model.tta`, an ensemble, an imported prediction, or `<prediction>.<refiner>`.
        jobs: as `read_jobs` returns them.
        split: of the dataset.
        members: of each ensemble.
    """
    own = [job for job in jobs if job.stage in _PREDICTS and job.name.startswith(f"{prediction}.{split}.")]
    if not own:
        return math.nan
    seconds = sum(job.seconds for job in own)
    if prediction in members:
        made_of = list(members[prediction])
    else:
        made_of = [prediction.rpartition(".")[0]] if own[0].stage == "refine" else []
    return seconds + sum(prediction_seconds(part, jobs, split=split, members=members) for part in made_of)


def jobs_cost(names: Iterable[str], jobs: Sequence[JobCost]) -> tuple[float, float]:
    """Returns the seconds and the GPU seconds of the jobs named, the shards of each together; NaN where none is known.

    Args:
        names: "stage/name", of a job per shard without the shard.
        jobs: as `read_jobs` returns them.
    """
    chosen = set(names)
    found = [
        job
        for job in jobs
        if f"{job.stage}/{job.name}" in chosen or f"{job.stage}/{job.name.rpartition('.')[0]}" in chosen
    ]
    if chosen and not found:
        return math.nan, math.nan
    return _sum(job.seconds for job in found), _sum(job.seconds * job.gpus for job in found)


def _prediction(job: JobCost) -> str:
    """Returns the prediction that a job is of: its name without split and shard."""
    return job.name.rsplit(".", 2)[0]


def _sum(values: Iterable[float]) -> float:
    return math.fsum(value for value in values if not math.isnan(value))


def _disk(results: Path, stage: str, predictions: Iterable[str]) -> int:
    """Returns the bytes of a stage's results: its own folder, and the files of the predictions that it made."""
    folders = [results / _FOLDERS.get(stage, stage), *(results / "predictions" / name for name in predictions)]
    files = (path for folder in folders for path in folder.rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file())


def costs_table(costs: Sequence[StageCost]) -> pd.DataFrame:
    """Returns one row per stage as text."""
    return pd.DataFrame(
        {
            "Stage": cost.stage,
            "jobs": f"{cost.jobs:,}",
            "time": duration(cost.seconds),
            "longest job": duration(cost.longest),
            "CPU time": duration(cost.cpu_seconds),
            "memory of a job": _size(cost.memory_mib * 2**20),
            "disk": _size(cost.disk_bytes),
            "GPU-hours": f"{cost.gpu_seconds / 3600:.2f}",
            "a rerun": duration(cost.rerun_seconds),
            "its GPU-hours": f"{cost.rerun_gpu_seconds / 3600:.2f}",
        }
        for cost in costs
    )


def duration(seconds: float) -> str:
    """Returns a time as it is printed everywhere."""
    if math.isnan(seconds):
        return "\u2013"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def _size(amount: float) -> str:
    if math.isnan(amount):
        return "\u2013"
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"
