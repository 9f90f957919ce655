"""Compare families of paths within the region of a class: how many are found, their anchors and their deviation."""

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
from lowcurve.network_calls import input_like
from lowcurve.randomness import integers, stream, uniform
from lowcurve.results import Cell, Column, Curves, Line, Result, Table
from lowcurve.types import PerExample, Progress

PROJECTIONS: Mapping[str, RegionProjection] = {
    "as published": RegionProjection(DeepFool(bisections=0), overshoot=0.0),
    "beyond": RegionProjection(DeepFool()),
}
"""Ways of moving a midpoint into the region: just across its boundary, as in the paper, or well beyond it."""
NATURAL, MIXED, ADVERSARIAL, NOISE = "natural", "natural to adversarial", "adversarial", "natural to noise"
MEASURES = {
    "anchors": "Number of points of a path, ends included.",
    "maximal deviation": "Largest distance to the straight line, over the distance of the ends.",
    "mean deviation": "Mean of that distance over the path.",
    "excess length": "Length over distance, minus 1.",
    "distance": "Distance of the ends, l_2 in pixel units.",
    "share outside": "Share of the straight line between the ends that lies outside, for all pairs.",
    "barrier": "Largest -margin on the straight line: above 0 where it leaves the region.",
    "clearance": "Smallest margin along the path.",
}
ALL_PAIRS = ("distance", "share outside", "barrier")
"""Measures of all pairs, with a path or without."""
COMPONENTS = 10
"""Principal components that are plotted."""


@dataclass(frozen=True)
class Family:
    """The paths of one family of pairs.

    Attributes:
        paths: The paths.
        columns: One number per path under each measure.
    """

    paths: Paths
    columns: Mapping[str, PerExample]


Families = Mapping[tuple[str, str], "Family"]
"""Families by the kind of pairs and the name of the projection."""


def path_results(
    model: nn.Module, test: Examples, pairs: int, *, share: float, seed: int, progress: Progress[int]
) -> dict[str, Result]:
    """Compute the four families under both projections, test the matched ones, and describe how flat the paths are.

    Args:
        model: The network.
        test: Test images.
        pairs: Pairs of each family.
        share: Spacing of the samples. Its unit is the distance of the ends.
        seed: Seed of all random choices.
        progress: Display of the progress.

    Returns:
        "paths" and "families", tables, and "components", curves.
    """
    return summarize_families(find_families(model, test, pairs, share=share, seed=seed, progress=progress), share, seed)


def find_families(
    model: nn.Module, test: Examples, pairs: int, *, share: float, seed: int, progress: Progress[int]
) -> Families:
    """Find the paths of every family under every projection.

    Args:
        model: The network.
        test: Test images.
        pairs: Pairs of each family.
        share: Spacing of the samples. Its unit is the distance of the ends.
        seed: Seed of all random choices.
        progress: Display of the progress.

    Returns:
        The families by name and projection.
    """
    ends = make_endpoints(model, test, pairs, seed)
    keys = [(name, projection) for name in ends for projection in PROJECTIONS]
    found = {}
    for number in progress(range(len(keys)), "paths"):
        name, projection = keys[number]
        found[name, projection] = _search_family(model, ends[name], PROJECTIONS[projection], share, seed)
    return found


def summarize_families(found: Families, share: float, seed: int) -> dict[str, Result]:
    """Summarize one network's families in tables and a figure.

    Args:
        found: The families.
        share: Spacing of the samples over the distance of the ends.
        seed: Seed of the resamples.

    Returns:
        "paths" and "families", tables, and "components", curves.
    """
    conditions = {
        "lengths": "l_2, pixel units",
        "spacing": f"{share:g} of the distance of the ends: no violation at any sample of a path",
        "BatchNorm": "eval mode",
        "not found": "the search met a limit; no proof that there is no path",
    }
    return {
        "paths": _family_table(found, conditions, seed),
        "families": _test_table(found, conditions, seed),
        "components": _component_curves(found, conditions),
    }


