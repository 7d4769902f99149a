"""Starts the ranks of a training: on this machine, and on the other nodes of a training over several.

Like torchrun, but ranks get all the time the batch system gives to write their checkpoint (torchrun kills after 30 s).

On several nodes one process per node starts that node's ranks. The first node's process trains as on one machine, and
hosts a store (`torch.distributed.TCPStore`) from which the others learn what to run, and all of them that a rank has
failed. Inside a SLURM job it starts the others itself, with srun; elsewhere each is started with torchrun's variables:
NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vss.core.errors import UserError
from vss.core.log import log

_SECONDS_BETWEEN_LOOKS = 0.2
_MINUTES_TO_COME = 30  # for the other nodes' processes: the first one may still read its data
_SECONDS_TO_END = 20  # for the other nodes, once the ranks of the first one have ended
MEMORY_FULL = 75  # exit status of a rank whose GPU's memory is full: EX_TEMPFAIL of sysexits.h
_MISTAKE = 2  # exit status of what a UserError ended


def run_processes(command: list[str], *, count: int, nodes: Nodes | None = None) -> None:
    """Runs `count` ranks of a command on this machine, and as many on every other node.

    SIGTERM and SIGUSR1 are passed on to the ranks.

    Raises:
        SystemExit: a rank ended with another status than 0; the others are then ended too.
        UserError: another node's process did not start.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    if nodes is None:
        status = _run_ranks(command, count=count, node=Node(1, 0, "127.0.0.1", 0), port=port)
    else:
        status = nodes.run(command, count=count, port=port)
    if status:
        raise SystemExit(status)


@dataclass(frozen=True)
class Node:
    """A machine of a training.

    Attributes:
        count: how many machines there are.
        rank: which of them this one is; 0 leads.
        address: host name of the first one.
        port: of its store; 0: any.
        job: SLURM job in which the first one starts the others, else None.
    """

    count: int
    rank: int
    address: str
    port: int
    job: str | None = None


