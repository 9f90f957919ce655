"""One thread, real data where it is at hand, and the guard that no test moves the global random state unseen."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("busy machines", deadline=None)
settings.load_profile("busy machines")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of parquet files: LOWCURVE_DATA, or shared/data beside the project."""
    folder = Path(os.environ.get("LOWCURVE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no data folder: set LOWCURVE_DATA to a folder of parquet files to run this")
    return folder


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of public trained networks: LOWCURVE_WEIGHTS, or shared/weights beside the project."""
    folder = Path(os.environ.get("LOWCURVE_WEIGHTS", Path(__file__).parents[2] / "shared" / "weights"))
    if not folder.is_dir():
        pytest.skip("no weights folder: set LOWCURVE_WEIGHTS to the folder of public networks to run this")
    return folder
