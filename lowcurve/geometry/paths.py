"""Find paths within the region of a class, from one point to another, without leaving the region.

The region of y is where the network predicts y. A path is piecewise linear. Lengths are l_2 in pixel units.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.geometry.regions import inner_margins, require_endpoints
from lowcurve.geometry.segments import Segments, cover_segments, sample_segments
from lowcurve.models.modes import frozen
from lowcurve.types import AttackFunction, Classifier, Inputs, Labels, Measure, PerExample

FOUND = ""


@dataclass(frozen=True)
class Paths:
    """One path per pair, where one was found.

    "No path found" within the limits of a search never means that there is none.

    Attributes:
        anchors: Shape (pairs, most anchors, ...), from start to end. The end is repeated where a pair has fewer.
        counts: Number of a pair's own anchors. It is 0 where no path was found. The anchors are then start and end.
        y: The class of each pair.
        found: True where a path was found.
        failure: Limit that stopped the search: "depth", "anchors", "forward_passes" or "projection". It is "" where a
            path was found.
        spacing: Spacing of the samples. No sample lies outside. It is nan for paths that were not tested.
        certified: True where balls of certified radius cover the path. This proves that it stays inside.
        clearance: The smallest margin at a sample or anchor of the path. It is nan where none was found.
        forward_passes: Forward images spent on validation.
        projections: Points that were moved into the region. Each costs one call of the projection.
    """

    anchors: Tensor
    counts: Tensor
    y: Labels
    found: Tensor
    failure: tuple[str, ...]
    spacing: PerExample
    certified: Tensor
    clearance: PerExample
    forward_passes: Tensor
    projections: Tensor

    @classmethod
    def through(cls, anchors: Tensor, y: Labels) -> "Paths":
        """Return paths through these anchors, untested.

        Args:
            anchors: Shape (pairs, anchors, ...).
            y: The class of each pair.

        Returns:
            The paths.

        Example:
            >>> Paths.through(torch.tensor([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]]), torch.tensor([1])).counts
            tensor([3])
        """
        counts = torch.full_like(y, anchors.shape[1])
        unknown = torch.full(y.shape, torch.nan, dtype=anchors.dtype, device=y.device)
        found, zeros = torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y)
        failure = (FOUND,) * len(y)
        return cls(anchors, counts, y, found, failure, unknown, ~found, unknown, zeros, zeros)

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def start(self) -> Inputs:
        """The starts of the paths."""
        return self.anchors[:, 0]

    @property
    def end(self) -> Inputs:
        """The ends of the paths."""
        return self.anchors[:, -1]

    def take(self, rows: Tensor) -> "Paths":
        """Select the paths of some pairs, with no more padding than they need."""
        most = max(2, int(self.counts[rows].max()) if len(rows) else 2)
        few = {
            name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name not in ("anchors", "failure")
        }
        return Paths(self.anchors[rows, :most], failure=tuple(self.failure[row] for row in rows.tolist()), **few)

    def segments(self) -> tuple[Segments, Tensor]:
        """Return the segments of all paths found, and the pair of each."""
        places = torch.arange(self.anchors.shape[1] - 1, device=self.counts.device)
        pair, place = torch.nonzero(places < self.counts[:, None] - 1, as_tuple=True)
        return Segments(self.anchors[pair, place], self.anchors[pair, place + 1], self.y[pair]), pair

    def statements(self) -> tuple[str, ...]:
        """Describe the result of each pair in words."""
        known = []
        for failure, spacing, certified in zip(
            self.failure, self.spacing.tolist(), self.certified.tolist(), strict=True
        ):
            held = f"no violation at spacing {spacing:.3g}" if spacing > 0 else "not tested"
            known.append(
                f"no path found ({failure})" if failure else held + (", certified in between" if certified else "")
            )
        return tuple(known)


@dataclass(frozen=True)
class PathSearch:
    """Find a path from start to end within the region of y.

    The straight segment is sampled at the spacing, coarse to fine, up to the first violation. If there is one, the
    midpoint is moved into the region by `projection`, unless it is inside already, and both halves are treated in
    the same way. Open segments of all pairs share full batches, round by round; the result of a pair depends on
    that pair alone.

    A search stops at its limits and reports the one it met: "depth", "anchors", "forward_passes", or "projection"
    where the projection ended outside. Searches across a disconnected region end so, but so may searches in a
    connected one.

    Args:
        projection: (model, x, y) -> x' in the region of y, such as `RegionProjection(DeepFool())`.
        spacing: Spacing of the samples, l_2 in pixel units, for all pairs or one per pair. The paper's is 1e-4
            times the distance of the ends. Between two samples nothing is known, unless the path is certified.
        depth: Maximum number of halvings.
        anchors: Maximum number of anchors per pair.
        forward_passes: Forward images per pair. No segment is halved after them. The projection's steps are limited by
            its own options.
        certificate: None, or a measure with the column "certified radius" that holds for this model, such as
            `CertifiedRadius`. Segments without a violation are then covered with balls; a path whose segments are
            all covered is certified. A ball's center outside the region counts as a violation.
        balls: Maximum number of balls per segment.
        chunk: Batch size.

    Cost: length / spacing forward images per path, some for violations, and the projections.

    Example:
        >>> from lowcurve.attacks import DeepFool
        >>> from lowcurve.geometry.regions import RegionProjection
        >>> search = PathSearch(RegionProjection(DeepFool()), spacing=0.01)
        >>> start, end = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.5]])
        >>> paths = search(torch.nn.Identity(), start, end, torch.tensor([0]))
        >>> paths.counts, paths.statements()  # half a plane is convex
        (tensor([2]), ('no violation at spacing 0.01',))

    Reference: Fawzi et al. 2018, Algorithm 1; bardusco_report, section 2.2.
    """

    projection: AttackFunction
    spacing: float | PerExample = 0.01
    depth: int = 14
    anchors: int = 500
    forward_passes: int = 200_000
    certificate: Measure | None = None
    balls: int = 1000
    chunk: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.depth <= 40 or min(self.forward_passes, self.balls) < 1 or self.anchors < 2:
            found = (self.depth, self.anchors, self.forward_passes, self.balls)
            raise InputError(
                "a depth from 1 to 40, two anchors, a forward pass and a ball", found, "write PathSearch(depth=14)"
            )

    def __call__(
        self,
        model: Classifier,
        start: Inputs,
        end: Inputs,
        y: Labels,
        *,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Paths:
        """Search one path per pair; the model runs in eval mode.

        Args:
            model: The network.
            start: Starts, shape (pairs, ...).
            end: Ends, of the same shape.
            y: The class of each pair.
            generator: Source of the projection's random choices; by default one made from `seed`.
            seed: Seed of the random numbers, used without a generator.

        Returns:
            The paths.

        Raises:
            InputError: If an end is not classified as y or both ends are the same point.
        """
        generator = generator or randomness.stream(seed, "paths")
        with frozen(model):
            clearance = require_endpoints(model, start, end, y, chunk=self.chunk)
            spacing = _spacings(self.spacing, start)
            seed = int(randomness.integers((), 0, 2**62, generator=generator))
            state, open_ = _State.initial(start, end, clearance), _Open.initial(start, end, y)
            for depth in range(self.depth + 1):
                failing = self._find_failing(model, state, open_, spacing)
                self._close(state, failing.pair, depth)
                failing = failing.take(torch.nonzero(state.failure[failing.pair] == 0).flatten())
                if not len(failing.pair):
                    break
                open_ = self._halve(model, state, failing, randomness.stream(seed, "projection", depth))
            return state.paths(start, end, y, spacing)

    def _find_failing(self, model: Classifier, state: "_State", open_: "_Open", spacing: PerExample) -> "_Open":
        """Test the open segments and return those seen to leave the region; the others are closed."""
        seen = sample_segments(model, open_.segments, spacing[open_.pair], chunk=self.chunk)
        clear = seen.clear
        state.forward_passes.index_add_(0, open_.pair, seen.forward_passes)
        if self.certificate is not None:
            rows = torch.nonzero(clear).flatten()
            segments, pair = open_.segments.take(rows), open_.pair[rows]
            cover = cover_segments(model, segments, self.certificate, most=self.balls, chunk=self.chunk)
            state.forward_passes.index_add_(0, pair, cover.forward_passes)
            clear = clear.index_put((rows,), ~cover.outside)
            state.uncertain[pair[~cover.certified & ~cover.outside]] = True
        else:
            state.uncertain[open_.pair] = True
        done, failing = torch.nonzero(clear).flatten(), torch.nonzero(~clear).flatten()
        state.clearance.scatter_reduce_(0, open_.pair[done], seen.clearance[done], "amin")
        return open_.take(failing)

    def _close(self, state: "_State", pair: Tensor, depth: int) -> None:
        """Give up the pairs of these failing segments that have met a limit."""
        state.close(pair[state.forward_passes[pair] > self.forward_passes], "forward_passes")
        counts = state.counts().index_add(0, pair, torch.ones_like(pair))
        state.close(pair[counts[pair] > self.anchors], "anchors")
        if depth == self.depth:
            state.close(pair, "depth")

    def _halve(self, model: Classifier, state: "_State", failing: "_Open", stream: torch.Generator) -> "_Open":
        """Return both halves of these segments at a new anchor: the midpoint, moved into the region if outside."""
        segments, pair = failing.segments, failing.pair
        middle, y = (segments.start + segments.end) / 2, segments.y
        seen = inner_margins(model, middle, y, self.chunk)
        state.forward_passes.index_add_(0, pair, torch.ones_like(pair))
        rows = torch.nonzero(~(seen > 0)).flatten()
        if len(rows):
            middle[rows] = self.projection(model, middle[rows], y[rows], generator=stream).detach()
            seen[rows] = inner_margins(model, middle[rows], y[rows], self.chunk)
            state.forward_passes.index_add_(0, pair[rows], torch.ones_like(rows))
            state.projections.index_add_(0, pair[rows], torch.ones_like(rows))
        state.close(pair[~(seen > 0)], "projection")
        remaining = torch.nonzero(state.failure[pair] == 0).flatten()
        return state.insert_anchors(failing.take(remaining), middle[remaining], seen[remaining])


LIMITS = (FOUND, "depth", "anchors", "forward_passes", "projection")


@dataclass(frozen=True)
class _Open:
    """Segments still to be tested, with the pair of each and its start and end as shares of the whole, in halvings."""

    pair: Tensor
    low: Tensor
    high: Tensor
    segments: Segments

    @classmethod
    def initial(cls, start: Inputs, end: Inputs, y: Labels) -> "_Open":
        pair = torch.arange(len(start), device=start.device)
        low = torch.zeros(len(start), dtype=torch.float64, device=start.device)
        return cls(pair, low, low + 1, Segments(start, end, y))

    def take(self, rows: Tensor) -> "_Open":
        return _Open(self.pair[rows], self.low[rows], self.high[rows], self.segments.take(rows))


@dataclass
class _State:
    """All anchors with their pairs and positions, and the counters of each pair."""

    anchors: Tensor
    pair: Tensor
    place: Tensor
    failure: Tensor
    uncertain: Tensor
    clearance: PerExample
    forward_passes: Tensor
    projections: Tensor

    @classmethod
    def initial(cls, start: Inputs, end: Inputs, clearance: PerExample) -> "_State":
        pair = torch.arange(len(start), device=start.device)
        zeros = torch.zeros_like(pair)
        place = torch.cat([zeros, zeros + 1]).double()
        ends = torch.cat([start, end]), torch.cat([pair, pair]), place
        return cls(*ends, zeros, zeros.bool(), clearance, zeros.clone(), zeros.clone())

    def close(self, pair: Tensor, limit: str) -> None:
        """Give these pairs up, unless they already have been for another reason."""
        self.failure[pair] = torch.where(self.failure[pair] == 0, LIMITS.index(limit), self.failure[pair])

    def counts(self) -> Tensor:
        """Count the anchors of each pair."""
        return torch.zeros_like(self.failure).index_add(0, self.pair, torch.ones_like(self.pair))

    def insert_anchors(self, parts: _Open, middle: Inputs, clearance: PerExample) -> _Open:
        """Enter the new anchors and return the halves of the segments."""
        place, segments = (parts.low + parts.high) / 2, parts.segments
        self.anchors = torch.cat([self.anchors, middle])
        self.pair, self.place = torch.cat([self.pair, parts.pair]), torch.cat([self.place, place])
        self.clearance.scatter_reduce_(0, parts.pair, clearance, "amin")
        left, right = replace(segments, end=middle), replace(segments, start=middle)
        both = Segments(
            *(torch.cat(ends) for ends in ((left.start, right.start), (left.end, right.end), (left.y, right.y)))
        )
        return _Open(
            torch.cat([parts.pair, parts.pair]), torch.cat([parts.low, place]), torch.cat([place, parts.high]), both
        )

    def paths(self, start: Inputs, end: Inputs, y: Labels, spacing: PerExample) -> Paths:
        """Collect the anchors of each pair in order."""
        found = self.failure == 0
        counts = torch.where(found, self.counts(), 0)
        order = self.place.argsort(stable=True)
        order = order[self.pair[order].argsort(stable=True)]
        order = order[found[self.pair[order]]]
        most = max(2, int(counts.max()) if len(counts) else 2)
        anchors = end[:, None].repeat(1, most, *[1] * (end.ndim - 1))
        anchors[:, 0] = start
        pair = self.pair[order]
        number = torch.arange(len(order), device=pair.device) - (counts.cumsum(0) - counts)[pair]
        anchors[pair, number] = self.anchors[order]
        clearance = torch.where(found, self.clearance, torch.nan)
        failure = tuple(LIMITS[code] for code in self.failure.tolist())
        certified = found & ~self.uncertain
        return Paths(
            anchors, counts, y, found, failure, spacing, certified, clearance, self.forward_passes, self.projections
        )


def _spacings(spacing: float | PerExample, start: Inputs) -> PerExample:
    """Return one spacing per pair."""
    spacings = torch.as_tensor(spacing, device=start.device).to(start.dtype)
    if spacings.shape not in ((), (len(start),)) or not bool((torch.isfinite(spacings) & (spacings > 0)).all()):
        received = f"{tuple(spacings.shape)} numbers, some not above 0" if spacings.ndim else f"{float(spacings):g}"
        raise InputError("a finite spacing above 0, for all pairs or one a pair", received, "write spacing=0.01")
    return spacings.expand(len(start))
