"""The ranks of a training: ended together, on one machine and on several."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from train.tiny import free_port, start

from vss.core.errors import UserError
from vss.train.launch import MEMORY_FULL, Node, Nodes, follow, node_of, run_processes


def test_a_failing_process_ends_the_others() -> None:
    with pytest.raises(SystemExit) as leaving:
        run_processes(["sh", "-c", '[ "$RANK" = 1 ] && exit 7; exec sleep 600'], count=2)
    assert leaving.value.code == 7
    run_processes(["sh", "-c", 'test "$WORLD_SIZE" = 2'], count=2)


KILLED_IN_AN_EXCHANGE = """
import contextlib, os, signal, time, torch
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
if torch.distributed.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
with contextlib.suppress(RuntimeError):
    torch.distributed.all_reduce(torch.zeros(1))
time.sleep(3600)
"""


def test_a_rank_that_is_killed_ends_the_one_that_waits_for_it() -> None:
    with pytest.raises(SystemExit) as leaving:
        run_processes([sys.executable, "-c", KILLED_IN_AN_EXCHANGE], count=2)
    assert leaving.value.code == 128 + signal.SIGKILL


@pytest.fixture
def two_nodes() -> Any:
    """Returns two nodes of one machine: the first here, the other in a process of its own."""
    port = free_port()
    other = start(follow, Node(2, 1, "127.0.0.1", port))
    yield Nodes(Node(2, 0, "127.0.0.1", port), gpus=0), other
    other.kill()


def test_ranks_of_two_nodes_end_together_and_are_numbered_through(two_nodes: Any, tmp_path: Path) -> None:
    nodes, other = two_nodes
    note = f'echo "$LOCAL_RANK $WORLD_SIZE $MASTER_ADDR" > "{tmp_path}/$RANK"'
    run_processes(["sh", "-c", note], count=2, nodes=nodes)
    assert [(tmp_path / str(rank)).read_text() for rank in range(4)] == [
        f"{rank % 2} 4 127.0.0.1\n" for rank in range(4)
    ]

    # The last rank of the other node fails while all others wait; then that of a full memory, of which others die.
    for ending, status in (("exit 7", 7), (f"sleep 0.3; exit {MEMORY_FULL}", MEMORY_FULL)):
        others = "exec sleep 600" if status == 7 else "sleep 0.4; exit 1"
        with pytest.raises(SystemExit) as leaving:
            run_processes(["sh", "-c", f'[ "$RANK" = 3 ] && {{ {ending}; }}; {others}'], count=2, nodes=nodes)
        assert leaving.value.code == status
    with nodes:
        pass
    other.join(20)
    assert other.exitcode == 0


JOB = {"SLURM_JOB_ID": "70007", "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "n1"}
TORCHRUN = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "gpus", "node"),
    [
        ({}, 8, None),
        (JOB, 4, None),  # this machine has as many
        (JOB, 8, Node(2, 0, "n1", 0, "70007")),
        ({**JOB, "SLURM_JOB_NUM_NODES": "1"}, 8, None),
        (TORCHRUN, 8, Node(2, 1, "n1", 29500)),
        ({**TORCHRUN, "NNODES": "1"}, 8, None),
        ({**JOB, "NNODES": "2"}, 0, Node(2, 0, "n1", 0, "70007")),
        ({**JOB, **TORCHRUN}, 8, Node(2, 1, "n1", 29500)),
    ],
)
def test_the_environment_says_which_node_this_is(environment: dict[str, str], gpus: int, node: Node | None) -> None:
    assert node_of(environment, gpus=gpus, visible=4) == node


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"NNODES": "2", "MASTER_ADDR": "n1"},
            "NNODES is 2, but NODE_RANK, MASTER_PORT not set: a training ",
        ),
        ({**TORCHRUN, "NNODES": "1:4"}, "NNODES: '1:4' is not a whole number"),
        ({**TORCHRUN, "NODE_RANK": "2"}, "NODE_RANK: 2 of 2 nodes; must be 0 to 1"),
        ({**JOB, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "16"}, "srun started 16 processes on 2 nodes; "),
    ],
)
def test_what_is_missing_is_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        node_of(environment, gpus=8, visible=4)
