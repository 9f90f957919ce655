"""Locks of run directories: one command at a time works on a run."""

import errno
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lowcurve.errors import InputError
from lowcurve.store.files import writing

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("lowcurve")
LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)
PATIENCE = 1.0


@contextmanager
def lock(folder: Path, command: str) -> Iterator[None]:
    """Hold the lock of a run's directory during the block.

    The system frees the lock when the process ends, however it ends. Under Linux it also holds on NFS. Where the file
    system has no locks, the command goes on without one and says so.

    Args:
        folder: Directory of the run.
        command: What is done, for the sentence that another command then gets.

    Raises:
        InputError: If another process holds the lock.
    """
    if sys.platform == "win32":  # which has no such locks
        yield
        return
    path = folder / LOCK
    with writing(path):
        file = path.open("a+")
    with file:
        try:
            _take(file)
        except OSError as error:
            if error.errno in HELD:
                file.seek(0)
                holder = file.read().strip() or "another process"
                hint = "wait until it is done, or end it and write the same command again"
                raise InputError(f"a run that nothing else works on in {folder}", holder, hint) from None
            log.warning("the run has no lock (%s): do not start a second command on it", error.strerror)
        _write(
            file, f"lowcurve {command}, process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}"
        )
        try:
            yield
        finally:
            _write(file, "")


def _take(file: IO[str]) -> None:
    """Take the lock. The processes that a killed command had started hold it until they notice, within `PATIENCE` seconds."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in HELD or time.monotonic() > ends:
                raise
        time.sleep(0.05)


def _write(file: IO[str], holder: str) -> None:
    """Replace the lock's description of its holder. A full disk only costs the description."""
    try:
        file.truncate(0)
        file.write(holder)
        file.flush()
    except OSError:
        log.debug("the lock does not name its holder")
