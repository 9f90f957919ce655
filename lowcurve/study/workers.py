"""Processes that do the jobs of a study side by side, while the process that started them shows how far they are.

A job is done as it would be in one process, and no job reads what another one is writing, so its results have the same bits.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from lowcurve.study.jobs import Job
from lowcurve.types import Progress

log = logging.getLogger("lowcurve")
T = TypeVar("T")
PAUSE = 0.25
"""Seconds between two messages on progress, and between two checks that the parent still runs."""
METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How processes begin. A fork has everything imported; elsewhere it is not safe."""
Do = Callable[[Job, Progress[int]], None]


class Watch(Protocol):
    """Is told how the jobs proceed."""

    def started(self, job: Job) -> None:
        """A job begins."""
        ...

    def ticked(self, job: Job, heading: str, done: int, of: int) -> None:
        """A part of a job has come so far."""
        ...

    def finished(self, job: Job) -> None:
        """A job is done."""
        ...


def do_in_turn(jobs: Sequence[Job], do: Do, watch: Watch) -> None:
    """Do all jobs in this process.

    Args:
        jobs: The jobs, each after those that it needs.
        do: Does one of them.
        watch: Is told how they proceed.
    """
    for job in jobs:
        watch.started(job)
        do(job, _progress_of(lambda *message, job=job: watch.ticked(job, *message)))
        watch.finished(job)


class Workers:
    """Processes that do jobs, as a context; they end with it.

    On Linux they are forks of this process, so this process must not have used more than one thread of torch.

    Args:
        count: Number of processes.
        threads: Threads of torch in each.
        do: Does a job.
    """

    def __init__(self, count: int, threads: int, do: Do) -> None:
        context = multiprocessing.get_context(METHOD)
        self._workers: list[_Worker] = []
        for _ in range(count):
            mine, theirs = context.Pipe()
            arguments = (theirs, do, threads, os.getpid())
            process = context.Process(target=_serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, mine))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def do(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Do all jobs; those whose needs are met run side by side, the first of the list first.

        Args:
            jobs: The jobs.
            watch: Is told how they proceed.

        Raises:
            Exception: What a job raised. The other jobs are ended when the context ends.
            RuntimeError: If a process is gone.
        """
        waiting, missing = list(jobs), {job.name for job in jobs}
        while missing:
            for worker in self._workers:
                job = next((job for job in waiting if not job.needs & missing), None)
                if worker.job is None and job is not None:
                    waiting.remove(job)
                    worker.job = job
                    watch.started(job)
                    worker.pipe.send(job)
            busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                if self._heard(worker, watch):
                    assert worker.job is not None
                    missing.remove(worker.job.name)
                    watch.finished(worker.job)
                    worker.job = None

    @staticmethod
    def _heard(worker: "_Worker", watch: Watch) -> bool:
        """Take one message of a worker; return whether its job is done."""
        assert worker.job is not None
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            ended = f"the process of the job {worker.job.name} ended with code {worker.process.exitcode}"
            raise RuntimeError(f"broken pipe: {ended}") from None
        if kind == "tick":
            watch.ticked(worker.job, *content)
        elif kind == "log":
            log.handle(content)
        elif kind == "error":
            raise content
        return bool(kind == "done")


@dataclass
class _Worker:
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    job: Job | None = None


def _serve(pipe: "Connection[Any, Any]", do: Do, threads: int, parent: int) -> None:
    """Do the jobs that come through a pipe."""
    import torch

    # Ctrl-C reaches all processes of a terminal; the parent says what happens then.
    for name, handler in (("SIGINT", signal.SIG_IGN), ("SIGHUP", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)
    end_with(parent)
    torch.set_num_threads(threads)
    log.handlers[:] = [_Sender(pipe)]
    log.setLevel(logging.INFO)
    log.propagate = False
    progress = _progress_of(lambda *message: pipe.send(("tick", message)))
    while True:
        job = pipe.recv()
        try:
            do(job, progress)
        except BaseException as error:
            pipe.send(("error", _portable(error)))
            return
        pipe.send(("done", None))


def end_with(parent: int, pause: float = PAUSE) -> None:
    """End this process soon after its parent, however that ends.

    Args:
        parent: Number of the parent's process.
        pause: Seconds between two checks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(pause)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Sender(logging.Handler):
    """Sends log messages through a pipe."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.pipe.send(("log", record))


def _portable(error: BaseException) -> BaseException:
    """Return an error that can be sent to another process, with the lines in which it was raised."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # an error of the user's own may hold anything
        again = RuntimeError(f"{type(error).__name__}: {error}")
    again.add_note("".join(traceback.format_exception(error)))
    result: BaseException = pickle.loads(pickle.dumps(again))
    return result


def _progress_of(tell: Callable[[str, int, int], None]) -> Progress[Any]:
    """Return a progress display that tells its heading, how many items are done, and their number."""

    def progress(iterable: Iterable[T], heading: str) -> Iterator[T]:
        items, told = list(iterable), 0.0
        for done, item in enumerate(items):
            if time.monotonic() - told > PAUSE:
                told = time.monotonic()
                tell(heading, done, len(items))
            yield item

    return progress
