"""Ends from outside: every signal gets the sentence how to go on, exhausted memory and lost processes too."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from command import LONGER, process

from lowcurve.cli import commands, main, threads
from lowcurve.cli.ending import ended_by_signals, ends_in_words
from lowcurve.errors import InputError, RunError
from lowcurve.store import Run

pytestmark = pytest.mark.usefixtures("alone")
CODES = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "ended by SIGTERM"), "SIGHUP": (129, "ended by SIGHUP")}


@pytest.fixture(autouse=True)
def heard():
    """A shell that runs the tests in the background makes them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", CODES)
def test_a_signal_before_anything_is_written(name, monkeypatch, capsys):
    number = getattr(signal, name)
    monkeypatch.setattr(commands, "_answer", lambda _: os.kill(os.getpid(), number) or time.sleep(5))
    before = signal.getsignal(number)
    code, word = CODES[name]
    assert main(["study"]) == code
    assert capsys.readouterr().err == f"\n{word} before anything was written\n"
    assert signal.getsignal(number) == before


def test_a_second_signal_does_not_cut_the_sentence(monkeypatch, capsys):
    def answer(_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(commands, "_answer", answer)
    assert main(["study"]) == 130
    assert capsys.readouterr().err == "\ninterrupted before anything was written\n"


def test_what_is_told_to_be_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals(for_good=False):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_ends_a_whole_run_is_a_sentence():
    def ends(error):
        with ends_in_words("RUN keeps it"):
            raise error

    with pytest.raises(RunError, match=r"enough memory for one batch, got .*you tried\. Take .* RUN keeps it\."):
        ends(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nstack"))
    with pytest.raises(RunError, match="enough memory for one batch, got no memory left"):
        ends(MemoryError())
    with pytest.raises(RunError, match=r"all processes to work until the end, got .*closed by peer"):
        ends(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
    with pytest.raises(RuntimeError, match="a bug"):
        ends(RuntimeError("a bug"))


@pytest.mark.parametrize("name", CODES)
@pytest.mark.slow
def test_two_signals_at_work(name, tmp_path):
    folder = tmp_path / "run"
    child = process("study", *LONGER, "--out", folder)
    until = time.monotonic() + 60
    while not (folder / "checkpoints" / "standard.pt").exists():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)
    for pause in (0.02, 0.1, 0.05):
        child.send_signal(getattr(signal, name))
        time.sleep(pause)
        if child.poll() is not None:
            break
    _, err = child.communicate(timeout=60)
    code, word = CODES[name]
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert f"{word}. {folder} keeps what is finished. Continue with: lowcurve study --resume {folder}" in err
    assert Run.open(folder).read_settings()["seed"] == 0


# --- threads


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """Four cores of two threads each, by the files of Linux."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "CHOSEN", [])
    for cpu in range(8):
        place = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "fs/cgroup").mkdir(parents=True)
    return tmp_path


def test_cores_are_counted_by_affinity_topology_and_quota(machine, monkeypatch):
    assert threads.usable_cores(machine) == 4
    assert threads.usable_cores(machine / "none") == 8
    for quota, cores in (
        ("max 100000", 4),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("odd", 4),
    ):
        (machine / "fs/cgroup/cpu.max").write_text(quota)
        assert threads.usable_cores(machine) == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 1})
    (machine / "fs/cgroup/cpu.max").unlink()
    assert threads.usable_cores(machine) == 2


def test_running_processes_are_counted_without_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "PAUSE", 0.0)
    (tmp_path / "stat").write_text("cpu 1 2 3\nprocs_running 4\nprocs_blocked 0\n")
    assert threads.running_processes(tmp_path / "stat") == 3
    assert threads.running_processes(tmp_path / "none") == 0


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("others", "count"), [(0, 4), (3, 4), (5, 3), (7, 1), (50, 1)])
def test_threads_are_as_many_as_are_free(monkeypatch, others, count):
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "running_processes", lambda: others)
    assert threads.choose_threads() == ""  # torch is here already
    monkeypatch.delitem(sys.modules, "torch")
    said = threads.choose_threads()
    assert os.environ["OMP_NUM_THREADS"] == str(count)
    assert bool(said) == (count < 4)
    if said:
        assert said.startswith(
            f"computing with {count} of 4 cores, since {others} other processes are running. Set OMP_NUM"
        )
    assert threads.choose_threads() == ""  # the user's own choice is kept


@pytest.mark.usefixtures("machine")
def test_a_run_keeps_its_number_of_threads(monkeypatch):
    import torch

    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    run = Run.create(Path("run"))
    threads.CHOSEN.append(6)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    threads.keep_threads(run, 2)
    assert used == [3]
    assert run.read_json(threads.FILE) == torch.get_num_threads()
    run.write_json(threads.FILE, 2)
    threads.keep_threads(run, 2)
    assert used == [3, 2]
    threads.CHOSEN.clear()  # the user chooses
    threads.keep_threads(run, 2)
    assert used == [3, 2]
    run.write_json(threads.FILE, "many")
    with pytest.raises(InputError, match=r"a number of threads in run/.threads, got many. Delete the file"):
        threads.keep_threads(run, 2)
