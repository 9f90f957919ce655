"""One thread, real data where it is at hand, and the guard that no test moves the global random state unseen."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")


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
