"""Paths within classification regions, family by family: how often one is found, how many anchors it has, how far it bends."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.attacks import DeepFool
from lowcurve.data import Examples
from lowcurve.geometry import (
    NO_SOURCE,
    Endpoints,
    LabeledPoints,
    Paths,
    PathSearch,
    RegionProjection,
    adversarial_pairs,
    bootstrap_interval,
    natural_adversarial_pairs,
    natural_noise_pairs,
    natural_pairs,
    paired_test,
    path_measures,
    principal_components,
    straight_line_measures,
)
from lowcurve.geometry.regions import inner_margins
from lowcurve.models.modes import frozen
from lowcurve.randomness import integers, stream, uniform
from lowcurve.results import Cell, Column, Curves, Line, Result, Table
from lowcurve.types import PerExample, Progress

PROJECTIONS: Mapping[str, RegionProjection] = {
    "as published": RegionProjection(DeepFool(bisections=0), overshoot=0.0),
    "beyond": RegionProjection(DeepFool()),
}
"""How a middle is led into the region: just across its boundary, as in the paper, or half as far again."""
NATURAL, MIXED, ADVERSARIAL, NOISE = "natural", "natural to adversarial", "adversarial", "natural to noise"
MEASURES = {
    "anchors": "Number of points of a path, ends included.",
    "maximal deviation": "Largest distance to the straight line, over the distance of the ends.",
    "mean deviation": "Its mean over the path.",
    "excess length": "Length over distance, less 1.",
    "distance": "Of the ends, l_2 in pixel units.",
    "share outside": "Of the straight line between the ends, found or not.",
    "barrier": "Largest -margin on it: above 0 where it leaves the region.",
    "clearance": "Smallest margin along the path.",
}
COMPONENTS = 10


@dataclass(frozen=True)
class Family:
    """The paths of a family of pairs, with a number for each of them under each measure."""

    paths: Paths
    columns: Mapping[str, PerExample]


Families = Mapping[tuple[str, str], "Family"]
"""By the kind of pairs and the projection."""


def path_results(
    model: nn.Module, test: Examples, pairs: int, *, share: float, seed: int, progress: Progress[int]
) -> dict[str, Result]:
    """The four families under both projections, the matched ones tested against each other, and how flat the paths are.

    pairs: of each family. share: the spacing of the samples over the distance of the ends.
    """
    return summarize_families(find_families(model, test, pairs, share=share, seed=seed, progress=progress), share, seed)


def find_families(
    model: nn.Module, test: Examples, pairs: int, *, share: float, seed: int, progress: Progress[int]
) -> Families:
    """The paths of every family under every projection."""
    ends = make_endpoints(model, test, pairs, seed)
    wanted = [(name, how) for name in ends for how in PROJECTIONS]
    found = {}
    for number in progress(range(len(wanted)), "paths"):
        name, how = wanted[number]
        found[name, how] = _family(model, ends[name], PROJECTIONS[how], share, seed)
    return found


def summarize_families(found: Families, share: float, seed: int) -> dict[str, Result]:
    """Tables and figure of one network's families."""
    conditions = {
        "lengths": "l_2, pixel units",
        "spacing": f"{share:g} of the distance of the ends: no violation at any sample of a path",
        "BatchNorm": "eval mode",
        "not found": "the search met a cap; no proof that there is no path",
    }
    return {
        "paths": _table(found, conditions, seed),
        "families": _tests(found, conditions, seed),
        "components": _components(found, conditions),
    }


