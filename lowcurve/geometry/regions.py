"""Classification regions: who lies in one, by how much, and how a point is led into one.

The region of y is where z_y is the largest logit, by more than rounding.
"""

import math
from dataclasses import dataclass

import torch

from lowcurve import randomness
from lowcurve.analysis.calculus import require_inputs
from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, Ball
from lowcurve.errors import InputError
from lowcurve.losses import margin
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels, Logits, PerExample

ROUNDING = 16
"""So many machine epsilons of the two logits a margin must exceed, so that a batch of another size sees the same region."""


def inner_margin(model: Classifier, x: Inputs, y: Labels, *, times: float = 1.0) -> PerExample:
    """z_y - max_{k != y} z_k less what rounding may have added: above 0 in the region of y. Without a graph.

    times: so often what is allowed for rounding; whoever chooses points that others are to find in the region allows twice.
    Cost: one forward pass.

    Example:
        >>> inner_margin(torch.nn.Identity(), torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0])) > 0
        tensor([ True, False])
    """
    with torch.no_grad():
        logits = model(x)
        apart = margin(logits, y)
        true = logits.gather(1, y[:, None]).squeeze(1)
        size = torch.maximum(true.abs(), (true - apart).abs())
        return apart - times * ROUNDING * torch.finfo(logits.dtype).eps * size


@dataclass(frozen=True)
class OneVersusRest:
    """x -> (max_{k != c} z_k, z_c): the network with two classes, another one and c."""

    model: Classifier
    c: int

    def __call__(self, x: Inputs) -> Logits:
        logits = self.model(x)
        c = torch.full((len(logits), 1), self.c, device=logits.device)
        return torch.cat([logits.scatter(1, c, -torch.inf).amax(1, keepdim=True), logits.gather(1, c)], 1)


@dataclass(frozen=True)
class RegionProjection:
    """x' in the region of y and near x, by an attack that leads away from a class: here from all the classes but y.

    The attack sees `OneVersusRest(model, y)` with all labels 0, so DeepFool linearizes z_y - z_k: the targeted
    DeepFool of the paper. Where the attack does not get there, x' is wherever it ended.

    beyond: once across, x' goes so many times as far again as the attack went (clipped to the box), or a half or a quarter
    of that where the whole is outside. It decides how many anchors a path has. Where the boundary bends evenly, the way from
    a point on it to the projected middle of a chord is clear from `overshoot` = 1 on. With an
    overshoot of a few per cent the halves stay outside until they are too short for the spacing to see it, so that anchors
    count the spacing; the paper's own method is `DeepFool(bisections=0)` with `overshoot` = 0.
    Cost: one call of the attack for each class among y, up to four forward images a point.

    Example:
        >>> from lowcurve.attacks import DeepFool
        >>> x = torch.tensor([[0.3, 0.5]])  # 0.1 sqrt(2) from where the classes tie
        >>> into = RegionProjection(DeepFool(bisections=20), overshoot=1.0)
        >>> into(torch.nn.Identity(), x, torch.tensor([0]), generator=randomness.stream(0)).round(decimals=3)
        tensor([[0.5000, 0.3000]])

    Reference: Fawzi et al. 2018, Algorithm 1 (projection).
    """

    attack: AttackFunction
    overshoot: float = 1.5
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.overshoot) and self.overshoot >= 0):
            raise InputError("a way beyond the boundary of at least 0", self.overshoot, "write beyond=1.5")

    def __call__(self, model: Classifier, x: Inputs, y: Labels, *, generator: torch.Generator) -> Inputs:
        seed = int(randomness.integers((), 0, 2**62, generator=generator))
        found = x.clone()
        for c in torch.unique(y).tolist():
            rows = torch.nonzero(y == c).flatten()
            stream = randomness.stream(seed, c)
            found[rows] = self.attack(OneVersusRest(model, c), x[rows], torch.zeros_like(y[rows]), generator=stream)
        return self._deeper(model, x, found, y)

    def _deeper(self, model: Classifier, x: Inputs, found: Inputs, y: Labels) -> Inputs:
        """The points moved on along their ways, as far as that is inside the region."""
        whole, way = Ball(L2, 0.0, self.box), found - x
        rows = torch.nonzero((L2.length(way) > 0) & (self.overshoot > 0)).flatten()
        for share in (1.0, 0.5, 0.25):
            if not len(rows):
                break
            everywhere = torch.full_like(rows, torch.inf, dtype=x.dtype)
            there = whole.project(found[rows] + share * self.overshoot * way[rows], found[rows], everywhere)
            inside = inner_margin(model, there, y[rows]) > 0
            found[rows[inside]] = there[inside]
            rows = rows[~inside]
        return found


def require_endpoints(model: Classifier, start: Inputs, end: Inputs, y: Labels, *, chunk: int = 256) -> PerExample:
    """The smaller of the two ends' margins, once they are known to be different points in one region.

    Errors: InputError otherwise.
    """
    require_inputs(start)
    if start.shape != end.shape or y.shape != (len(start),):
        found = f"shapes {tuple(start.shape)}, {tuple(end.shape)} and {tuple(y.shape)}"
        raise InputError("a start, an end and a label for each pair", found, "give one row of each a pair")
    here, there = inner_margins(model, start, y, chunk), inner_margins(model, end, y, chunk)
    hint = "leave such pairs out"
    if not bool((here > 0).all()):
        raise InputError("starts that are classified as their labels", f"{_others(here)} that are not", hint)
    if not bool((there > 0).all()):
        received = f"{_others(there)} whose end is classified otherwise"
        raise InputError("two ends of one class", received, f"{hint}, or take pairs by the network's own label")
    same = L2.length(end - start)
    if not bool((same > 0).all()):
        raise InputError("two different ends", f"{_others(same)} with the same twice", hint)
    return torch.minimum(here, there)


def _others(good: PerExample) -> str:
    rows = torch.nonzero(~(good > 0)).flatten()
    return f"{len(rows)} of {len(good)} pairs (number {int(rows[0])} is the first)"


def inner_margins(model: Classifier, x: Inputs, y: Labels, chunk: int, *, times: float = 1.0) -> PerExample:
    """`inner_margin` in parts of that size."""
    parts = in_chunks(lambda part: inner_margin(model, x[part], y[part], times=times), len(x), chunk)
    return torch.cat(parts) if parts else x.new_zeros(0)