def node_of(environment: Mapping[str, str], *, gpus: int, visible: int) -> Node | None:
    """Returns which of several nodes this process runs on; None for a training on one machine.

    NNODES without NODE_RANK has the first node of a SLURM job start the others, whatever its GPUs.

    Args:
        environment: torchrun's variables, or SLURM's: of a job of several nodes, or of one process on each of them.
        gpus: that are requested; those of other nodes are used where this machine has fewer.
        visible: GPUs of this machine.

    Raises:
        UserError: the variables do not say all that is needed.
    """
    job, step_nodes = environment.get("SLURM_JOB_ID"), int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    if "NNODES" in environment and (job is None or "NODE_RANK" in environment):
        return _node_of_torchrun(environment)
    if job is not None and step_nodes > 1:
        if (tasks := int(environment.get("SLURM_STEP_NUM_TASKS", "0"))) != step_nodes:
            raise UserError(f"srun started {tasks} processes on {step_nodes} nodes; start one: --ntasks-per-node=1")
        hosts = _output_of("scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]).split()
        # Any free port: the last digits of the job's number keep two jobs of one machine apart.
        return Node(step_nodes, int(environment["SLURM_NODEID"]), hosts[0], 20000 + int(job) % 10000)
    count = _whole_number(environment, "NNODES") if "NNODES" in environment else 1
    if job is not None and "NNODES" not in environment and gpus > visible:
        # Snakemake's executor hides what SLURM says of a job of several nodes from what it runs there.
        count = int(environment.get("SLURM_JOB_NUM_NODES") or _output_of("squeue", "-h", "-j", job, "-o", "%D"))
    if job is None or count == 1:
        return None
    return Node(count, 0, environment.get("SLURMD_NODENAME") or socket.gethostname(), 0, job)


def _node_of_torchrun(environment: Mapping[str, str]) -> Node | None:
    if _whole_number(environment, "NNODES") == 1:
        return None
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing:
        raise UserError(
            f"NNODES is {environment['NNODES']}, but {', '.join(missing)} not set: a training over several nodes needs"
            " NNODES, NODE_RANK (0 on the first), MASTER_ADDR and MASTER_PORT (of the first) on each; else unset NNODES"
        )
    count, rank, port = (_whole_number(environment, name) for name in ("NNODES", "NODE_RANK", "MASTER_PORT"))
    if rank >= count:
        raise UserError(f"NODE_RANK: {rank} of {count} nodes; must be 0 to {count - 1}")
    return Node(count, rank, environment["MASTER_ADDR"], port)


def _whole_number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise UserError(f"{name}: {value!r} is not a whole number; torchrun's variables say how many nodes train")
    return int(value)


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise UserError(f"{' '.join(command)}: SLURM does not say which nodes the job has ({said})") from None


class Nodes:
    """All nodes of a training, as the first one's process leads them.

    Keys of the store, for every attempt: `N/ranks`, what to run; `N/status/NODE`, how that node's ranks ended; and
    `N/failed` where they did not end well. `here/NODE` and `gone/NODE` say who listens; `end` how the first one ended.

    Args:
        node: the first one.
        gpus: that each of them uses.
    """

    def __init__(self, node: Node, *, gpus: int) -> None:
        from torch.distributed import TCPStore

        self._node, self._gpus, self._attempt = node, gpus, 0
        self._srun: subprocess.Popen | None = None
        try:
            self._store = TCPStore(node.address, node.port, is_master=True, wait_for_workers=False)
        except RuntimeError as error:
            raise UserError(
                f"{node.address}:{node.port}: the first node cannot listen there ({_first_line(error)}); set"
                " MASTER_ADDR and MASTER_PORT"
            ) from None

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return self._node.count

    def run(self, command: list[str], *, count: int, port: int) -> int:
        """Runs `count` ranks on every node, which meet at a port of this one; returns the status of all.

        Raises:
            UserError: another node's process did not come.
        """
        self._wait_for_the_others()
        self._attempt += 1
        task = {"command": command, "count": count, "port": port, "folder": os.getcwd()}
        self._store.set(f"{self._attempt}/ranks", json.dumps(task))
        statuses = [_take_part(self._store, self._node, self._attempt, task), *self._statuses_of_the_others()]
        # A rank whose memory is full takes others with it, on its own node and elsewhere: its status goes first.
        return MEMORY_FULL if MEMORY_FULL in statuses else next(filter(None, statuses), 0)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Lets the others end as this process does; where it is killed, they lose the store, and fail too."""
        self._store.set("end", "" if kind is None else "failed")
        _wait_until(lambda: self._store.check(self._keys("gone")), seconds=_SECONDS_TO_END)
        if self._srun is not None:
            self._srun.wait()

    def _keys(self, name: str) -> list[str]:
        return [f"{name}/{rank}" for rank in range(1, self.count)]

    def _wait_for_the_others(self) -> None:
        if self._node.job is not None and self._srun is None:
            self._srun = subprocess.Popen(self._srun_command(), env=self._environment_of_srun())
        deadline = time.monotonic() + 60 * _MINUTES_TO_COME
        while not self._store.check(self._keys("here")):
            if self._srun is not None and self._srun.poll() is not None:
                raise UserError(
                    f"srun ended with status {self._srun.returncode}, see the line above: a process on each of the"
                    f" {self.count} nodes of the job has to be started from the first of them"
                )
            if time.monotonic() > deadline:
                absent = [key.removeprefix("here/") for key in self._keys("here") if not self._store.check([key])]
                raise UserError(
                    f"node {', '.join(absent)} of {self.count} has not come within {_MINUTES_TO_COME} minutes; start"
                    f" the same command there with its NODE_RANK and MASTER_ADDR={self._node.address}"
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _srun_command(self) -> list[str]:
        others = self.count - 1
        where = [f"--jobid={self._node.job}", f"--nodes={others}", f"--ntasks={others}", "--relative=1", "--overlap"]
        # All that the job has on a node: a step of its own would get one core, and be bound to it.
        what = ["--cpu-bind=none", "--mem=0", *([f"--gres=gpu:{self._gpus}"] if self._gpus else [])]
        return ["srun", *where, *what, sys.executable, "-m", "vss.train.launch"]

    def _environment_of_srun(self) -> dict[str, str]:
        # SLURM's variables of this job are options to srun as well, and about all of its nodes.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        kept |= {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        place = {"NNODES": self.count, "MASTER_ADDR": self._node.address, "MASTER_PORT": self._store.port}
        return kept | {name: str(value) for name, value in place.items()}

    def _statuses_of_the_others(self) -> list[int]:
        keys = self._keys(f"{self._attempt}/status")
        if not _wait_until(lambda: self._store.check(keys), seconds=_SECONDS_TO_END):
            log(f"not every node has ended its ranks within {_SECONDS_TO_END} s")
            return [1]
        return [int(self._store.get(key)) for key in keys]


def follow(node: Node) -> None:
    """Runs on another node than the first what the first one announces, until that ends.

    Raises:
        UserError: the first one cannot be reached, or ended before its time.
    """
    from torch.distributed import TCPStore

    where, attempt = f"{node.address}:{node.port}", 1
    log(f"node {node.rank} of {node.count}: waits for the first one, {where}")
    try:
        store = TCPStore(node.address, node.port, is_master=False, timeout=timedelta(minutes=_MINUTES_TO_COME))
        store.set(f"here/{node.rank}", "")
        while not store.check(["end"]):
            if store.check([f"{attempt}/ranks"]):
                _take_part(store, node, attempt, json.loads(store.get(f"{attempt}/ranks")))
                attempt += 1
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        failed = store.get("end") == b"failed"
        store.set(f"gone/{node.rank}", "")
    except RuntimeError as error:  # torch's errors of the network
        raise UserError(
            f"node {node.rank} of {node.count}: the first one, {where}, cannot be reached or has ended"
            f" ({_first_line(error)})"
        ) from None
    if failed:
        raise UserError(f"node {node.rank} of {node.count}: the training has failed, see the messages of the first one")


def _take_part(store: Any, node: Node, attempt: int, task: Mapping[str, Any]) -> int:
    """Runs this node's ranks until they end, or until another node's fail; says in the store how they ended."""
    try:
        os.chdir(task["folder"])
        status = _run_ranks(
            task["command"],
            count=task["count"],
            node=node,
            port=task["port"],
            failed_elsewhere=lambda: store.check([f"{attempt}/failed"]),
        )
    except OSError as error:
        log(f"node {node.rank} of {node.count}: {error}; several nodes need one file system, with the same paths")
        status = _MISTAKE
    store.set(f"{attempt}/status/{node.rank}", str(status))
    if status:
        store.set(f"{attempt}/failed", "")
    return status


def _run_ranks(
    command: list[str],
    *,
    count: int,
    node: Node,
    port: int,
    failed_elsewhere: Callable[[], bool] = lambda: False,
) -> int:
    """Runs this node's ranks and passes SIGTERM and SIGUSR1 on to them; returns `_first_failure`."""
    ranks = []
    for local in range(count):
        place = {"RANK": node.rank * count + local, "LOCAL_RANK": local}
        sizes = {"WORLD_SIZE": node.count * count, "LOCAL_WORLD_SIZE": count}
        given = {**place, **sizes, "MASTER_ADDR": node.address, "MASTER_PORT": port}
        environment = {**os.environ, **{key: str(value) for key, value in given.items()}}
        # They inherit the locks of the work folder and of the cards, which then last as long as any of them runs.
        ranks.append(subprocess.Popen(command, env=environment, close_fds=False))

    def pass_on(number: int, frame: Any) -> None:
        for process in ranks:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        return _first_failure(ranks, failed_elsewhere)
    finally:
        for process in ranks:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failure(ranks: list[subprocess.Popen], failed_elsewhere: Callable[[], bool]) -> int:
    """Waits for the ranks; returns 0, or the first status that is not 0, without waiting for the ranks after it.

    A rank whose memory is full takes others with it, whose end may be seen before its own: its status goes first. Where
    another node's failed, returns 0 unless it was because of one here.
    """
    running = list(ranks)
    while running:
        for process in list(running):
            try:
                status = process.wait(timeout=_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                status = 0
            else:
                running.remove(process)
            elsewhere = failed_elsewhere()
            if (status or elsewhere) and any(other.poll() == MEMORY_FULL for other in ranks):
                return MEMORY_FULL
            if status or elsewhere:
                return 128 - status if status < 0 else status
    return 0


def _wait_until(question: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(_SECONDS_BETWEEN_LOOKS / 2)
    return answer


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160]


def main() -> int:
    """Follows the first node of a SLURM job, on another one; returns the exit status."""
    environment = {**os.environ, "NODE_RANK": str(int(os.environ["SLURM_NODEID"]) + 1)}
    try:
        node = node_of(environment, gpus=0, visible=0)
        assert node is not None, environment["NNODES"]
        follow(node)
    except UserError as error:
        log(str(error))
        return _MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main())
