"""The smallest radius at which each image was fooled: accuracy against every radius from one search."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.analysis.norms import Norm
from lowcurve.attacks import Suite, minimum_norm
from lowcurve.attacks.acceptance import region_of
from lowcurve.attacks.base import Attack
from lowcurve.data.coercion import Data
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.data.streams import Stream, count_of
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import members_of, require_attack, require_batch_size, split_arguments
from lowcurve.evaluation.attack_result import AttackResult, require_inputs, said_of_undefined
from lowcurve.evaluation.attacking import attack, norm_of
from lowcurve.evaluation.columns import Columns
from lowcurve.evaluation.measuring import correct, require_examples
from lowcurve.evaluation.parts import Ledger, Piece, Shard, Share, evaluate_parts, open_ledger, part_size
from lowcurve.network_calls import gradients_enabled, input_like
from lowcurve.progress import choose_progress
from lowcurve.types import AttackFunction, Progress

Method = AttackFunction | Norm | str
"""An attack, or a norm for the minimum-norm attack."""


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

    @property
    def fooled(self) -> np.ndarray:
        """For each image, whether the network misclassifies it, without an attack or at the radius."""
        return np.asarray(np.isfinite(self.radius))

    @property
    def distance(self) -> np.ndarray:
        """The radius, which is the distance of the image and `inputs`."""
        return self.radius

    def robust_at(self, radii: Sequence[float]) -> np.ndarray:
        """Return for each radius which images are robust, shape (radii, images); never more at a larger radius."""
        # Rounding to single precision may place a radius slightly above the requested number.
        return self.radius[None, :] > np.asarray(radii, dtype=np.float64)[:, None] * (1 + 1e-6)

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per image: radius, fooled."""
        return Columns({"radius": self.radius, "fooled": self.fooled}).to_pandas()

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
    labels: Labels | Method | None = None,
    method: Method | None = None,
    *,
    known: Sequence[AttackResult | SmallestRadius] = (),
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
    """Find the smallest radius at which an attack fools the network on each image.

    Called as smallest_radius(model, images, labels, method) or smallest_radius(model, data, method). A minimum-norm attack
    gives each image's radius at once. An attack inside a ball is repeated at several radii: each round tries for every
    image the middle between the largest radius at which it was robust and the shortest perturbation that fooled it. The
    interval that remains is at most largest / 2^rounds wide. In a suite, minimum-norm attacks are tried first. The result
    is an upper bound of the distance to the decision boundary: a stronger attack may find less.

    Args:
        model: Network. It maps pixels in [0, 1] to logits.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        method: "l2", "linf" or a norm, for `minimum_norm`; an attack with a norm and no radius, such as `MinimalNorm` or
            `DeepFool`; PGD, APGD, Square; an attack of another library (`attacks.foreign`); or a `Suite` of them.
        known: Results of `attack` or `smallest_radius` on the same network and images. An image that they fooled has at
            most their distance. Where the minimum-norm attack found no less, it is tried again from their point.
        largest: Largest radius that is tried, in pixel units. By default it is the attack's own. Minimum-norm attacks know
            none.
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
        InputError: If the attack has neither a norm nor a radius per image, `largest` or `rounds` are out of range, or the
            known results are not of these images.

    Cost: that of the minimum-norm attack, or at most 1 + rounds times the attack inside a ball, less where images are
        fooled early.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import PGD
        >>> x, y = torch.tensor([[0.8, 0.5]]), [0]
        >>> found = smallest_radius(nn.Identity(), x, y, "linf")
        >>> round(float(found.radius[0]), 3)  # half of the margin of 0.3
        0.15
        >>> coarse = smallest_radius(nn.Identity(), x, y, PGD(Ball(LINF, 0.4)), rounds=4)
        >>> bool(coarse.radius[0] >= found.radius[0])
        True
    """
    require_batch_size(batch_size)
    data, chosen = split_arguments(model, images, labels, method)
    few = require_examples(model, data)
    method = minimum_norm(chosen) if isinstance(chosen, str | Norm) else require_attack(chosen)
    free, inside = _kinds_of(method)
    if inside is not None and largest is None:
        largest = min(region.radius / region.reach for _, member in members_of(inside) if (region := region_of(member)))
    if (largest is not None and not (np.isfinite(largest) and largest > 0)) or rounds < 0:
        raise InputError("a largest radius above 0 and rounds of at least 0", (largest, rounds), "write largest=16/255")
    for result in known:
        _require_same_images(result, data, few, shard)
    norm, bars = norm_of(method), choose_progress(progress, fabric)
    distances = [torch.from_numpy(result.distance) for result in known]
    store = open_ledger(ledger, model, data, "smallest radius", method, seed, largest, rounds, *distances)
    share = Share(fabric, shard)

    def columns_of(piece: Piece) -> dict[str, Tensor]:
        search = _Search(model, piece.examples, norm, seed, batch_size)
        for result in known:
            search.record_known(result, share.places(piece.rows))
        ticks = iter(bars(range(len(free) + (inside is not None) * (rounds + 1)), heading + piece.title))
        for member in free:
            next(ticks, None)
            search.minimize(member)
        if inside is not None:
            search.bisect(inside, float(largest or 0), rounds, ticks)
        next(ticks, None)
        columns = {"radius": torch.from_numpy(search.radius), "inputs": search.inputs}
        return {name: columns[name] for name in needs}

    needs = ("radius", *["inputs"] * keep_inputs)
    found = evaluate_parts(data, part_size(data, batch_size), columns_of, share, store, needs)
    return SmallestRadius(found["radius"].numpy(), found.get("inputs"), shard)