def make_endpoints(model: nn.Module, test: Examples, pairs: int, seed: int) -> dict[str, Endpoints]:
    """The ends of each family; starts and distances of the mixed ones are those of the natural pairs as far as can be."""
    rows = torch.from_numpy(evaluation.correct(model, test)).nonzero()[:, 0]
    rows = rows[: 2 * pairs + pairs // 2]
    x, y = test.take(rows).pixels(slice(None)), test.y[rows]
    like = next(model.parameters(), x)
    x, y, rows = x.to(like), y.to(like.device), rows.to(like.device)
    sure = in_region(model, x, y)
    x, y, rows = x[sure], y[sure], rows[sure]
    natural = LabeledPoints(x, y, rows)
    classes = len(test.classes)
    others = (y + 1 + integers(y.shape, 0, classes - 1, generator=stream(seed, "others")).to(y)) % classes
    moved = project_into_classes(model, x, others, seed)
    kept = in_region(model, moved, others)
    adversarial, origin = LabeledPoints(moved[kept], others[kept], rows[kept]), y[kept]
    noise = project_into_classes(model, uniform(x, 0, 1, generator=stream(seed, "noise")), y, seed)
    there = in_region(model, noise, y)
    nowhere = torch.full_like(rows[there], NO_SOURCE)
    plain = _first(natural_pairs(natural, generator=stream(seed, NATURAL)), pairs)
    starts = LabeledPoints(plain.start, plain.y, natural.source[plain.start_index])
    find_families = {
        NATURAL: plain,
        MIXED: natural_adversarial_pairs(starts, adversarial, generator=stream(seed, MIXED), distance=plain.distance),
        ADVERSARIAL: adversarial_pairs(adversarial, origin, generator=stream(seed, ADVERSARIAL)),
        NOISE: natural_noise_pairs(
            starts,
            LabeledPoints(noise[there], y[there], nowhere),
            generator=stream(seed, NOISE),
            distance=plain.distance,
        ),
    }
    return {name: _first(found, pairs) for name, found in find_families.items() if len(found)}


def project_into_classes(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Just across the boundary of class y, where it was found."""
    with frozen(model):
        return PROJECTIONS["as published"](model, x, y, generator=stream(seed, "led"))


def in_region(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the network says y of x, by so much that a search for paths finds the same in a batch of another size."""
    with frozen(model):
        return inner_margins(model, x, y, 256, times=2) > 0


def _first(found: Endpoints, pairs: int) -> Endpoints:
    return Endpoints(*(getattr(found, name)[:pairs] for name in found.__dataclass_fields__))


def _family(model: nn.Module, ends: Endpoints, projection: RegionProjection, share: float, seed: int) -> Family:
    search = PathSearch(projection, spacing=share * ends.distance)
    paths = search(model, ends.start, ends.end, ends.y, generator=stream(seed, "paths"))
    return Family(paths, path_measures(paths) | straight_line_measures(model, paths))


def _table(found: Families, conditions: Mapping[str, str], seed: int) -> Table:
    headings = (
        Column("pairs", "The family of the ends."),
        Column("projection", "How a middle outside is led into the region."),
        Column("count", "Pairs.", "d"),
        Column("found", "Share of them with a path.", ".1%"),
        Column("straight", "Share of those whose path is the straight line.", ".1%"),
        *(Column(name, meaning) for name, meaning in MEASURES.items()),
        Column("anchors, sd", "Standard deviation over pairs."),
        Column("maximal deviation, sd", "The same."),
    )
    rows: list[tuple[Cell, ...]] = []
    for (name, how), family in found.items():
        there, columns = family.paths.found, family.columns
        straight = (family.paths.counts[there] == 2).double().mean()
        spread = [_deviation(columns[key][there]) for key in ("anchors", "maximal deviation")]
        rows.append(
            (
                *(name, how, len(there), float(there.double().mean()), float(straight)),
                *(_mean(columns[key], there if key not in ("distance", "share outside", "barrier") else None, seed)
                  for key in MEASURES),
                *spread,
            )
        )  # fmt: skip
    caption = "Each mean stands before its 95 % bootstrap interval."
    return Table("Paths within the region of a class", headings, tuple(rows), caption, conditions)


def _deviation(values: PerExample) -> float | None:
    """Standard deviation; none of fewer than two."""
    return float(values.double().std()) if len(values) > 1 else None


def _mean(values: PerExample, rows: Tensor | None, seed: int) -> Cell:
    values = values if rows is None else values[rows]
    if not len(values):
        return None
    found = bootstrap_interval(values.cpu(), generator=stream(seed, "bootstrap"))
    return (found.value, found.low, found.high)


def _tests(found: Families, conditions: Mapping[str, str], seed: int) -> Table:
    """Each mixed family against the natural one, pair by pair from the same start."""
    headings = (
        Column(
            "pairs",
            "The family that is compared with natural pairs of the same starts and as nearly the same distances.",
        ),
        Column("projection"),
        Column("measure"),
        Column("count", "Pairs with a path in both.", "d"),
        Column("mean difference", "To the natural pairs."),
        Column("p", "Of Wilcoxon's signed-rank test, signs drawn.", ".2g"),
    )
    rows: list[tuple[Cell, ...]] = []
    for (name, how), here in found.items():
        if name in (MIXED, NOISE) and (NATURAL, how) in found:
            plain = found[NATURAL, how]
            shared = _common_pairs(here.paths, plain.paths)
            for measure in ("anchors", "maximal deviation", "share outside") if len(shared) else ():
                pair = here.columns[measure][shared[:, 0]], plain.columns[measure][shared[:, 1]]
                tested = paired_test(pair[0].cpu(), pair[1].cpu(), generator=stream(seed, "test"))
                rows.append((name, how, measure, tested.count, tested.mean_difference, tested.p_value))
    return Table("Against natural pairs", headings, tuple(rows), conditions=conditions)


def _common_pairs(first: Paths, second: Paths) -> Tensor:
    """The numbers of pairs with one start, found in both: (pairs, 2)."""
    same = (first.start[:, None] == second.start[None]).flatten(2).all(2)
    return torch.nonzero(same & first.found[:, None] & second.found[None])


def _components(found: Families, conditions: Mapping[str, str]) -> Curves:
    """Mean share of the variance of a bent path's points in each of its principal components."""
    lines = {}
    for (name, how), family in found.items():
        bent = torch.nonzero(family.paths.found & (family.paths.counts > 2)).flatten()[:50]
        if len(bent) and how == "as published":
            explained = principal_components(family.paths.take(bent), components=COMPONENTS).explained
            lines[f"{name} ({len(bent)} bent)"] = Line(tuple(float(v) for v in explained[:, :COMPONENTS].mean(0)))
    caption = "A straight path has all of its variance in the first; paths that are straight are left out."
    return Curves(
        "How flat the paths are", "principal component", "share of the variance, mean over paths",
        tuple(float(k + 1) for k in range(COMPONENTS)), lines, caption, conditions, y_logarithmic=True,
    )  # fmt: skip
