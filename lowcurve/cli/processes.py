"""The processes of a command: what each is from its start, and of several, that one leads and keeps the run, while the others
share its training and keep nothing."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lowcurve.errors import InputError
from lowcurve.memory import keep_freed_memory

if TYPE_CHECKING:
    from lowcurve.cli.words import Request
    from lowcurve.store import Run

PLACE = "LOWCURVE_RUN"
"""The environment variable in which the leader tells the processes that it begins where its run is."""
PATIENCE = 600.0
"""So many seconds a follower waits for the run; data may have to be fetched first."""


def settle() -> None:
    """What a process that computes has to be before it imports torch."""
    # Threads that spin while they wait make small tensors on a busy machine 10 to 60 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def circumstances() -> dict[str, str]:
    """With what, where and when something is computed, for those who read of it."""
    import torch

    threads = torch.get_num_threads()
    parts = [platform.machine(), torch.backends.cpu.get_cpu_capability(), f"{threads} thread{'s' * (threads > 1)}"]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return {
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": ", ".join([*parts, *gpu]),
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }


def follows() -> bool:
    """Whether another process leads: by torchrun's, SLURM's or Fabric's word."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def require_processes(devices: int, nodes: int) -> None:
    """Refuse what torchrun or SLURM has begun if it is not the number of processes that was asked for: those too many would
    work for nothing, those too few wait for ever."""
    begun = {
        "WORLD_SIZE": f"torchrun --nnodes {nodes} --nproc-per-node {devices}"
        if "TORCHELASTIC_RUN_ID" in os.environ
        else "",
        "SLURM_STEP_NUM_TASKS": f"srun --nodes {nodes} --ntasks-per-node {devices}",  # which a batch script itself has not
    }
    name = next((name for name, by in begun.items() if by and name in os.environ), None)
    if name is not None and os.environ[name] != str(devices * nodes):
        expected = f"as many processes as --devices {devices} --nodes {nodes} asks for"
        hint = f"write {begun[name]}, or as many --devices and --nodes as there are"
        raise InputError(expected, f"{name}={os.environ[name]}", hint)


@contextmanager
def leading(run: "Run") -> Iterator[None]:
    """Inside, those who are begun to follow are told where the run is."""
    os.environ[PLACE] = str(run.folder.absolute())
    try:
        yield
    finally:
        del os.environ[PLACE]


def followed(request: "Request") -> "Run":
    """The leader's run, as soon as it is there."""
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
    return Run.open(place)
