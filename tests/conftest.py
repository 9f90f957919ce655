"""One thread, real data where it is at hand, and the guard that no test moves the global random state unseen."""

import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import torch
from command import SMOKE, done
from hypothesis import settings
from torch import nn

from lowcurve.examples import public_networks

torch.set_num_threads(1)
settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")


@pytest.fixture(autouse=True)
def log_level():
    """Give the log its level back: a follower that runs inside a test is silent."""
    log = logging.getLogger("lowcurve")
    before = log.level
    yield
    log.setLevel(before)


OWN = """
import torch
from torch import nn

def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def a_map(): return nn.Sequential(nn.Conv2d(1, 10, 3))
def a_number(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Flatten(0))
def two(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
def nothing(): return None
def broken(): raise RuntimeError("no such layer")
"""


SHARING = frozenset(
    f"test_{name}"
    for name in (
        "adversarial_set", "audit", "certificates", "fit", "minimal_attacks", "moosavi2019", "processes", "reproduction",
        "resuming",
    )
)  # fmt: skip

SMOKE_RUN = frozenset(("test_commands", "test_doctor", "test_draw", "test_refusals", "test_trackers"))
"""Files whose tests share the fixture `smoke`."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file whose tests share a costly fixture in one worker; other tests go one by one to a free worker.

    The `xdist_group` mark would say the same, but pytest-xdist 3.8 loses it under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class SharingScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.split("::")[0]).stem
            return "smoke" if name in SMOKE_RUN else name if name in SHARING else nodeid

    return SharingScheduling(config, log)


def folder(variable: str, name: str) -> Path:
    """The folder that the environment names, or shared/NAME beside the project; without one the test is skipped."""
    found = Path(os.environ.get(variable, Path(__file__).parents[2] / "shared" / name))
    if not found.is_dir():
        pytest.skip(f"no folder of {name}: set {variable} to one to run this")
    return found


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of parquet files."""
    return folder("LOWCURVE_DATA", "data")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of public trained networks."""
    return folder("LOWCURVE_WEIGHTS", "weights")


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """The factories of public networks."""
    return public_networks


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Each test in a folder of its own, with nothing of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOWCURVE_DATA", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder with the user's own networks, and weights for the first of them."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(model.state_dict(), tmp_path / "own.pt")
    return tmp_path


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoke") / "run"
    assert done("study", *SMOKE, "--out", folder) == 0
    return folder
