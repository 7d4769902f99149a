"""What a run took, by its benchmark files."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from vss.core.errors import UserError
from vss.report.costs import costs_table, prediction_seconds, read_jobs, stage_costs


@pytest.fixture
def results(tmp_path):
    """A run of one training, two predictions, an ensemble and a refinement; the GPU jobs have said what they hold."""

    def job(stage, name, seconds, *, memory="100", gpus=0):
        path = tmp_path / "benchmarks" / stage / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t-\t{memory}\t{seconds}\n")
        log = tmp_path / "logs" / stage / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"vss: lease: runs on {gpus} GPUs\nvss: done\n" if gpus else "vss: done\n")

    job("finetune", "a", 10, gpus=2)
    job("infer", "a.one.val.00", 4, gpus=1)
    job("infer", "a.one.val.01", 6, memory="NA", gpus=1)
    job("infer", "b.one.val.00", 7)
    job("ensemble", "both.val.00", 2)
    job("refine", "both.ssa.val.00", 3)
    for folder, size in (("finetune/a", 50), ("predictions/a.one/val", 30), ("predictions/both/val", 7)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_bytes(bytes(size))
    return tmp_path


def test_stages_are_summed_and_a_rerun_repeats_what_follows(results):
    costs = {cost.stage: cost for cost in stage_costs(results, read_jobs(results, {}))}
    assert list(costs) == ["finetune", "infer", "ensemble", "refine"]
    infer = costs["infer"]
    assert (infer.jobs, infer.seconds, infer.longest, infer.memory_mib) == (3, 17, 7, 100)
    assert (infer.gpu_seconds, infer.rerun_seconds, infer.rerun_gpu_seconds) == (10, 17 + 2 + 3, 10)
    assert (costs["finetune"].gpu_seconds, costs["finetune"].rerun_gpu_seconds) == (20, 30)
    assert costs["finetune"].rerun_seconds == 32 and costs["refine"].rerun_seconds == 3
    assert [costs[stage].disk_bytes for stage in ("finetune", "infer", "ensemble")] == [50, 30, 7]
    assert costs_table(list(costs.values()))["GPU-hours"].tolist() == ["0.01", "0.00", "0.00", "0.00"]


def test_a_resumed_training_counts_all_its_iterations(results):
    log = pd.DataFrame(
        {"iter": [10, 20, 40, 40], "seconds": [1.0, 2.0, 0.5, math.nan], "memory_mib": [700, 900, 800, 0]}
    )
    (training,) = [job for job in read_jobs(results, {"finetune/a": log}) if job.stage == "finetune"]
    assert (training.seconds, training.memory_mib) == (10 * 1 + 10 * 2 + 20 * 0.5, 900)


def test_a_prediction_costs_what_it_is_made_of(results):
    jobs = read_jobs(results, {})
    members = {"both": ["a.one", "b.one"]}
    seconds = {name: prediction_seconds(name, jobs, split="val", members=members) for name in ("a.one", "both.ssa")}
    assert seconds == {"a.one": 10, "both.ssa": 3 + 2 + 10 + 7}
    assert math.isnan(prediction_seconds("a.one", jobs, split="test", members=members))


def test_what_is_no_benchmark_file_is_named(results):
    (results / "benchmarks/infer/a.one.val.00.tsv").write_text("seconds\n3\n")
    with pytest.raises(UserError, match=r"a\.one\.val\.00\.tsv: is no benchmark file"):
        read_jobs(results, {})
    assert read_jobs(results / "elsewhere", {}) == []