def _kinds_of(method: AttackFunction) -> tuple[list[AttackFunction], AttackFunction | None]:
    """Return the minimum-norm attacks of a suite, and the others as one attack.

    Raises:
        InputError: If an attack has neither a norm nor a radius for each image.
    """
    free: list[AttackFunction] = []
    inside: list[tuple[str, AttackFunction]] = []
    for name, member in members_of(method):
        takes_radius = getattr(member, "takes_radius", False)
        if takes_radius and not getattr(member, "minimal", False):
            inside.append((name, member))
        elif takes_radius or (getattr(member, "norm", None) is not None and np.isinf(region_of(member).radius)):
            free.append(member)
        else:
            hint = 'write "l2" or "linf", or use MinimalNorm, DeepFool, PGD, APGD, Square or a Suite of them'
            raise InputError("an attack with a norm, or one that takes a radius for each image", name, hint)
    if not inside:
        return free, None
    return free, method if not free else Suite(tuple(inside))


class _Search:
    """The smallest radii of some examples so far, and the images there.

    Attributes:
        radius: 0 for misclassified images. Infinite where nothing has fooled the network yet, and NaN there if its logits
            were not finite at a point that was tried.
        inputs: The images at the radii. Where nothing has fooled the network, the last ones that were tried.
    """

    def __init__(self, model: nn.Module, examples: Examples, norm: Norm, seed: int, batch_size: int) -> None:
        self.model, self.examples, self.norm = model, examples, norm
        self.seed, self.batch_size = seed, batch_size
        self.x = examples.pixels(slice(None)).to(input_like(model).dtype).cpu()
        self.inputs = self.x.clone()
        self.radius = np.where(correct(model, examples, batch_size=batch_size), np.inf, 0.0)

    def record(
        self,
        rows: np.ndarray,
        inputs: Tensor,
        fooled: np.ndarray,
        undefined: np.ndarray,
        most: np.ndarray | None = None,
    ) -> None:
        """Keep the images that fool the network nearer than before. A distance above `most` is due to rounding."""
        distance = self.norm.length(inputs - self.x[rows]).double().numpy()
        distance = distance if most is None else np.minimum(distance, most)
        nearer = fooled & ~(distance >= self.radius[rows])
        kept = nearer | ~np.isfinite(self.radius[rows])
        self.radius[rows[nearer]] = distance[nearer]
        self.radius[rows[undefined & np.isinf(self.radius[rows])]] = np.nan
        self.inputs[rows[kept]] = inputs[kept]

    def attack(
        self, rows: np.ndarray, method: AttackFunction, radii: np.ndarray | None = None, start: Tensor | None = None
    ) -> AttackResult:
        """Attack some images and record the answers."""
        some = self.examples.take(torch.from_numpy(rows))
        radius = None if radii is None else torch.from_numpy(radii).float()
        found = attack(
            self.model,
            some,
            method,
            seed=self.seed,
            radius=radius,
            start=start,
            batch_size=self.batch_size,
            progress=False,
        )
        self.record(rows, found.inputs, found.fooled, found.undefined, radii)
        return found

    def record_known(self, result: AttackResult | SmallestRadius, places: Tensor) -> None:
        """Record the images of an earlier result.

        Args:
            result: The result.
            places: The places of the examples in it.
        """
        fooled = result.fooled[places.numpy()]
        rows = np.flatnonzero(fooled & (self.radius > 0))
        inputs = result.inputs[places[rows]].to(self.x)
        self.record(rows, inputs, fooled[rows], np.zeros(len(rows), dtype=bool))

    def minimize(self, member: AttackFunction) -> None:
        """Try a minimum-norm attack, and once more from the known image where the answer is no nearer than that."""
        rows, before = np.flatnonzero(self.radius != 0), self.radius.copy()
        if not len(rows):
            return
        self.attack(rows, member)
        left = np.flatnonzero(np.isfinite(before) & (before > 0) & (self.radius == before))
        if len(left) and isinstance(member, Attack) and member.takes_start:
            self.attack(left, member, start=self.inputs[left].clone())

    def bisect(self, method: AttackFunction, largest: float, rounds: int, ticks: Iterator[int]) -> None:
        """Repeat an attack at radii between those that withstood and those that did not."""
        next(ticks, None)
        rows = np.flatnonzero(~(self.radius <= largest))
        if len(rows):
            self.attack(rows, method, np.full(len(rows), largest))
        low = np.zeros(len(self.radius))
        for _ in ticks:
            wide = self.radius - low > largest / 2**rounds
            unresolved = np.flatnonzero((self.radius <= largest) & wide)
            if not len(unresolved):
                continue
            middle = (low[unresolved] + self.radius[unresolved]) / 2
            found = self.attack(unresolved, method, middle)
            low[unresolved[~found.fooled]] = middle[~found.fooled]


def _require_same_images(result: object, data: Examples | Stream, few: Tensor, shard: Shard | None) -> None:
    """Refuse a known result that is none, or of other images."""
    if not isinstance(result, AttackResult | SmallestRadius):
        raise InputError("results of attack or smallest_radius", type(result).__name__, "write known=[attacked]")
    count = len(result.inputs) if shard or count_of(data) is None else count_of(data)
    wanted, given = (count, *few.shape[1:]), tuple(result.inputs.shape)
    if wanted != given or result.shard != shard:
        raise InputError(
            f"known results on the same images, of shape {wanted}, with shard={shard}",
            f"shape {given}, shard={result.shard}",
            "attack the same images first",
        )
