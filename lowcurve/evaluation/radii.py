"""The smallest radius at which each example was fooled: accuracy against every radius from one sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.attacks import Suite
from lowcurve.attacks.active_set import IterativeAttack
from lowcurve.data.batches import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.attacking import WRONG, attack
from lowcurve.types import AttackFunction, Progress, silent


@dataclass(frozen=True)
class SmallestRadius:
    """radius: at which each example fell, 0 where it was wrong before, infinity where it never did. inputs: what fooled it.

    Example:
        >>> found = SmallestRadius(np.array([0.0, 0.1, np.inf]), torch.zeros(3, 1))
        >>> found.robust_at([0.0, 0.1, 0.2]).mean(1).round(3).tolist()
        [0.667, 0.333, 0.333]
    """

    radius: np.ndarray
    inputs: Tensor

    def robust_at(self, radii: Sequence[float]) -> np.ndarray:
        """Who stands at each of these radii, shape (radii, examples): never more at a larger one."""
        # A radius in single precision may lie a little above the number that it was meant to be.
        return self.radius[None, :] > np.asarray(radii, dtype=np.float64)[:, None] * (1 + 1e-6)


def smallest_radius(
    model: nn.Module,
    examples: Examples,
    method: AttackFunction,
    *,
    largest: float,
    rounds: int = 7,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] = silent,
    heading: str = "attacking at every radius",
    fabric: Any = None,
) -> SmallestRadius:
    """For each example the smallest radius at which the attack fooled it, by bisection below `largest`.

    Every example has a radius of its own in each round: half way between the largest at which it stood and the length of
    the shortest perturbation that fooled it. What remains open is at most largest / 2^rounds wide. An upper bound of the
    distance to the boundary: a stronger attack may find less.

    Cost: at most 1 + rounds times the attack, and less where examples fall early.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import PGD
        >>> points = Examples(torch.tensor([[0.8, 0.5]]), torch.tensor([0]), ("a", "b"))
        >>> found = smallest_radius(nn.Identity(), points, PGD(Ball(LINF, 0.4)), largest=0.4, rounds=12)
        >>> round(float(found.radius[0]), 3)  # half of the margin of 0.3
        0.15
    """
    members = method.members if isinstance(method, Suite) else ((type(method).__name__, method),)
    for name, member in members:
        if not isinstance(member, IterativeAttack):
            hint = "use PGD, APGD, Square or a Suite of them"
            raise InputError("an attack that takes a radius an example", name, hint)
    if not (np.isfinite(largest) and largest > 0) or rounds < 0:
        raise InputError("a largest radius above 0 and rounds of at least 0", (largest, rounds), "write largest=16/255")
    shared = {"seed": seed, "batch_size": batch_size, "fabric": fabric}
    radii = torch.full((len(examples),), largest)
    ticks = iter(progress(range(rounds + 1), heading))
    next(ticks, None)
    left = attack(model, examples, method, radius=radii, **shared)
    inputs = left.inputs.clone()
    high = np.where(left.robust, np.inf, np.where(left.fallen_to == WRONG, 0.0, left.distance)).astype(np.float64)
    low = np.where(np.isfinite(high), 0.0, largest)
    for _ in ticks:
        open_ = np.flatnonzero(np.isfinite(high) & (high - low > largest / 2**rounds))
        if not len(open_):
            continue
        middle = (low[open_] + high[open_]) / 2
        rows = torch.from_numpy(open_)
        own = torch.from_numpy(middle).float()
        found = attack(model, examples.take(rows), method, radius=own, **shared)
        fell = ~found.robust
        low[open_[~fell]] = middle[~fell]
        high[open_[fell]] = np.minimum(found.distance[fell], middle[fell])
        inputs[rows[torch.from_numpy(fell)]] = found.inputs[torch.from_numpy(fell)]
    return SmallestRadius(high, inputs)
