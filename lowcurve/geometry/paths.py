"""Paths within classification regions: from one point to another of the same class without leaving its region.

The region of y is where the network says y. A path is piecewise linear, and lengths are l_2, in pixel units.
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
    """One path a pair, as far as found.

    anchors: (pairs, most anchors, ...), from the start to the end, which is repeated where a pair has fewer; counts: how many
    are a pair's own, 0 where no path was found (the anchors are then start and end alone). found; why: FOUND, or the name of
    the cap that a pair ran into: "no path found" within these caps never means that there is none. spacing: of the
    samples, none of which lay outside; certified: whether balls of certified radius cover the path besides, a proof.
    clearance: the smallest margin at any sample or anchor of the path, nan where not found. looks: forward images spent by
    validation; projections: points that were led into the region (each costs what the projection costs).
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
        """Paths through these anchors, (pairs, anchors, ...), of which nothing has been looked at.

        Example:
            >>> Paths.through(torch.tensor([[[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]]), torch.tensor([1])).counts
            tensor([3])
        """
        counts = torch.full_like(y, anchors.shape[1])
        unknown = torch.full(y.shape, torch.nan, dtype=anchors.dtype, device=y.device)
        found, nothing = torch.ones_like(y, dtype=torch.bool), torch.zeros_like(y)
        failure = (FOUND,) * len(y)
        return cls(anchors, counts, y, found, failure, unknown, ~found, unknown, nothing, nothing)

    def __len__(self) -> int:
        return len(self.anchors)

    @property
    def start(self) -> Inputs:
        """Where the paths begin."""
        return self.anchors[:, 0]

    @property
    def end(self) -> Inputs:
        """Where they end."""
        return self.anchors[:, -1]

    def take(self, rows: Tensor) -> "Paths":
        """The paths of some of the pairs, with no more padding than they need."""
        most = max(2, int(self.counts[rows].max()) if len(rows) else 2)
        few = {
            name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name not in ("anchors", "failure")
        }
        return Paths(self.anchors[rows, :most], failure=tuple(self.failure[row] for row in rows.tolist()), **few)

    def segments(self) -> tuple[Segments, Tensor]:
        """The straight pieces of all paths found, and the number of the pair that each belongs to."""
        places = torch.arange(self.anchors.shape[1] - 1, device=self.counts.device)
        pair, place = torch.nonzero(places < self.counts[:, None] - 1, as_tuple=True)
        return Segments(self.anchors[pair, place], self.anchors[pair, place + 1], self.y[pair]), pair

    def statements(self) -> tuple[str, ...]:
        """What is known of each pair, in words."""
        known = []
        for failure, spacing, certified in zip(
            self.failure, self.spacing.tolist(), self.certified.tolist(), strict=True
        ):
            held = f"no violation at spacing {spacing:.3g}" if spacing > 0 else "not looked at"
            known.append(
                f"no path found ({failure})" if failure else held + (", certified in between" if certified else "")
            )
        return tuple(known)


