"""What jobs are given: settings that join again, notes that nothing blocks, commands that stay short."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake.iocontainers import ResourceList
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from vss import configs
from vss.configs.result_settings import joined_settings
from vss.core.errors import UserError
from vss.core.files import canonical_json, read_json
from vss.workflow import jobs
from vss.workflow.config import read_config
from vss.workflow.digest import stage_digest
from vss.workflow.failures import failure_lines
from vss.workflow.plan import Plan
from vss.workflow.settings import counted_settings, running_settings, training_digest

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    config = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    return {**config, "results": str(tmp_path / "results"), "work": str(tmp_path / "work")}


def plan_of(config: dict[str, Any]) -> Plan:
    return Plan(read_config(config), row_names=configs.names())


def test_settings_of_a_training_join_again(config) -> None:
    config["models"]["m2f"]["cfg_options"] = {"num_workers": 1, "ema": 0.1}
    config["models"]["m2f"]["finetune"]["checkpoint_interval"] = 7
    plan = plan_of(config)
    running = running_settings(plan, "finetune", "m2f")
    assert running == {"checkpoint_interval": 7, "cfg_options": {"num_workers": 1}}
    whole = joined_settings(counted_settings(plan, "finetune", "m2f"), running)
    assert canonical_json(whole) == canonical_json(plan.training_settings("finetune", "m2f"))
    assert list(whole) == sorted(whole) and list(whole["cfg_options"]) == ["ema", "num_workers"]


def test_a_training_on_two_nodes_requests_as_many_gpus_on_each(config) -> None:
    before = training_digest(plan_of(config), "finetune/m2f"), counted_settings(plan_of(config), "finetune", "m2f")
    assert {key: value for key, value in jobs.node_resources(plan_of(config), "finetune", "m2f").items() if value} == {
        "nodes": 1
    }
    config["models"]["m2f"]["finetune"] |= {"gpus": 8, "nodes": 2}
    plan = plan_of(config)
    assert (training_digest(plan, "finetune/m2f"), counted_settings(plan, "finetune", "m2f")) == before

    # Snakemake's executor for SLURM submits it so; a step of its own around the job would be on one node.
    given = {name: value for name, value in jobs.node_resources(plan, "finetune", "m2f").items() if value is not None}
    job = SimpleNamespace(resources=ResourceList(fromdict={"gpu": 8, "mem_mb": 9, **given}), threads=6)
    params = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"), "x")
    words = f"{get_submit_command(job, params)} {set_gres_string(job)}".split()
    assert {"--nodes=2", "--ntasks=2", "--gres=gpu:4", "--gpus=8", "--cpus-per-task=6"} <= set(words)
    assert not any(word.startswith("--ntasks-per-gpu") for word in words)

    config["models"]["m2f"]["finetune"]["nodes"] = 3
    with pytest.raises(UserError, match=r"^config: models.m2f.finetune.nodes: 3 nodes cannot have .* gpus: 8; must"):
        plan_of(config)


def test_the_report_shows_the_config_without_depending_on_it(config) -> None:
    """A change of how a training runs reruns nothing, the report included; the next report has it."""
    before = jobs.report_settings(plan_of(config)), jobs.report_inputs(plan_of(config))
    config["models"]["m2f"]["cfg_options"] = {"num_workers": 1}
    plan = plan_of(config)
    assert (jobs.report_settings(plan), jobs.report_inputs(plan)) == before
    jobs.write_config_copy(plan)
    copy = read_json(jobs.report_inputs(plan)["config"])
    assert copy["models"]["m2f"]["cfg_options"] == {"num_workers": 1} and "targets" not in copy


def test_a_training_reads_what_the_rule_has_noted(config) -> None:
    noted = jobs.training_provenance(plan_of(config), "finetune", "convnext")
    assert jobs.settings_of(noted)["max_iters"] == 3
    assert jobs.settings_of({"config": "a", "max_iters": 4}) == {"config": "a", "max_iters": 4}


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b'{"settings": 1}'])
def test_damaged_notes_of_settings_block_nothing(config, damage, capsys) -> None:
    plan = plan_of(config)
    folder = Path(config["results"], "finetune", "convnext")
    folder.mkdir(parents=True)
    (folder / "fingerprint.json").write_text("{}")
    (folder / "settings.json").write_text(json.dumps(jobs.training_provenance(plan, "finetune", "convnext")))
    assert jobs.trained_with_other_settings(plan) == []
    (folder / "settings.json").write_bytes(damage)
    assert jobs.trained_with_other_settings(plan) == ["finetune/convnext"]
    jobs.print_notes(plan).join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: settings have changed since these were trained: finetune/convnext. ")


def test_the_report_is_given_every_file_by_name(config) -> None:
    inputs = jobs.report_inputs(plan_of(config))
    results = config["results"]
    assert inputs["labels"]["convnext.single"][1] == f"{results}/predictions/convnext.single/val/01.labels.h5"
    assert list(inputs["scores"]) == list(config["predictions"])
    assert inputs["logs"]["pretrain/m2f"] == f"{results}/pretrain/m2f/log.jsonl"
    assert inputs["chosen"] == {}


@pytest.mark.parametrize(("folder", "expected"), [(None, ""), ("shared/masks", "shared/masks/{code}")])
def test_proposals_are_cached_per_version_of_their_code(config, folder, expected) -> None:
    plan = plan_of({**config, "proposals_cache": folder})
    assert jobs.proposals_cache(plan) == expected.format(code=stage_digest("propose"))


@pytest.mark.parametrize(("count", "width"), [(1, 2), (40, 2), (120, 3)])
def test_bash_reads_the_short_form_as_the_files(count, width) -> None:
    shards = [f"{shard:0{width}d}" for shard in range(count)]
    files = [f"a folder/it's 00/val/{shard}.npz" for shard in shards]
    short = jobs.braced(files, shards)
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {short}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == files
    assert len(short) < 80


def test_scores_are_given_once_per_member() -> None:
    files = [f"r/{member}/val/{shard}.scores.h5" for member in ("a", "b") for shard in ("00", "01")]
    expected = "--scores r/a/val/{00..01}.scores.h5 --scores r/b/val/{00..01}.scores.h5"
    assert jobs.scores_options(files, ["00", "01"]) == expected


def test_a_failed_run_is_a_line_per_job(tmp_path: Path) -> None:
    log = tmp_path / "infer.log"
    log.write_text("Traceback\nvss infer: key: wrong\n\n")
    other = tmp_path / "gone.log"
    words = "(check log file(s) for error details)"
    (tmp_path / "run.log").write_text(f"    log: {log} {words}\n    log: {other} {words}\n    log: {log} {words}\n")
    lines = failure_lines([tmp_path / "run.log", tmp_path / "none.log"])
    assert lines == [f"failed: {log}: vss infer: key: wrong", f"failed: {other}: empty"]
