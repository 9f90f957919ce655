"""How much memory a piece of work takes in this process, on Linux."""

import gc
from collections.abc import Callable
from pathlib import Path


def raised_by(work: Callable[[], object]) -> float:
    """MB by which the work raises the peak of resident memory over what is resident before it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(which: str) -> float:
    """MB of memory of this process: VmRSS, now; VmHWM, at most."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) / 1024
