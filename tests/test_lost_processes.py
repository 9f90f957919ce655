"""Two real processes, of which one is lost: all end within a minute, with a sentence, and none is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import PROJECT, done, results

pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.slow]
ILL = """
import os, signal, torch
from torch import nn

class Ill(nn.Module):
    def __init__(self, ill):
        super().__init__()
        self.inner, self.ill, self.passes = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ill, 0
    def forward(self, x):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and x.requires_grad:
            self.passes += 1
            if self.passes == 4:
                self.ill()
        return self.inner(x)

def memory(): return Ill(lambda: torch.empty(2**50))
def killed(): return Ill(lambda: os.kill(os.getpid(), signal.SIGKILL))
def broken(): return Ill(lambda: {}["layer"])
def well(): return Ill(lambda: None)
"""
SMALL = ("--data", "digits", "--scale", "smoke", "--devices", "2", "--evaluation.audited", "0", "--limits.test", "24")
LIMIT = 120
"""Seconds: a minute, and another for the imports of both processes on a busy machine."""


def attack(network: str, starter: str, port: int) -> tuple[int, str]:
    """Attack with two processes, started by torchrun or by the command itself; the exit code and what was written."""
    Path("ill.py").write_text(ILL)
    words = ["lowcurve", "attack", "--model", f"ill:{network}", *SMALL, "--out", "run"]
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), "-m"]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{Path.cwd()}", "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-m", *(torchrun if starter == "torchrun" else []), *words]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        out, _ = child.communicate(timeout=LIMIT)
        until = time.monotonic() + 5  # those that are left end with their parent
        while alive(child.pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert not alive(child.pid)
    finally:
        if alive(child.pid):
            os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, " ".join(out.split())


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


STARTERS = pytest.mark.parametrize("starter", ["torchrun", "lowcurve"])


@STARTERS
@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("memory", "Expected enough memory for one batch, got"),
        ("killed", "Expected all processes to work until the end"),
    ],
)
def test_a_lost_process_ends_all(network, sentence, starter):
    code, said = attack(network, starter, free_port())
    assert code == (1 if starter == "torchrun" else 2)
    assert sentence in said or (starter == "torchrun" and "ended by SIGTERM. run keeps what is finished" in said)
    assert Path("run/settings.yaml").exists()


def test_an_error_in_one_process_is_an_error_in_all():
    code, said = attack("broken", "lowcurve", free_port())
    rows = results(Path("run"))["missing"]["rows"]
    assert any("layer" in reason for _, _, reason in rows)
    assert code in (0, 2), said  # 2 if it came in the first attack


@STARTERS
def test_a_port_that_is_taken(starter):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        code, said = attack("well", starter, taken.getsockname()[1])
    assert code == (1 if starter == "torchrun" else 2)
    assert "EADDRINUSE" in said
    if starter == "lowcurve":
        assert "Expected all processes to work until the end, got The server socket has failed to listen" in said
        assert done("report", "run") == 0
