"""Test whether points lie in the region of a class, and project points into one.

The region of y is where z_y is the largest logit by more than rounding.
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
from lowcurve.network_calls import call, rounding_of
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels, Logits, PerExample

ROUNDING = 16
"""A margin must exceed this many machine epsilons of the two logits, so that every batch size sees the same region."""


def inner_margin(model: Classifier, x: Inputs, y: Labels, *, times: float = 1.0) -> PerExample:
    """Compute z_y - max_{k != y} z_k minus an allowance for rounding; it is above 0 in the region of y.

    Args:
        model: The network.
        x: Points, shape (batch, ...).
        y: The class of each point.
        times: Factor of the allowance. Use 2 to choose points that a later pass, in a batch of another size, must
            find in the region.

    Returns:
        One margin per point, without a graph.

    Cost: one forward pass.

    Example:
        >>> inner_margin(torch.nn.Identity(), torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0])) > 0
        tensor([ True, False])
    """
    with torch.no_grad():
        logits = call(model, x)
        difference = margin(logits, y)
        true = logits.gather(1, y[:, None]).squeeze(1)
        size = torch.maximum(true.abs(), (true - difference).abs())
        return difference - times * ROUNDING * rounding_of(model, logits) * size


@dataclass(frozen=True)
class OneVersusRest:
    """A network with two logits: (max_{k != c} z_k, z_c).

    Args:
        model: The network.
        c: The class.
    """

    model: Classifier
    c: int

    def __call__(self, x: Inputs) -> Logits:
        """Compute the two logits."""
        logits = call(self.model, x)
        c = torch.full((len(logits), 1), self.c, device=logits.device)
        return torch.cat([logits.scatter(1, c, -torch.inf).amax(1, keepdim=True), logits.gather(1, c)], 1)


@dataclass(frozen=True)
class RegionProjection:
    """Move points into the region of y by an attack that leads away from all other classes.

    The attack sees `OneVersusRest(model, y)` with all labels 0, so DeepFool linearizes z_y - max_{k != y} z_k: the
    targeted DeepFool of the paper. Where the attack fails, the result is its last point.

    The overshoot decides how many anchors a path has. With an overshoot of a few per cent the halves of a segment
    stay outside until they are too short for the spacing, so the number of anchors reflects the spacing. Where the
    boundary bends evenly, an overshoot of 1 or more clears the way from a boundary point to the projected midpoint
    of a chord. The paper's own method is `DeepFool(bisections=0)` with an overshoot of 0.

    Args:
        attack: The attack, such as `DeepFool()`.
        overshoot: After crossing, the point moves on by this multiple of the attack's step, clipped to the box. It
            moves by a half or a quarter of that where the whole is outside the region.
        box: Range of the pixels.

    Cost: one call of the attack for each class in y and at most four forward images per point.

    Example:
        >>> from lowcurve.attacks import DeepFool
        >>> x = torch.tensor([[0.3, 0.5]])  # 0.1 sqrt(2) from where the classes tie
        >>> into = RegionProjection(DeepFool(bisections=20), overshoot=1.0)
        >>> into(torch.nn.Identity(), x, torch.tensor([0])).round(decimals=3)
        tensor([[0.5000, 0.3000]])

    Reference: Fawzi et al. 2018, Algorithm 1 (projection).
    """

    attack: AttackFunction
    overshoot: float = 1.5
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.overshoot) and self.overshoot >= 0):
            raise InputError("an overshoot of at least 0", self.overshoot, "write overshoot=1.5")

    def __call__(
        self, model: Classifier, x: Inputs, y: Labels, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> Inputs:
        """Move the points x into the regions of their classes y.

        Args:
            model: The network.
            x: Points, shape (batch, ...).
            y: The class into which each point is moved.
            generator: Source of the attack's random choices; by default one made from `seed`.
            seed: Seed of the random numbers, used without a generator.

        Returns:
            The moved points.
        """
        generator = generator or randomness.stream(seed, "projection")
        seed = int(randomness.integers((), 0, 2**62, generator=generator))
        found = x.clone()
        for c in torch.unique(y).tolist():
            rows = torch.nonzero(y == c).flatten()
            stream = randomness.stream(seed, c)
            found[rows] = self.attack(OneVersusRest(model, c), x[rows], torch.zeros_like(y[rows]), generator=stream)
        return self._move_further(model, x, found, y)

    def _move_further(self, model: Classifier, x: Inputs, found: Inputs, y: Labels) -> Inputs:
        """Move the points on along their steps, as far as that is inside the region."""
        box, step = Ball(L2, 0.0, self.box), found - x
        rows = torch.nonzero((L2.length(step) > 0) & (self.overshoot > 0)).flatten()
        for share in (1.0, 0.5, 0.25):
            if not len(rows):
                break
            unbounded = torch.full_like(rows, torch.inf, dtype=x.dtype)
            moved = box.project(found[rows] + share * self.overshoot * step[rows], found[rows], unbounded)
            inside = inner_margin(model, moved, y[rows]) > 0
            found[rows[inside]] = moved[inside]
            rows = rows[~inside]
        return found


def require_endpoints(model: Classifier, start: Inputs, end: Inputs, y: Labels, *, chunk: int = 256) -> PerExample:
    """Check that two ends are different points in the region of their class, and return the smaller of their margins.

    Args:
        model: The network.
        start: First ends, shape (pairs, ...).
        end: Second ends.
        y: The class of each pair.
        chunk: Batch size.

    Returns:
        The smaller inner margin of each pair.

    Raises:
        InputError: If shapes differ, an end is not classified as y, or the ends are the same point.
    """
    require_inputs(start)
    if start.shape != end.shape or y.shape != (len(start),):
        found = f"shapes {tuple(start.shape)}, {tuple(end.shape)} and {tuple(y.shape)}"
        raise InputError("a start, an end and a label for each pair", found, "give one row of each for every pair")
    start_margin, end_margin = inner_margins(model, start, y, chunk), inner_margins(model, end, y, chunk)
    hint = "leave such pairs out"
    if not bool((start_margin > 0).all()):
        raise InputError(
            "starts that are classified as their labels", f"{_count_failing(start_margin)} that are not", hint
        )
    if not bool((end_margin > 0).all()):
        received = f"{_count_failing(end_margin)} whose end is classified otherwise"
        raise InputError("two ends of one class", received, f"{hint}, or take pairs by the network's own label")
    distance = L2.length(end - start)
    if not bool((distance > 0).all()):
        raise InputError("two different ends", f"{_count_failing(distance)} with equal ends", hint)
    return torch.minimum(start_margin, end_margin)


def _count_failing(good: PerExample) -> str:
    rows = torch.nonzero(~(good > 0)).flatten()
    return f"{len(rows)} of {len(good)} pairs (number {int(rows[0])} is the first)"


def inner_margins(model: Classifier, x: Inputs, y: Labels, chunk: int, *, times: float = 1.0) -> PerExample:
    """Compute `inner_margin` in batches of size `chunk`.

    Args:
        model: The network.
        x: Points, shape (batch, ...).
        y: The class of each point.
        chunk: Batch size.
        times: Factor of the allowance for rounding.

    Returns:
        One margin per point.
    """
    parts = in_chunks(lambda part: inner_margin(model, x[part], y[part], times=times), len(x), chunk)
    return torch.cat(parts) if parts else x.new_zeros(0)
