"""Public trained networks in tests, as a user's own: built by `lowcurve.examples`, given weights from a file."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from lowcurve.store import load_weights


def public(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """The network with those weights, in eval mode."""
    model = build()
    load_weights(model, path)
    return model.eval()
