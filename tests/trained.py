"""Public trained networks in tests, as a user's own: built by examples/public_networks.py, given weights from a file."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn

from lowcurve.store import load_weights


def factories() -> ModuleType:
    """examples/public_networks.py."""
    path = Path(__file__).parents[1] / "examples" / "public_networks.py"
    spec = importlib.util.spec_from_file_location("public_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """The network with those weights, in eval mode."""
    model = build()
    load_weights(model, path)
    return model.eval()
