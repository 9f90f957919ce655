"""The one display of a study's work: finished rows of the table, what runs now, and the time that is left."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lowcurve.cli.terminal import headline_of, is_terminal, result_table, row_in_words

if TYPE_CHECKING:
    from lowcurve.data import DataSet
    from lowcurve.results import Table
    from lowcurve.store import Run
    from lowcurve.study.jobs import Job
    from lowcurve.study.settings import Study

log = logging.getLogger("lowcurve")
STEPS = {
    "standard": 1.0, "gradient-norm": 2.0, "FGSM": 1.7, "RS-FGSM": 1.7, "N-FGSM": 1.7, "SORA": 1.7, "PGD": 5.6, "TRADES": 7.0,
}  # fmt: skip
"""Cost of a training step by method, in plain steps. See docs/performance.md."""
OTHER_STEP = 4.0
GRADIENT = 3.0
"""Cost of a gradient, in forward passes."""
ROBUST = 0.6
"""Share of the images that withstand, for the time before it is known."""
MEASURED, DRAWN = 400, 12
"""Cost of all measures at an image, and of a drawn point for each network, in forward passes."""
RATE = 4
"""Times a second at which the display is renewed."""


@contextlib.contextmanager
def show(study: "Study", data: "DataSet", run: "Run", jobs: "Sequence[Job]", processes: int) -> "Iterator[Display]":
    """Show how the jobs of a study proceed: one renewed display on a terminal, else a line for each finished job.

    Args:
        study: Settings of the study.
        data: Its data set.
        run: Run in which the results are.
        jobs: The jobs.
        processes: Number of processes that do them.
    """
    from lowcurve.progress import no_other_bars

    networks = max(1, len({job.network for job in jobs if job.network}))
    work = {job.name: max(1.0, expected_work(job, study, data, networks)) for job in jobs}
    display = Display(jobs, work, processes, study, data, run)
    with no_other_bars():
        if not is_terminal():
            yield display
            return
        from rich.live import Live

        with Live(display, refresh_per_second=RATE, transient=True), _quiet_screen():
            yield display


class Display:
    """Is told how jobs proceed, and shows it; see `study.workers.Watch`.

    Args:
        jobs: The jobs.
        work: Expected work of each, by its name, in any unit.
        processes: Number of processes that do them.
        study: Settings of the study.
        data: Its data set.
        run: Run in which the results are.
    """

    def __init__(
        self,
        jobs: "Sequence[Job]",
        work: dict[str, float],
        processes: int,
        study: "Study",
        data: "DataSet",
        run: "Run",
    ) -> None:
        self.jobs, self.work, self.processes = jobs, work, processes
        self.study, self.data, self.run = study, data, run
        self.began: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self.now: dict[str, tuple[str, int, int]] = {}
        self.before: dict[str, Table] = {}
        self.table: Any = None

    def started(self, job: "Job") -> None:
        """Note that a job begins."""
        self.began[job.name] = time.monotonic()
        self.now[job.name] = (job.name, 0, 1)

    def ticked(self, job: "Job", heading: str, done: int, of: int) -> None:
        """Note how far a part of a job is."""
        self.now[job.name] = (heading, done, of)

    def finished(self, job: "Job") -> None:
        """Note that a job is done, and show its network's row as far as it is known."""
        self.took[job.name] = time.monotonic() - self.began[job.name]
        self.now.pop(job.name, None)
        if job.step == "train" and not self.before and any(other.step == "attack" for other in self.jobs):
            self._attack_briefly(job.network)
        if job.step in ("train", "measure", "attack"):
            self.table = headline_of(self.study, self.run, self.before)
        if self.table is not None and job.step == "train" and job.network in self.before:
            log.info("%s", row_in_words(self.table, job.network))
        mine = [other.name for other in self.jobs if other.network == job.network]
        if self.table is not None and job.network and all(name in self.took for name in mine):
            log.info("%s", row_in_words(self.table, job.network))
        log.info("%s took %.1f s; %s", job.name, self.took[job.name], self.summary())

    def _attack_briefly(self, name: str) -> None:
        """Attack the first network briefly here, so that its row is there while the others train."""
        from lowcurve.study.optional import reason_of
        from lowcurve.study.robustness_row import first_results

        try:
            self.before[name] = first_results(self.study, self.data, name, self.run.load_network(name))
        except Exception as error:  # a network of the user's own may raise anything; the job that attacks it tells what
            reason_of(error)

    def summary(self) -> str:
        """Return how many jobs are done and the time that is left, in words."""
        left = self.seconds_left()
        rest = "" if left is None or len(self.took) == len(self.jobs) else f", {in_words(left)} left"
        return f"{len(self.took)} of {len(self.jobs)} steps are done{rest}"

    def seconds_left(self) -> float | None:
        """Return the expected seconds until all jobs are done, or None before anything is known."""
        # A thread of its own draws the display, while jobs begin and end.
        took, shares = dict(self.took), self._shares()
        spent, passed = sum(took.values()), sum(self.work[name] for name in took)
        for name, share in shares.items():
            spent += time.monotonic() - self.began[name]
            passed += self.work[name] * share
        if not passed:
            return None
        left = [job.name for job in self.jobs if job.name not in took]
        rest = {name: self._rest(name, spent / passed, shares.get(name, 0.0)) for name in left}
        chains: dict[str, float] = {}
        for job in self.jobs:
            before = max((chains.get(need, 0.0) for need in job.needs), default=0.0)
            chains[job.name] = before + rest.get(job.name, 0.0)
        return max(sum(rest.values()) / self.processes, max(chains.values(), default=0.0))

    def _shares(self) -> dict[str, float]:
        """Return the share that is done of each running training, which has one bar; other jobs have several."""
        now = dict(self.now)
        return {name: done / of for name, (_, done, of) in now.items() if name.startswith("train ") and done}

    def _rest(self, name: str, rate: float, share: float) -> float:
        whole = self.work[name] * rate
        if name not in self.began:
            return whole
        gone = time.monotonic() - self.began[name]
        return gone * (1 / share - 1) if share else max(whole - gone, 0.05 * whole)

    def __rich__(self) -> Any:
        """Return the display as rich shows it: the table so far, a bar, and what runs now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Grid
        from rich.text import Text

        left, whole = self.seconds_left(), sum(self.work.values())
        gone = sum(self.work[name] for name in list(self.took))
        gone += sum(self.work[name] * share for name, share in self._shares().items())
        grid = Grid.grid(padding=(0, 2, 0, 0))
        words = "estimating the time left" if left is None else f"{in_words(left)} left"
        grid.add_row(ProgressBar(total=whole, completed=min(gone, whole), width=30), words)
        running = [f"{heading} {100 * done // of} %" for heading, done, of in list(self.now.values())]
        parts = [] if self.table is None else [result_table(self.table, self._unfinished())]
        return Group(*parts, grid, Text(", ".join(running), style="dim", overflow="ellipsis", no_wrap=True))

    def _unfinished(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(job.network for job in self.jobs if job.network and job.name not in self.took))


def expected_work(job: "Job", study: "Study", data: "DataSet", networks: int) -> float:
    """Return the expected work of a job in forward passes of one image, for the time left.

    Args:
        job: The job.
        study: Settings of the study.
        data: Its data set.
        networks: Number of networks.
    """
    from lowcurve.study.methods import method_of

    settings = study.evaluation
    if job.step == "train":
        plan = study.fine_tuning if method_of(job.network, study).fine_tunes else study.training
        return GRADIENT * plan.epochs * len(data.train) * STEPS.get(job.network, OTHER_STEP)
    examples = min(settings.examples, len(data.test))
    if job.step == "attack":
        effort, audited = settings.effort, min(settings.audited, examples)
        steps = effort.steps * 4  # Auto-PGD, and the search for the smallest radius
        queries = effort.queries * 0.5  # the short search, and longer ones for few images
        budget = settings.budget
        rest = (budget.steps * 12 + budget.apgd_steps * 6) * GRADIENT + budget.noise_draws * 0.1
        return ROBUST * (examples * (GRADIENT * steps + queries) + audited * rest)
    if job.step == "measure":
        return float(MEASURED * min(settings.curvature_examples, len(data.test)))
    if job.step == "draw":
        return float(networks * DRAWN * settings.drawn * settings.drawn_points**2)
    return GRADIENT * settings.steps * examples * networks


def in_words(seconds: float) -> str:
    """Return a length of time as words.

    Example:
        >>> in_words(3), in_words(48), in_words(400), in_words(9000)
        ('a few seconds', 'about 50 s', 'about 7 min', 'about 2.5 h')
    """
    if seconds < 5:
        return "a few seconds"
    if seconds < 95:
        return f"about {5 * round(seconds / 5)} s"
    return f"about {round(seconds / 60)} min" if seconds < 5700 else f"about {seconds / 3600:.1f} h"


@contextlib.contextmanager
def _quiet_screen() -> Iterator[None]:
    """Keep what is only worth a line in the run's log from the screen, where the display shows it."""
    from rich.logging import RichHandler

    def is_urgent(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    screens = [handler for handler in log.handlers if isinstance(handler, RichHandler)]
    for screen in screens:
        screen.addFilter(is_urgent)
    try:
        yield
    finally:
        for screen in screens:
            screen.removeFilter(is_urgent)
