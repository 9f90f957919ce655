"""An entry of the panel: a network, its training, a ball, and the attacks made for it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from lowcurve.analysis.norms import Ball
from lowcurve.randomness import temporary_seed
from lowcurve.types import AttackFunction
from panel.attacks import Way
from panel.data import Data
from panel.preprocessing import twin
from panel.training import Fit

Build = Callable[[Data], nn.Module]
Train = Callable[[nn.Module, Data], None]
Ways = Callable[[nn.Module], list[Way]]
PUBLIC = "public"
"""Kind of the networks that others trained."""


def nothing_more(model: nn.Module) -> list[Way]:
    """Return no further ways to attack."""
    del model
    return []


@dataclass(frozen=True)
class Entry:
    """A network of the panel in one ball.

    Args:
        name: Name of the network. It seeds weights and training.
        kind: Kind of defense or of training, in words.
        data: Name of the data set.
        ball: Norm and radius.
        build: Function from the data to the untrained network.
        fit: Its training; None where `build` returns a trained network.
        ways: Further ways to attack, beside the network's own gradient and its smooth twin's.
        random: Whether its output is random.
        steps: Steps of the naive attack: 20, or 1 for FGSM.
        images: Number of images.
        masked: Whether it was made to hide its gradients, or gets a naive attack that is too weak.
        declared: Name of the set that was committed before its first audit, such as "third"; empty for the first two sets.
        full: Whether its suite has all of `strong`'s searches; of the others it is lighter.
        weak: Function from the ball to the naive attack of an entry of a declared set; by default the last point of PGD.
    """

    name: str
    kind: str
    data: str
    ball: Ball
    build: Build
    fit: Train | None = field(default_factory=Fit)
    ways: Ways = nothing_more
    random: bool = False
    steps: int = 20
    images: int = 100
    masked: bool = True
    declared: str = ""
    full: bool = False
    weak: Callable[[Ball], AttackFunction] | None = None

    @property
    def title(self) -> str:
        """The name with the ball."""
        return f"{self.name}, {self.ball.norm.name} {self.ball.radius:.3g}"

    def seed(self) -> int:
        """Return the seed of weights and training, which follows from the name."""
        return int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16)

    def make(self, data: Data) -> nn.Module:
        """Return the network, trained, in eval mode."""
        with temporary_seed(self.seed(), "panel"):
            torch.manual_seed(self.seed())
            model = self.build(data)
            if self.fit is not None:
                self.fit(model, data)
            return model.eval()

    def shell(self, data: Data) -> nn.Module:
        """Return the network before its training, for weights from the cache."""
        with temporary_seed(self.seed(), "panel"):
            torch.manual_seed(self.seed())
            return self.build(data).eval()

    def all_ways(self, model: nn.Module) -> list[Way]:
        """Return the network's own gradient, its smooth twin's, and the ways made for it."""
        return [Way(model), Way(twin(model)), *self.ways(model)]


def halves(entries: Sequence[Entry]) -> dict[str, str]:
    """Return by network which set it belongs to: "tuning" or "final" by the order of the names' digests, or a declared one.

    Masked and honest networks are split apart. Public networks are known to the package's tests, so they are for tuning. The
    declared sets were written when the audit was finished, and are not split.
    """
    declared = {entry.name: entry.declared for entry in entries if entry.declared}
    entries = [entry for entry in entries if not entry.declared]
    found = {entry.name: "tuning" for entry in entries if entry.kind == PUBLIC}
    for masked in (True, False):
        names = {entry.name for entry in entries if entry.masked == masked} - set(found)
        ordered = sorted(names, key=lambda name: hashlib.sha256(f"panel 27:{name}".encode()).hexdigest())
        found |= {name: ("tuning", "final")[place % 2] for place, name in enumerate(ordered)}
    return found | declared