@dataclass(frozen=True)
class PathSearch:
    """A path from start to end within the region of y: straight where that stays inside, else by way of the projected middle.

    Each segment is sampled at the spacing, coarse to fine up to the first violation. Where there is one, the middle
    is led into the region by `projection`, unless it is there already, and both halves are treated alike. All open segments of
    all pairs share full batches, round by round; what becomes of a pair depends on it alone.

    projection: (model, x, y) -> x' in the region of y, such as `RegionProjection(DeepFool())`.
    spacing: an l_2 length in pixel units, for all pairs or one a pair; the paper's is 1e-4 times the distance of the ends.
    Between two samples there may be anything, unless certified.
    Caps a pair: `depth` (halvings), `anchors`, `forward_passes` (no more halving
    once they are spent). Whoever meets one
    is "no path found", for that reason: "depth", "anchors", "forward_passes", or "projection", where that ended
    outside. Regions that
    are not connected end so, but so may a connected one. Gradients are capped by the projection's own steps.
    certificate: None, or a measure with "certified radius" that holds for this model (`CertifiedRadius`): segments without
    violation are then covered with balls, at most `balls` a segment, and a path all of whose segments are covered is
    certified. A violation that a ball's center meets counts as the samples' do.

    Called: start, end, y of one length. The model runs in eval mode. Errors: InputError where an end is not of class y, where
    ends have different classes or are the same point.
    Cost: length / spacing forward images for a path, those that a violation wasted (few, by the order), the projections.

    Example:
        >>> from lowcurve.attacks import DeepFool
        >>> from lowcurve.geometry.regions import RegionProjection
        >>> search = PathSearch(RegionProjection(DeepFool()), spacing=0.01)
        >>> start, end = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.5]])
        >>> paths = search(torch.nn.Identity(), start, end, torch.tensor([0]), generator=randomness.stream(0))
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
                "a depth from 1 to 40, two anchors, a look and a ball", found, "write PathSearch(depth=14)"
            )

    def __call__(
        self, model: Classifier, start: Inputs, end: Inputs, y: Labels, *, generator: torch.Generator
    ) -> Paths:
        with frozen(model):
            clearance = require_endpoints(model, start, end, y, chunk=self.chunk)
            spacing = _spacings(self.spacing, start)
            seed = int(randomness.integers((), 0, 2**62, generator=generator))
            state, open_ = _State.begun(start, end, clearance), _Open.begun(start, end, y)
            for depth in range(self.depth + 1):
                failing = self._failing(model, state, open_, spacing)
                self._close(state, failing.pair, depth)
                failing = failing.take(torch.nonzero(state.failure[failing.pair] == 0).flatten())
                if not len(failing.pair):
                    break
                open_ = self._halved(model, state, failing, randomness.stream(seed, "projection", depth))
            return state.paths(start, end, y, spacing)

    def _failing(self, model: Classifier, state: "_State", open_: "_Open", spacing: PerExample) -> "_Open":
        """Those of the open segments that were seen to leave the region; the others are closed."""
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
        """Give up the pairs of these failing segments that have run into a cap."""
        state.close(pair[state.forward_passes[pair] > self.forward_passes], "forward_passes")
        counts = state.counts().index_add(0, pair, torch.ones_like(pair))
        state.close(pair[counts[pair] > self.anchors], "anchors")
        if depth == self.depth:
            state.close(pair, "depth")

    def _halved(self, model: Classifier, state: "_State", failing: "_Open", stream: torch.Generator) -> "_Open":
        """The halves of these segments on both sides of a new anchor: their middle, or where the projection led it."""
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
        kept = torch.nonzero(state.failure[pair] == 0).flatten()
        return state.joined(failing.take(kept), middle[kept], seen[kept])


CAPS = (FOUND, "depth", "anchors", "forward_passes", "projection")


@dataclass(frozen=True)
class _Open:
    """Segments whose fate is open: the pair that each belongs to, and the share of the way at which it begins and ends,
    counted in halvings."""

    pair: Tensor
    low: Tensor
    high: Tensor
    segments: Segments

    @classmethod
    def begun(cls, start: Inputs, end: Inputs, y: Labels) -> "_Open":
        pair = torch.arange(len(start), device=start.device)
        low = torch.zeros(len(start), dtype=torch.float64, device=start.device)
        return cls(pair, low, low + 1, Segments(start, end, y))

    def take(self, rows: Tensor) -> "_Open":
        return _Open(self.pair[rows], self.low[rows], self.high[rows], self.segments.take(rows))


@dataclass
class _State:
    """What a search knows: all anchors with their pairs and places, and a tally of each pair."""

    anchors: Tensor
    pair: Tensor
    place: Tensor
    failure: Tensor
    uncertain: Tensor
    clearance: PerExample
    forward_passes: Tensor
    projections: Tensor

    @classmethod
    def begun(cls, start: Inputs, end: Inputs, clearance: PerExample) -> "_State":
        pair = torch.arange(len(start), device=start.device)
        nothing = torch.zeros_like(pair)
        place = torch.cat([nothing, nothing + 1]).double()
        ends = torch.cat([start, end]), torch.cat([pair, pair]), place
        return cls(*ends, nothing, nothing.bool(), clearance, nothing.clone(), nothing.clone())

    def close(self, pair: Tensor, cap: str) -> None:
        """Give these pairs up, unless that has been done for another reason."""
        self.failure[pair] = torch.where(self.failure[pair] == 0, CAPS.index(cap), self.failure[pair])

    def counts(self) -> Tensor:
        """How many anchors each pair has."""
        return torch.zeros_like(self.failure).index_add(0, self.pair, torch.ones_like(self.pair))

    def joined(self, parts: _Open, middle: Inputs, clearance: PerExample) -> _Open:
        """The halves of the parts, once their new anchors are entered."""
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
        """The anchors of each pair in a row, in the order of the way."""
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
        failure = tuple(CAPS[code] for code in self.failure.tolist())
        certified = found & ~self.uncertain
        return Paths(
            anchors, counts, y, found, failure, spacing, certified, clearance, self.forward_passes, self.projections
        )


def _spacings(spacing: float | PerExample, start: Inputs) -> PerExample:
    """One spacing a pair."""
    spacings = torch.as_tensor(spacing, device=start.device).to(start.dtype)
    if spacings.shape not in ((), (len(start),)) or not bool((torch.isfinite(spacings) & (spacings > 0)).all()):
        received = f"{tuple(spacings.shape)} numbers, some not above 0" if spacings.ndim else f"{float(spacings):g}"
        raise InputError("a finite spacing above 0, for all pairs or one a pair", received, "write spacing=0.01")
    return spacings.expand(len(start))