def make_endpoints(model: nn.Module, test: Examples, pairs: int, seed: int) -> dict[str, Endpoints]:
    """Pair the endpoints of each family.

    The mixed families have the starts of the natural pairs, and their distances as nearly as possible.

    Args:
        model: The network.
        test: Test images.
        pairs: Pairs of each family.
        seed: Seed of all random choices.

    Returns:
        The pairs of each family that has any.
    """
    rows = torch.from_numpy(evaluation.correct(model, test)).nonzero()[:, 0]
    rows = rows[: 2 * pairs + pairs // 2]
    x, y = test.take(rows).pixels(slice(None)), test.y[rows]
    like = input_like(model)
    x, y, rows = x.to(like), y.to(like.device), rows.to(like.device)
    safe = in_region(model, x, y)
    x, y, rows = x[safe], y[safe], rows[safe]
    natural = LabeledPoints(x, y, rows)
    classes = len(test.classes)
    others = (y + 1 + integers(y.shape, 0, classes - 1, generator=stream(seed, "others")).to(y)) % classes
    moved = project_into_classes(model, x, others, seed)
    reached = in_region(model, moved, others)
    adversarial, origin = LabeledPoints(moved[reached], others[reached], rows[reached]), y[reached]
    noise = project_into_classes(model, uniform(x, 0, 1, generator=stream(seed, "noise")), y, seed)
    noisy = in_region(model, noise, y)
    no_source = torch.full_like(rows[noisy], NO_SOURCE)
    base = _first(natural_pairs(natural, generator=stream(seed, NATURAL)), pairs)
    starts = LabeledPoints(base.start, base.y, natural.source[base.start_index])
    find_families = {
        NATURAL: base,
        MIXED: natural_adversarial_pairs(starts, adversarial, generator=stream(seed, MIXED), distance=base.distance),
        ADVERSARIAL: adversarial_pairs(adversarial, origin, generator=stream(seed, ADVERSARIAL)),
        NOISE: natural_noise_pairs(
            starts,
            LabeledPoints(noise[noisy], y[noisy], no_source),
            generator=stream(seed, NOISE),
            distance=base.distance,
        ),
    }
    return {name: _first(found, pairs) for name, found in find_families.items() if len(found)}


def project_into_classes(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Move points just across the boundary of the classes y, where that succeeds.

    Args:
        model: The network.
        x: Points, shape (batch, ...).
        y: The class of each point.
        seed: Seed of the projection.

    Returns:
        The moved points.
    """
    with frozen(model):
        return PROJECTIONS["as published"](model, x, y, generator=stream(seed, "led"))


def in_region(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return True for points in the region of y by a margin that a batch of another size also finds.

    Args:
        model: The network.
        x: Points, shape (batch, ...).
        y: The class of each point.

    Returns:
        One boolean per point.
    """
    with frozen(model):
        return inner_margins(model, x, y, 256, times=2) > 0


def _first(found: Endpoints, pairs: int) -> Endpoints:
    return Endpoints(*(getattr(found, name)[:pairs] for name in found.__dataclass_fields__))


def _search_family(model: nn.Module, ends: Endpoints, projection: RegionProjection, share: float, seed: int) -> Family:
    search = PathSearch(projection, spacing=share * ends.distance)
    paths = search(model, ends.start, ends.end, ends.y, generator=stream(seed, "paths"))
    return Family(paths, path_measures(paths) | straight_line_measures(model, paths))


def _family_table(found: Families, conditions: Mapping[str, str], seed: int) -> Table:
    headings = (
        Column("pairs", "The family of the ends."),
        Column("projection", "Projection that moves an outside midpoint into the region."),
        Column("count", "Pairs.", "d"),
        Column("found", "Share of them with a path.", ".1%"),
        Column("straight", "Share of those whose path is the straight line.", ".1%"),
        *(Column(name, meaning) for name, meaning in MEASURES.items()),
        Column("anchors, sd", "Standard deviation over pairs."),
        Column("maximal deviation, sd", "The same."),
    )
    rows: list[tuple[Cell, ...]] = []
    for (name, projection), family in found.items():
        with_path, columns = family.paths.found, family.columns
        straight = (family.paths.counts[with_path] == 2).double().mean()
        spread = [_standard_deviation(columns[key][with_path]) for key in ("anchors", "maximal deviation")]
        means = [
            _mean_with_interval(columns[key][slice(None) if key in ALL_PAIRS else with_path], seed) for key in MEASURES
        ]
        row = (name, projection, len(with_path), float(with_path.double().mean()), float(straight), *means, *spread)
        rows.append(row)
    caption = "Each mean is followed by its 95 % bootstrap interval."
    return Table("Paths within the region of a class", headings, tuple(rows), caption, conditions)


def _standard_deviation(values: PerExample) -> float | None:
    """Return the standard deviation; None for fewer than two values."""
    return float(values.double().std()) if len(values) > 1 else None


def _mean_with_interval(values: PerExample, seed: int) -> Cell:
    if not len(values):
        return None
    found = bootstrap_interval(values.cpu(), generator=stream(seed, "bootstrap"))
    return (found.value, found.low, found.high)


def _test_table(found: Families, conditions: Mapping[str, str], seed: int) -> Table:
    """Test each mixed family against the natural one, pair by pair from the same start."""
    headings = (
        Column(
            "pairs",
            "The family compared with natural pairs of the same starts and similar distances.",
        ),
        Column("projection"),
        Column("measure"),
        Column("count", "Pairs with a path in both.", "d"),
        Column("mean difference", "Mean difference to the natural pairs."),
        Column("p", "p-value of Wilcoxon's signed-rank test with drawn signs.", ".2g"),
    )
    rows: list[tuple[Cell, ...]] = []
    for (name, projection), family in found.items():
        if name in (MIXED, NOISE) and (NATURAL, projection) in found:
            natural = found[NATURAL, projection]
            common = _common_pairs(family.paths, natural.paths)
            for measure in ("anchors", "maximal deviation", "share outside") if len(common) else ():
                pair = family.columns[measure][common[:, 0]], natural.columns[measure][common[:, 1]]
                tested = paired_test(pair[0].cpu(), pair[1].cpu(), generator=stream(seed, "test"))
                rows.append((name, projection, measure, tested.count, tested.mean_difference, tested.p_value))
    return Table("Against natural pairs", headings, tuple(rows), conditions=conditions)


def _common_pairs(first: Paths, second: Paths) -> Tensor:
    """Return the numbers of pairs with the same start and a path in both families, shape (pairs, 2)."""
    same = (first.start[:, None] == second.start[None]).flatten(2).all(2)
    return torch.nonzero(same & first.found[:, None] & second.found[None])


def _component_curves(found: Families, conditions: Mapping[str, str]) -> Curves:
    """Plot the mean share of the variance of bent paths in each principal component."""
    lines = {}
    for (name, projection), family in found.items():
        bent = torch.nonzero(family.paths.found & (family.paths.counts > 2)).flatten()[:50]
        if len(bent) and projection == "as published":
            explained = principal_components(family.paths.take(bent), components=COMPONENTS).explained
            lines[f"{name} ({len(bent)} bent)"] = Line(tuple(float(v) for v in explained[:, :COMPONENTS].mean(0)))
    caption = "A straight path has all of its variance in the first component; straight paths are left out."
    return Curves(
        "How flat the paths are", "principal component", "share of the variance, mean over paths",
        tuple(float(k + 1) for k in range(COMPONENTS)), lines, caption, conditions, y_logarithmic=True,
    )  # fmt: skip
