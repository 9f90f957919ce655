"""Processes of a command. If there are several, one leads and writes the run; the others only share its work."""

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lowcurve.cli.threads import choose_threads
from lowcurve.errors import InputError
from lowcurve.memory import keep_freed_memory

if TYPE_CHECKING:
    from lowcurve.cli.requests import Request
    from lowcurve.store import Run

PLACE = "LOWCURVE_RUN"
"""Environment variable in which the leader passes the directory of its run to the processes that it starts."""
LEADER = "LOWCURVE_LEADER"
"""Environment variable in which the leader passes its process number to them."""
PATIENCE = 600.0
"""Seconds that a follower waits for the run. The data may have to be downloaded first."""


def prepare_process() -> str:
    """Set up threads and memory, before torch is imported.

    Returns:
        A sentence on the number of threads if the machine is busy, else nothing.
    """
    # Waiting threads that spin make small tensors 10 to 60 times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    return choose_threads()


def end_with_parent() -> None:
    """End this process within a second of the process that started it, instead of waiting for it for ever.

    It also ends at once by a signal, which Python would first hear of after the wait for another process.
    """
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_DFL)
    from lowcurve.study.workers import end_with

    # A leader that has failed at once may be gone before its followers come here.
    end_with(int(os.environ.get(LEADER, os.getppid())))


def follows() -> bool:
    """Return True if torchrun, SLURM or Fabric says that another process leads."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def require_processes(devices: int, nodes: int) -> None:
    """Refuse to start if torchrun or SLURM started another number of processes than the settings say.

    With too many, some would work for nothing; with too few, all would wait for ever.

    Args:
        devices: Processes on each machine.
        nodes: Machines.
    """
    begun = {
        "WORLD_SIZE": f"torchrun --nnodes {nodes} --nproc-per-node {devices}"
        if "TORCHELASTIC_RUN_ID" in os.environ
        else "",
        # A batch script itself does not have this variable.
        "SLURM_STEP_NUM_TASKS": f"srun --nodes {nodes} --ntasks-per-node {devices}",
    }
    name = next((name for name, by in begun.items() if by and name in os.environ), None)
    if name is not None and os.environ[name] != str(devices * nodes):
        expected = f"as many processes as --devices {devices} --nodes {nodes} asks for"
        hint = f"write {begun[name]}, or as many --devices and --nodes as there are"
        raise InputError(expected, f"{name}={os.environ[name]}", hint)


@contextmanager
def lead(run: "Run") -> Iterator[None]:
    """Pass the run's directory and this process's number to the processes that are started inside."""
    os.environ |= {PLACE: str(run.folder.absolute()), LEADER: str(os.getpid())}
    try:
        yield
    finally:
        del os.environ[PLACE], os.environ[LEADER]


def leader_run(request: "Request", networks: Collection[str] = ()) -> "Run":
    """Wait for the leader's run and open it.

    Args:
        request: The command with its settings.
        networks: Networks that the leader puts into a new run before the work begins.
    """
    from lowcurve.store import SETTINGS, Run

    if request.run is not None:
        return request.run
    place = request.out or os.environ.get(PLACE)
    if place is None:
        expected, hint = "a directory that all processes know", "write --out DIRECTORY beside torchrun or srun"
        raise InputError(expected, "none", hint)
    ends = time.monotonic() + PATIENCE
    while not (Path(place) / SETTINGS).is_file() and time.monotonic() < ends:
        time.sleep(0.05)
    run = Run.open(place)
    while not {*networks} <= {*run.networks()} and time.monotonic() < ends:
        time.sleep(0.05)
    return run
