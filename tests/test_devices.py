"""`lowcurve` in several processes, begun by itself, by torchrun, and as SLURM begins them: the networks and numbers of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import results
from safetensors.torch import load_file
from torch.testing import assert_close

from lowcurve.cli.commands import main

WORDS = ["study", "--scale", "smoke", "--accelerator", "cpu", "--methods", "[CURE,ELLE-A]", "--validation-steps", "2"]
TWO = ["--devices", "2", "--strategy", "ddp"]


def of_slurm(task: int) -> dict[str, str]:
    """What srun tells a task of two on one node."""
    return {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "lowcurve", "SLURM_NODELIST": "localhost", "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task),
        "SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "127.0.0.1",
    }  # fmt: skip


def run(*words: str, tasks: int = 1) -> str:
    """What a command of its own says, or several at once as SLURM begins them; all must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = [
        subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment | (of_slurm(task) if tasks > 1 else {}),
        )
        for task in range(tasks)
    ]  # fmt: skip
    said = [one.communicate(timeout=240) for one in begun]
    assert [one.returncode for one in begun] == [0] * tasks, said
    return said[0][0]


def numbers(result: object) -> list[float]:
    """Every number of a result, in its order; pictures and sentences left out."""
    if isinstance(result, bool) or not isinstance(result, float | int | list | dict):
        return []
    if isinstance(result, float | int):
        return [float(result)]
    inside = result.values() if isinstance(result, dict) else result
    return [number for part in inside for number in numbers(part)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main([*WORDS, "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("launcher", "tasks"),
    [
        pytest.param(("-m", "lowcurve"), 1, marks=pytest.mark.slow),
        pytest.param(
            ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lowcurve"), 1, marks=pytest.mark.slow
        ),
        pytest.param(("-m", "lowcurve"), 2, marks=pytest.mark.slow),
    ],
    ids=["itself", "torchrun", "slurm"],
)
def test_two_processes_make_the_networks_of_one_and_one_of_them_keeps_the_run(launcher, tasks, alone, tmp_path):
    folder = tmp_path / "run"
    said = run(*launcher, *WORDS, *TWO, "--out", str(folder), tasks=tasks)
    for name in ("standard", "CURE", "ELLE-A"):
        ours, theirs = (load_file(place / "networks" / f"{name}.safetensors") for place in (alone, folder))
        assert_close(theirs, ours, rtol=0, atol=1e-6)
    assert said.count("study took") == 1
    assert (folder / "log.txt").read_text().count("CURE: epoch 1") == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in alone.iterdir())
    one, two = ({key: numbers(result) for key, result in results(place).items()} for place in (alone, folder))
    assert one.keys() == two.keys()
    for key, values in one.items():
        assert_close(two[key], values, rtol=2e-2, atol=1e-3, msg=lambda said, key=key: f"{key}: {said}")


def test_a_process_that_follows_must_know_where_the_run_is(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOWCURVE_RUN", raising=False)
    assert main([*WORDS, *TWO]) == 2
    assert (
        "Expected a directory that all processes know, got none. Write --out DIRECTORY beside"
        in capsys.readouterr().err
    )
    assert main(["report", "somewhere"]) == 2  # what is asked for is read by every process
    monkeypatch.setenv("RANK", "0")


def test_a_process_that_follows_evaluates_nothing(monkeypatch, alone):
    monkeypatch.setenv("RANK", "1")
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
    assert main(["report", str(alone)]) == 0
    assert {path: path.stat().st_mtime_ns for path in alone.rglob("*")} == before


@pytest.mark.parametrize(
    ("told", "hint"),
    [
        (
            {"SLURM_STEP_NUM_TASKS": "4"},
            "got SLURM_STEP_NUM_TASKS=4. Write srun --nodes 1 --ntasks-per-node 2, or",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3", "SLURM_STEP_NUM_TASKS": "2"},
            "got WORLD_SIZE=3. Write torchrun --nnodes 1 --nproc-per-node 2, or",
        ),
    ],
)
def test_another_number_of_processes_than_was_asked_for_is_refused(told, hint, monkeypatch, capsys, tmp_path):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert main([*WORDS, *TWO, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "Expected as many processes as --devices 2 --nodes 1 asks for" in said
    assert hint in said
    assert not (tmp_path / "run").exists()
