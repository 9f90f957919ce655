"""The one display of a study's work: what it says on a terminal, in a log and in a notebook."""

import io
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
from command import SMOKE, done, settings
from rich.console import Console

from lowcurve import progress
from lowcurve.cli import display, terminal
from lowcurve.cli.display import Display, expected_work
from lowcurve.data import digits
from lowcurve.errors import InputError, RunError
from lowcurve.results import Column, Table
from lowcurve.study import robustness_row
from lowcurve.study.jobs import list_jobs
from lowcurve.study.presets import preset

STUDY = preset("digits")
TABLE = Table(
    "Robustness and curvature",
    (Column("network"), Column("clean", "", ".1%"), Column("strong", "", ".1%"), Column("audit"), Column("C")),
    (("standard", (0.981, 0.961, 0.991), None, None, 21.2),),
    conditions={"examples (robustness)": "360 of the test set"},
)


@pytest.fixture
def clock(monkeypatch):
    time = SimpleNamespace(now=0.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: time.now)
    return time


@pytest.fixture
def shown(monkeypatch, clock):  # noqa: ARG001 (it stands before the display begins)
    jobs = list_jobs(STUDY, (), ("train", "measure", "attack"))
    monkeypatch.setattr(display, "headline_of", lambda *_: TABLE)
    monkeypatch.setattr(robustness_row, "first_results", lambda *_: TABLE)
    monkeypatch.setattr(display, "is_terminal", lambda: False)
    work = {job.name: 10.0 for job in jobs}
    return Display(jobs, work, 2, STUDY, digits(), SimpleNamespace(load_network=str))


def test_the_time_left_is_that_of_all_jobs(shown, clock):
    """Ten units of work took 5 s, so 13 jobs of 5 s remain for two processes."""
    first = shown.jobs[0]
    assert shown.seconds_left() is None
    shown.started(first)
    clock.now = 2.5
    shown.ticked(first, "training standard", 50, 100)
    assert shown.seconds_left() == pytest.approx((13 * 5 + 2.5) / 2)
    clock.now = 5.0
    shown.finished(first)
    assert shown.seconds_left() == pytest.approx(13 * 5 / 2)
    assert shown.summary() == "1 of 14 steps are done, about 30 s left"


def test_a_long_chain_is_longer_than_its_share(shown, clock):
    for job in shown.jobs:
        shown.work[job.name] = 1000.0 if job.name in ("train CURE", "attack CURE") else 1.0
    shown.started(shown.jobs[0])
    clock.now = 1.0
    shown.finished(shown.jobs[0])
    assert shown.seconds_left() == pytest.approx(2000.0)


def test_a_log_gets_lines(shown, caplog):
    caplog.set_level(logging.INFO, "lowcurve")
    for job in shown.jobs[:3]:
        shown.started(job)
        shown.finished(job)
    row = "standard: clean 98.1% [96-99], C 21.2"
    assert caplog.messages.count(row) == 2  # once trained, and once all of it is known
    assert caplog.messages[-1].startswith("attack standard took 0.0 s; 3 of 14 steps are done")


def test_a_network_that_cannot_be_attacked_ends_nothing_before_its_own_job(shown, monkeypatch):
    def fail(error):
        raise error

    for error in (RuntimeError("no derivative"), InputError("a", "b", "c")):
        monkeypatch.setattr(robustness_row, "first_results", lambda *_, error=error: fail(error))
        shown.started(shown.jobs[0])
        shown.finished(shown.jobs[0])
    assert shown.before == {}
    monkeypatch.setattr(robustness_row, "first_results", lambda *_: fail(RunError("a", "b", "c")))
    with pytest.raises(RunError):
        shown.finished(shown.jobs[0])


