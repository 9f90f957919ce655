"""The smallest radius at which each image was fooled: accuracy against every radius from one search."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.attacks.acceptance import region_of
from lowcurve.data.coercion import Data
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import members_of, require_attack, require_radii, split_arguments
from lowcurve.evaluation.attack_result import CLEAN, AttackResult, require_inputs, said_of_undefined
from lowcurve.evaluation.attacking import attack
from lowcurve.evaluation.measuring import require_examples
from lowcurve.evaluation.parts import Ledger, Piece, Shard, Share, evaluate_parts, open_ledger, part_size
from lowcurve.network_calls import gradients_enabled
from lowcurve.progress import choose_progress
from lowcurve.types import AttackFunction, Progress


@dataclass(frozen=True, eq=False, repr=False)
class SmallestRadius:
    """The result of `smallest_radius`, one entry per image.

    Attributes:
        radius: Smallest radius at which the image was fooled. It is 0 for an image that was misclassified without an
            attack, and infinity for one that was never fooled. It is NaN for one that was never fooled, but where the
            network's logits are not finite at a point that was tried.
        kept_inputs: The image found there, as `inputs` returns it. For an image that was never fooled, it is the last one
            tried. None if they were not kept.
        shard: (number, shards) if the images are those of a shard, which `join` needs.

    Example:
        >>> found = SmallestRadius(np.array([0.0, 0.1, np.inf]), torch.zeros(3, 1))
        >>> found
        Smallest radius on 3 images
        0 (misclassified)  1
        found              1, from 0.1 to 0.1, median 0.1
        never fooled       1
        >>> found.robust_at([0.0, 0.1, 0.2]).mean(1).round(3).tolist()
        [0.667, 0.333, 0.333]
    """

    radius: np.ndarray
    kept_inputs: Tensor | None
    shard: tuple[int, int] | None = None

    @property
    def inputs(self) -> Tensor:
        """The images at the radii.

        Raises:
            InputError: If they were not kept.
        """
        return require_inputs(self.kept_inputs, "smallest_radius")

    def robust_at(self, radii: Sequence[float]) -> np.ndarray:
        """Return for each radius which images are robust, shape (radii, images); never more at a larger radius."""
        # Rounding to single precision may place a radius slightly above the requested number.
        return self.radius[None, :] > np.asarray(radii, dtype=np.float64)[:, None] * (1 + 1e-6)

    def __repr__(self) -> str:
        found = self.radius[(self.radius > 0) & np.isfinite(self.radius)]
        told = f", from {found.min():.3g} to {found.max():.3g}, median {np.median(found):.3g}" if len(found) else ""
        return (
            f"Smallest radius on {len(self.radius)} images\n"
            f"0 (misclassified)  {(self.radius == 0).sum()}\n"
            f"found              {len(found)}{told}\n"
            f"never fooled       {np.isinf(self.radius).sum()}"
            + (
                f"\nnot finite         {said_of_undefined(np.isnan(self.radius))}"
                if np.isnan(self.radius).any()
                else ""
            )
        )


@gradients_enabled()
def smallest_radius(
    model: nn.Module,
    images: Data,
    labels: Labels | AttackFunction | None = None,
    method: AttackFunction | None = None,
    *,
    largest: float | None = None,
    rounds: int = 7,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] | bool | None = None,
    heading: str = "attacking at every radius",
    keep_inputs: bool = True,
    ledger: Ledger | str | Path | None = None,
    shard: Shard | None = None,
    fabric: Any = None,
) -> SmallestRadius:
    """Find the smallest radius at which an attack fools the network on each image, by bisection below `largest`.

    Called as smallest_radius(model, images, labels, method) or smallest_radius(model, data, method). Each round tries
    for every image the middle between the largest radius at which it was robust and the length of the shortest
    perturbation that fooled it. The interval that remains is at most largest / 2^rounds wide. The result is an upper
    bound of the distance to the decision boundary: a stronger attack may find less.

    Args:
        model: Network. It maps pixels in [0, 1] to logits.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        method: PGD, APGD, Square, an attack of another library (`attacks.foreign`), or a `Suite` of them. Attacks that
            look for the nearest point are called once, without bisection.
        largest: Largest radius that is tried, in pixel units. By default it is the attack's own.
        rounds: Number of bisections.
        seed: Seed of the attack.
        batch_size: Images in a batch.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.
        heading: Text of the progress bar.
        keep_inputs: Keep the images at the radii. More than 256 MB of them lie in a temporary file.
        ledger: Folder or mapping that stores finished parts; see `attack`.
        shard: (number, shards) searches for every so many-th image; see `attack`.
        fabric: Lightning Fabric whose processes share the images. Each process returns the whole result.

    Raises:
        InputError: If the attack takes no radius per image, or `largest` or `rounds` are out of range.

    Cost: at most 1 + rounds times the attack, less where images are fooled early.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import PGD
        >>> found = smallest_radius(nn.Identity(), torch.tensor([[0.8, 0.5]]), [0], PGD(Ball(LINF, 0.4)), rounds=12)
        >>> round(float(found.radius[0]), 3)  # half of the margin of 0.3
        0.15
    """
    data, chosen = split_arguments(model, images, labels, method)
    require_examples(model, data)
    method = require_attack(chosen)
    members = members_of(method)
    require_radii(members)
    own = [region_of(member) for _, member in members]
    radii = [region.radius / region.reach for region in own if math.isfinite(region.radius)] or [math.inf]
    largest = radii[0] if largest is None else largest
    if all(getattr(member, "minimal", False) for _, member in members):
        rounds = 0  # one call finds the nearest point
    elif not math.isfinite(largest):
        largest = math.nan
    if not largest > 0 or rounds < 0:
        raise InputError("a largest radius above 0 and rounds of at least 0", (largest, rounds), "write largest=16/255")
    ceiling, bars = largest, choose_progress(progress, fabric)
    store = open_ledger(ledger, model, data, "smallest radius", method, seed, ceiling, rounds)

    def columns_of(piece: Piece) -> dict[str, Tensor]:
        ticks = iter(bars(range(rounds + 1), heading + piece.title))
        radius, inputs = _search(model, piece.examples, method, ceiling, rounds, seed, batch_size, ticks)
        return {"radius": torch.from_numpy(radius), **({"inputs": inputs} if keep_inputs else {})}

    needs = ("radius", *["inputs"] * keep_inputs)
    found = evaluate_parts(data, part_size(data, batch_size), columns_of, Share(fabric, shard), store, needs)
    return SmallestRadius(found["radius"].numpy(), found.get("inputs"), shard)


def _search(
    model: nn.Module,
    examples: Examples,
    method: AttackFunction,
    largest: float,
    rounds: int,
    seed: int,
    batch_size: int,
    ticks: Iterator[int],
) -> tuple[np.ndarray, Tensor]:
    """Return radii and images of some examples by bisection."""

    def attacked(some: Examples, radii: Tensor) -> AttackResult:
        return attack(model, some, method, radius=radii, seed=seed, batch_size=batch_size, progress=False)

    next(ticks, None)
    first = attacked(examples, torch.full((len(examples),), largest))
    inputs = first.inputs.clone()
    high = np.where(first.robust, np.inf, np.where(first.fooled_by == CLEAN, 0.0, first.distance)).astype(np.float64)
    high[first.undefined] = np.nan
    low = np.where(np.isfinite(high), 0.0, largest)
    for _ in ticks:
        unresolved = np.flatnonzero(np.isfinite(high) & (high - low > largest / 2**rounds))
        if not len(unresolved):
            continue
        middle = (low[unresolved] + high[unresolved]) / 2
        rows = torch.from_numpy(unresolved)
        found = attacked(examples.take(rows), torch.from_numpy(middle).float())
        fooled = ~found.robust & ~found.undefined
        low[unresolved[~fooled]] = middle[~fooled]
        high[unresolved[fooled]] = np.minimum(found.distance[fooled], middle[fooled])
        inputs[rows[torch.from_numpy(fooled)]] = found.inputs[torch.from_numpy(fooled)]
    return high, inputs
