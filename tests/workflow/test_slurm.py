"""On a cluster: our SLURM profile with a small workflow. Skipped where no SLURM answers.

One machine does as a cluster: slurmctld, slurmd and two GPUs in gres.conf, which may be any two character devices.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import REPOSITORY

pytestmark = pytest.mark.slow

# Every job notes when it starts, its cards and its limits; `held` makes it wait until somebody removes the file.
SNAKEFILE = """
rule all:
    input: expand("{name}.done", name=["one", "other"])
rule two_cards:
    output: "two.done"
    resources: gpu=2
    shell: "vss lease {resources.gpu} -- bash job.sh {output}"
rule one_card:
    output: "{name}.done"
    wildcard_constraints: name="one|other"
    resources: gpu=1
    shell: "vss lease {resources.gpu} -- bash job.sh {output}"
rule at_second_try:
    output: "late.done"
    shell: "bash job.sh {output}; test $(grep -c '^late' starts) -ge 2 || {{ rm {output}; exit 1; }}"
"""
JOB = """
limits=$(scontrol show job $SLURM_JOB_ID | grep -oE 'TimeLimit=[^ ]+|MinMemoryNode=[^ ]+' | tr '\\n' ' ')
echo "${1%.done} $SLURM_JOB_ID cards=$CUDA_VISIBLE_DEVICES $limits" >> starts
exec 9> "held-cards-$CUDA_VISIBLE_DEVICES"
flock --nonblock 9 || echo "a card for two" >> starts
while [ -e held ]; do sleep 0.2; done
touch $1
"""


def answers() -> bool:
    """Returns whether a SLURM with two GPUs is there."""
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    found = subprocess.run(["sinfo", "--noheader", "-o", "%T %G"], capture_output=True, text=True, timeout=60)
    return bool(re.search(r"(idle|mixed).*gpu:(\w+:)?[2-9]", found.stdout))


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with the small workflow, and our profile changed only where a test cannot wait."""
    if not answers():
        pytest.skip("needs a SLURM with two GPUs on this machine: none answers")
    profile = yaml.safe_load((REPOSITORY / "workflow/profiles/slurm/profile.yaml").read_text(encoding="utf-8"))
    profile["default-resources"] |= {"mem_mb": "100 * attempt"}
    profile |= {"slurm-status-command": "squeue", "slurm-no-account": True, "latency-wait": 5}
    profile |= {"slurm-init-seconds-before-status-checks": 2, "seconds-between-status-checks": 2}
    for path, text in (
        ("profile/profile.yaml", yaml.safe_dump(profile)),
        ("Snakefile", SNAKEFILE),
        ("job.sh", JOB),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    return tmp_path


def start(cluster: Path, *words: str) -> subprocess.Popen:
    paths = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY}/src{os.pathsep}{REPOSITORY}/cuda_ops",
    }
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profile", *words]
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"} | paths
    with open(cluster / "log", "ab") as log:
        return subprocess.Popen(command, cwd=cluster, env=environment, stdout=log, stderr=log)


def run(cluster: Path, *words: str) -> None:
    main = start(cluster, *words)
    try:
        status = main.wait(timeout=240)
    except subprocess.TimeoutExpired:
        main.kill()
        raise
    assert status == 0, (cluster / "log").read_text()[-5000:]


def starts(cluster: Path) -> list[str]:
    path = cluster / "starts"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("gres", [None, "gpu:2"])
def test_a_job_with_two_cards_starts_once_and_sees_both(cluster: Path, gres: str | None) -> None:
    if gres:  # next to --gpus, for clusters that want it
        path = cluster / "profile" / "profile.yaml"
        profile = yaml.safe_load(path.read_text())
        profile["set-resources"]["two_cards"] = {"gres": gres}
        path.write_text(yaml.safe_dump(profile))
    run(cluster, "two.done")
    (line,) = starts(cluster)
    assert "cards=0,1 " in line


def test_time_and_memory_grow_when_a_job_is_tried_again(cluster: Path) -> None:
    run(cluster, "late.done")
    first, second = starts(cluster)
    assert first.split()[1] != second.split()[1]
    assert "TimeLimit=01:00:00" in first and "MinMemoryNode=100M" in first
    assert "TimeLimit=02:00:00" in second and "MinMemoryNode=200M" in second


def test_jobs_of_a_group_have_a_card_each(cluster: Path) -> None:
    run(cluster, "--groups", "one_card=g", "--group-components", "g=2")
    one, other = starts(cluster)  # no line about a card that both have at once
    assert one.split()[1] == other.split()[1], "one submission"
    assert all(re.search(r"cards=[01] ", line) for line in (one, other))


def test_a_maintenance_stop_is_followed_by_the_same_command(cluster: Path) -> None:
    (cluster / "held").touch()
    main = start(cluster)
    end = time.monotonic() + 120
    while len(starts(cluster)) < 2:
        assert main.poll() is None and time.monotonic() < end, (cluster / "log").read_text()[-5000:]
        time.sleep(0.2)
    jobs = {line.split()[1] for line in starts(cluster)}
    main.terminate()
    subprocess.run(["scancel", *jobs], check=True)
    if os.getuid() == 0 and shutil.which("slurmctld"):  # the controller restarts as well, where this may be done
        subprocess.run(["scontrol", "shutdown", "slurmctld"], check=True)
        while subprocess.run(["pgrep", "-x", "slurmctld"], stdout=subprocess.DEVNULL).returncode == 0:
            time.sleep(0.2)
        subprocess.run(["slurmctld"], check=True)
    main.wait(timeout=120)
    assert not list(cluster.glob("*.done"))
    (cluster / "held").unlink()
    run(cluster)
    assert sorted(path.name for path in cluster.glob("*.done")) == ["one.done", "other.done"]
    assert not jobs & {line.split()[1] for line in starts(cluster)[2:]}