def test_a_job_may_end_while_the_display_is_drawn(shown, clock):
    """Rich draws it in a thread of its own."""
    first, second = shown.jobs[0], next(job for job in shown.jobs if job.name == "train PGD")

    class Work(dict):
        def __getitem__(self, name):
            if second.name in shown.now:
                shown.finished(second)
            return super().__getitem__(name)

    shown.started(first)
    clock.now = 5.0
    shown.finished(first)
    for draw in (shown.seconds_left, shown.__rich__):
        shown.took.pop(second.name, None)
        shown.started(second)
        shown.ticked(second, "training PGD", 30, 100)
        shown.work = Work(shown.work)
        draw()


def test_a_terminal_shows_one_display(shown, clock):
    first, second = shown.jobs[0], next(job for job in shown.jobs if job.name == "train PGD")
    shown.started(first)
    clock.now = 20.0
    shown.finished(first)
    shown.started(second)
    shown.ticked(second, "training PGD", 30, 100)
    screen = Console(file=io.StringIO(), width=100)
    screen.print(shown)
    said = screen.file.getvalue()
    assert "98.1% [96-99]" in said
    assert "…" in said  # of what is still to come
    assert "PGD" in said.split("standard")[1]
    assert "training PGD 30 %" in said
    assert "left" in said


def test_the_title_of_the_table_has_its_conditions():
    title = terminal.with_conditions(TABLE, STUDY).title
    assert title == (
        "Robustness and curvature\nl_inf radius 0.125; attacks: strong; 360 of the test set; in brackets 95 % intervals"
    )


def test_expected_work_is_finite_for_every_job():
    jobs = list_jobs(STUDY, (), ("train", "measure", "attack"))
    work = {job.name: expected_work(job, STUDY, digits(), 4) for job in jobs}
    assert min(work.values()) > 0
    assert work["train PGD"] > work["train standard"]


def test_one_bar_at_a_time(monkeypatch):
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    with terminal.progress_bars() as track:
        list(track(range(2), "first"))
        for _ in track(range(2), "second"):
            pass
    with terminal.progress_bars() as track:
        items = iter(track(range(2), "third"))
        next(items)


def test_a_line_where_nobody_watches(caplog):
    caplog.set_level(logging.INFO, "lowcurve")
    with terminal.progress_bars() as track:
        assert list(track(range(2), "drawing")) == list(track(range(2), "drawing")) == [0, 1]
    assert caplog.messages == ["drawing"]


def test_a_notebook_gets_one_line_that_is_renewed(monkeypatch):
    shown, updates = [], []
    handle = SimpleNamespace(update=lambda content, **_: updates.append(content))
    module = ModuleType("IPython.display")
    module.display = lambda content, **_: (shown.append(content), handle)[1]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(progress, "DELAY", -1.0)
    monkeypatch.setattr(progress, "NOTEBOOK_PAUSE", 0.0)
    assert list(progress.choose_progress(None)(range(3), "measuring <b>")) == [0, 1, 2]
    assert len(shown) == 1
    assert [content["text/plain"].partition(",")[0] for content in (shown[0], *updates)] == [
        *(f"measuring <b>: {done} of 3" for done in range(4)),
        "",
    ]
    assert "measuring &lt;b&gt;" in updates[0]["text/html"]


# --- the command


def test_a_smoke_run_says_that_nothing_can_be_read_from_it(tmp_path, capsys):
    words = ("--methods", "standard", "--evaluation.drawn", 0, "--full", "--out", tmp_path / "run")
    assert done("study", *SMOKE, *words) == 0
    said = capsys.readouterr().out
    assert "Nothing can be read from its numbers." in said
    assert "steps are done" in said
    assert "l_inf radius 0.125; attacks: strong, lighter than by default (steps 3 of 100, " in said
    assert "%" in said
    assert "━" not in said
    assert settings(tmp_path / "run")["evaluation"]["drawn_paths"] == 30
    assert done("study", "--resume", tmp_path / "run", "--jobs", 0) == 2
    assert "at least one job, got 0. Write --jobs 1" in capsys.readouterr().err
