"""Jobs side by side: their order, their bits, and what happens when one fails or its process is gone."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from command import SMOKE, done, results

from lowcurve.cli.ending import ends_in_words
from lowcurve.data import digits
from lowcurve.errors import InputError, RunError
from lowcurve.store import Run
from lowcurve.study import pipeline, workers
from lowcurve.study.jobs import Job, list_jobs
from lowcurve.study.presets import preset
from lowcurve.study.settings import Study
from lowcurve.study.workers import Workers, do_in_turn

log = logging.getLogger("lowcurve")


class Seen:
    """What a watch is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.ticks: list[tuple[str, int, int]] = []

    def started(self, job: Job) -> None:
        self.events.append(("started", job.name))

    def ticked(self, _: Job, heading: str, done: int, of: int) -> None:
        self.ticks.append((heading, done, of))

    def finished(self, job: Job) -> None:
        self.events.append(("finished", job.name))


def jobs(*names: str, **needs: str) -> list[Job]:
    return [Job(name, needs=frozenset({needs[name]} if name in needs else ())) for name in names]


def act(folder: Path, job: Job, progress) -> None:
    """Do what the job is called: each is a file, and `meet` jobs wait for one another."""
    log.info("%s is done with %d thread", job.name, torch.get_num_threads())
    if job.name.startswith("meet"):
        (folder / job.name).touch()
        until = time.monotonic() + 20
        while len(list(folder.glob("meet*"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
    if job.name == "wrong":
        raise InputError("a right job", "a wrong one", "leave it out")
    if job.name == "odd":
        raise type("Odd", (Exception,), {})("what cannot be sent")
    if job.name == "gone":
        os._exit(3)
    if job.name == "sleep":
        time.sleep(60)
    for _ in progress(range(3), f"counting {job.name}"):
        pass


def side_by_side(folder: Path, *todo: Job) -> Seen:
    seen = Seen()
    with Workers(2, 1, partial(act, folder)) as processes:
        processes.do(todo, seen)
    return seen


def test_jobs_run_at_once_and_after_what_they_need(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lowcurve")
    seen = side_by_side(tmp_path, *jobs("last", "meet 1", "meet 2", last="meet 2"))
    assert seen.events.index(("finished", "meet 2")) < seen.events.index(("started", "last"))
    assert [event for event in seen.events if event[0] == "started"][:2] == [("started", f"meet {k}") for k in (1, 2)]
    assert ("counting last", 0, 3) in seen.ticks
    assert "last is done with 1 thread" in caplog.text


def test_an_error_of_a_job_is_the_error_of_all(tmp_path):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"Expected a right job, got a wrong one\. Leave it out\."):
        side_by_side(tmp_path, *jobs("sleep", "wrong"))
    with pytest.raises(RuntimeError, match="Odd: what cannot be sent"):
        side_by_side(tmp_path, *jobs("odd"))
    assert time.monotonic() - began < 30  # the job that sleeps is ended


def test_a_process_that_is_gone_ends_the_run_in_a_sentence(tmp_path):
    sentence = r"all processes to work until the end, got broken pipe: the process of the job gone ended with code 3"
    with pytest.raises(RunError, match=sentence), ends_in_words("RUN keeps it"):
        side_by_side(tmp_path, *jobs("gone", "sleep"))


def test_one_process_does_them_in_turn(tmp_path):
    seen = Seen()
    do_in_turn(jobs("a", "b"), partial(act, tmp_path), seen)
    assert seen.events == [(what, name) for name in "ab" for what in ("started", "finished")]


SCRIPT = """
import os, signal, sys, threading, time
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_workers import Seen, act, jobs
from lowcurve.study.workers import Workers
workers = Workers(2, 1, partial(act, Path(".")))
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
workers.do(jobs("sleep"), Seen())
"""


@pytest.mark.slow
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
    # Their ends of the pipes close when they end, long before the job has slept.
    child = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=45)
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.parametrize(
    ("methods", "held", "steps", "names"),
    [
        (
            ("standard", "CURE", "PGD"),
            (),
            ("train", "measure", "attack"),
            "train standard, measure standard, attack standard, train PGD, train CURE, attack PGD, attack CURE, measure PGD, "
            "measure CURE, draw, transfer",
        ),
        (("standard",), ("standard", "CURE"), ("measure",), "measure standard, measure CURE, draw"),
        (("standard",), (), ("train",), "train standard"),
    ],
)
def test_the_first_network_is_finished_first(methods, held, steps, names):
    found = list_jobs(Study(methods=methods), held, steps)
    assert ", ".join(job.name for job in found) == names
    known: set[str] = set()
    for job in found:
        assert job.needs <= known
        known.add(job.name)


def test_networks_trained_side_by_side_have_the_same_bits(tmp_path):
    words = ("train", *SMOKE, "--methods", "standard,CURE,gradient-norm")
    for jobs_, name in (((), "turn"), (("--jobs", 2), "side")):
        assert done(*words, *jobs_, "--out", tmp_path / name) == 0
    for name in ("standard", "CURE", "gradient-norm"):
        ours, theirs = (Run(tmp_path / place).load_network(name).state_dict() for place in ("side", "turn"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert Run(tmp_path / "side").parts() == Run(tmp_path / "turn").parts()
    assert "2 networks are trained and judged side by side" in (tmp_path / "side" / "log.txt").read_text()


@pytest.mark.slow
def test_networks_judged_side_by_side_have_the_same_numbers(tmp_path):
    for jobs_ in (1, 2):
        words = (*SMOKE, "--methods", "standard,PGD", "--jobs", jobs_, "--out", tmp_path / str(jobs_))
        assert done("study", *words) == 0
    assert results(tmp_path / "2") == results(tmp_path / "1")


def test_a_job_can_be_sent_to_a_process_that_is_no_fork(tmp_path):
    """As it is outside Linux."""
    do = partial(pipeline.do_job, preset("digits"), digits(), Run(tmp_path))
    again = pickle.loads(pickle.dumps(do))
    assert again.args[0] == do.args[0]
    assert torch.equal(again.args[1].test.x, do.args[1].test.x)


@pytest.mark.slow
def test_processes_that_are_no_forks(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "METHOD", "spawn")
    seen = side_by_side(tmp_path, *jobs("meet 1", "meet 2"))
    assert {event for event, _ in seen.events} == {"started", "finished"}
