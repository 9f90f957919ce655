"""`lowcurve` in several processes, begun by itself and by torchrun: the networks and the numbers of one."""

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


def run(*words: str) -> str:
    """What a command of its own says; it must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    "launcher", [("-m", "lowcurve"), ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "lowcurve")]
)
def test_two_processes_make_the_networks_of_one_and_one_of_them_keeps_the_run(launcher, alone, tmp_path):
    folder = tmp_path / "run"
    said = run(*launcher, *WORDS, *TWO, "--out", str(folder))
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
        "expected a directory that all processes know, received none; write --out DIRECTORY beside"
        in capsys.readouterr().err
    )
    assert main(["report", "somewhere"]) == 2  # what is asked for is read by every process
    monkeypatch.setenv("RANK", "0")


def test_a_process_that_follows_evaluates_nothing(monkeypatch, alone):
    monkeypatch.setenv("RANK", "1")
    before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
    assert main(["report", str(alone)]) == 0
    assert {path: path.stat().st_mtime_ns for path in alone.rglob("*")} == before
