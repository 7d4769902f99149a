"""Which lever paid: changes against the baseline with paired intervals, and what the jobs of each cost."""

from __future__ import annotations

import pytest

from vss.configs.sections import Ablation
from vss.core.files import read_json
from vss.report.ablation import ablation_rows, ablation_table
from vss.report.costs import JobCost, jobs_cost
from vss.report.table import ReportRow, score_table

NEEDED = {
    "net.single": ["finetune/net", "infer/net.single.val"],
    "other": ["ensemble/other.val", "finetune/net", "infer/net.single.val"],
    "net.single.ssa": ["finetune/net", "infer/net.single.val", "refine/net.single.ssa.val"],
}
JOBS = [
    JobCost("finetune", "net", 3600.0, 0, 0, gpus=2),
    JobCost("infer", "net.single.val.00", 50.0, 0, 0, gpus=1),
    JobCost("infer", "net.single.val.01", 30.0, 0, 0, gpus=1),
    JobCost("infer", "net.single.test.00", 999.0, 0, 0, gpus=1),
    JobCost("refine", "net.single.ssa.val.00", 20.0, 0, 0, gpus=0),
]


def test_jobs_are_found_with_their_shards() -> None:
    assert jobs_cost(NEEDED["net.single.ssa"], JOBS) == (3600 + 50 + 30 + 20, 7200 + 50 + 30)
    assert jobs_cost([], JOBS) == (0, 0)
    assert str(jobs_cost(["ensemble/other.val"], JOBS)[0]) == "nan"


def test_levers_are_compared_with_the_baseline(finished_run) -> None:
    rows = [ReportRow(name, name.upper(), None, {}) for name in NEEDED]
    table = score_table(rows, finished_run["inputs"]["scores"])
    found = ablation_rows(
        Ablation("net.single", {"superpixels": "net.single.ssa"}, "other"),
        table,
        finished_run["inputs"]["draws"],
        needed=NEEDED,
        jobs=JOBS,
    )
    assert [row.lever for row in found] == ["baseline", "superpixels", "all together"]
    baseline, lever, together = found
    assert baseline.changes == {} and (baseline.added_seconds, lever.added_seconds) == (0, 20)
    change = lever.changes["mIoU"]
    assert change.difference == pytest.approx(lever.figures["mIoU"] - baseline.figures["mIoU"])
    assert change.interval[0] <= change.difference <= change.interval[1]
    assert change.difference > 0 > together.changes["mIoU"].difference  # fewer and more wrong pixels, see conftest
    text = ablation_table(found)
    assert text["time"][1] == "1:01 h" and text["GPU-hours"][1] == "2.02"
    assert "\n" not in text["mIoU"][0] and text["mIoU"][1].split("\n")[1].startswith("+")


def test_the_page_and_the_record_have_it(write_report) -> None:
    ablation = {"baseline": "net.single", "levers": {"<superpixels>": "net.single.ssa"}, "all": None}
    out = write_report(settings={"ablation": ablation, "jobs": NEEDED})
    assert "&lt;superpixels&gt;" in out["html"].read_text(encoding="utf-8")
    (_, lever) = read_json(out["record"])["ablation"]
    assert lever["lever"] == "<superpixels>" and lever["changes"]["mIoU"]["interval"]
