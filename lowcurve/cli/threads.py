"""The number of threads: as many as the machine has free."""

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.store import Run

VARIABLE = "OMP_NUM_THREADS"
SAMPLES, PAUSE = 5, 0.02
"""Times at which the running processes are counted, and the seconds between them."""

CHOSEN: list[int] = []
"""The number of threads, if it was chosen here."""
FILE = ".threads"
"""File in which a run keeps its number of threads."""


def choose_threads() -> str:
    """Choose the number of threads before torch is imported, unless the variable OMP_NUM_THREADS does.

    On a busy machine threads wait for one another, and two of them may take five times as long as one.

    Returns:
        A sentence if there are fewer threads than cores, else nothing.
    """
    if VARIABLE in os.environ or "torch" in sys.modules:
        return ""
    cores, others = usable_cores(), running_processes()
    count = max(1, min(cores, (os.cpu_count() or cores) - others))
    os.environ[VARIABLE] = str(count)
    CHOSEN.append(count)
    if count == cores:
        return ""
    return (
        f"computing with {count} of {cores} cores, since {others} other processes are running. "
        f"Set {VARIABLE} to choose: the numbers agree to rounding"
    )


def keep_threads(run: "Run", devices: int, networks: int = 1, jobs: int | None = None) -> int:
    """Set the number of threads with which the run was started, so that a resumed training ends in the same bits.

    Threads that are not chosen by the user are divided among the processes: small networks gain nothing from several.

    Args:
        run: The run.
        devices: Processes on this machine that share the work on a network.
        networks: Networks that can be trained and judged side by side.
        jobs: Processes for these, as the user chose. None takes one for each network and free core.

    Returns:
        The number of processes for networks side by side.

    Raises:
        InputError: If the file with the number of threads holds something else.
    """
    import torch

    known, free = run.read_json(FILE), CHOSEN[0] if CHOSEN else torch.get_num_threads()
    if known is None:
        if CHOSEN:
            torch.set_num_threads(max(1, free // max(devices, min(networks, jobs or free))))
        run.write_json(FILE, torch.get_num_threads())
    elif type(known) is not int or not 0 < known <= 4096:
        raise InputError(f"a number of threads in {run.folder / FILE}", known, "delete the file")
    elif CHOSEN:
        torch.set_num_threads(known)
    if CHOSEN:
        os.environ[VARIABLE] = str(torch.get_num_threads())
    return max(1, min(networks, jobs or free // torch.get_num_threads()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch inside the block: a process that has used several cannot be forked."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usable_cores(system: Path = Path("/sys")) -> int:
    """Return the number of physical cores that this process may use: by its affinity, and by the quota of its container.

    Args:
        system: Folder in which Linux describes cores and quotas.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    names = (system / f"devices/system/cpu/cpu{n}/topology/thread_siblings_list" for n in os.sched_getaffinity(0))
    siblings = [_read(name) or str(name) for name in names]
    quota, _, period = _read(system / "fs/cgroup/cpu.max").partition(" ")
    cores = len(set(siblings))
    return max(1, min(cores, -(-int(quota) // int(period)))) if quota.isdigit() and period.isdigit() else cores


def running_processes(statistic: Path = Path("/proc/stat")) -> int:
    """Return how many other processes compute at the moment; 0 where the system does not tell.

    The load average would count what this user's last command did a minute ago.

    Args:
        statistic: File in which Linux counts them.
    """
    found = []
    for _ in range(SAMPLES):
        lines = [line.split() for line in _read(statistic).splitlines()]
        found += [int(words[1]) - 1 for words in lines if words and words[0] == "procs_running"]
        time.sleep(PAUSE)
    return max(0, round(statistics.median(found))) if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeError):
        return ""
