"""Reproduce Fawzi et al. 2018: connected regions, flat boundaries, curved directions, and detection of perturbed images.

The claims are those of its abstract.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from lowcurve.figures.boundary_shape import FLAT, detection, profile, sensitivity
from lowcurve.figures.loops import loop_results
from lowcurve.figures.paths import MIXED, NATURAL, NOISE, path_results
from lowcurve.figures.same_images import SameImages
from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.judging import as_interval, is_apart
from lowcurve.papers.common.lookup import as_table, read_records, read_value
from lowcurve.results import NOT_IN_PAPER, Cell, Claim, Result, holds
from lowcurve.study.presets import preset, shorten
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Study

SHARE = 1e-3
"""Spacing of the points of a path over the distance of its ends. The paper's 1e-4 costs ten times as much."""
NAME = "standard"
DIFFERS = (
    "The paper has networks for ImageNet and 1,000 pairs per family; here it is one network with the settings of its preset.",
    "Curvatures are of z_y − z_j at DeepFool's point on the boundary, by central differences of one grey level per pixel.",
)


def make_study(context: Context) -> Study:
    """Make the study of a standard network with the preset of the data.

    Args:
        context: The context of the item.
    """
    study = replace(preset(context.data, "paper" if context.scale == "paper" else "laptop"), methods=(NAME,))
    return shorten(study, epochs=10) if context.scale == "smoke" else study


def connectivity(context: Context) -> Reproduction:
    """Find paths within a region from natural images to natural, perturbed and noise images.

    Args:
        context: The context of the item.

    Reference: fawzi2018topology, section 3.
    """
    made, data, models = context.load_or_train(NAME, make_study(context))
    pairs = {"smoke": 8, "laptop": 200, "paper": 1000}[context.scale]
    make = partial(path_results, models[NAME], data.test, pairs, share=SHARE, seed=made.seed, progress=context.progress)
    results = context.load_or_compute("connected", ("connected", made, pairs, SHARE), make)
    return Reproduction(results, claim_paths(results, context.data), DIFFERS[:1])


def claim_paths(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Claim that a path joins every pair that was tried, and that paths are nearly straight.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    table = as_table(results["paths"])
    cells = {(row[0], row[1]): record for row, record in zip(table.rows, read_records(table), strict=True)}
    claims = []
    for family in (NATURAL, MIXED, NOISE):
        for how in ("as published", "beyond"):
            row = cells[family, how]
            said = f"{family}, {how}: a path joins every pair that was tried"
            evidence = f"{read_value(row['found']):.1%} of {row['count']}"
            claims.append(holds(said, "section 3", read_value(row["found"]) == 1, evidence, told=True))
            cell = row["maximal deviation"]
            deviation, told = read_value(cell), is_apart(as_interval(cell), 0.1)
            said = f"{family}, {how}: nearly straight"
            evidence = f"mean deviation {deviation:.2g} of the length"
            claims.append(holds(said, "section 3", deviation < 0.1, evidence, told=told))
    return claims


def flatness(context: Context) -> Reproduction:
    """Measure all principal curvatures of the boundary near images.

    Args:
        context: The context of the item.

    Reference: fawzi2018topology, section 4.
    """
    results, (_, flat, mean, error, *_) = _measure_at_images(context, "flatness", profile, {"smoke": 4, "laptop": 20})
    said = f"{read_value(flat):.1%} of the curvatures have |κ| of at most {FLAT:g} times the largest"
    asymmetric = abs(read_value(mean)) > 2 * read_value(error)
    evidence = f"mean κ {read_value(mean):.3g} ± {read_value(error):.2g}"
    claims = [
        holds("the boundary is flat along most directions", "abstract", read_value(flat) > 0.5, said),
        holds("the curvatures are asymmetric", "abstract", asymmetric, evidence),
    ]
    return Reproduction(results, claims, DIFFERS)


def vulnerability(context: Context) -> Reproduction:
    """Compare the distance to the boundary along curved and along random directions.

    Args:
        context: The context of the item.

    Reference: fawzi2018topology, section 4.
    """
    results, (_, curved, _) = _measure_at_images(context, "vulnerability", sensitivity, {"smoke": 16, "laptop": 200})
    table = as_table(results["numbers"])
    near, far = read_value(curved), read_value(table.rows[1][1])
    said = "the boundary is nearer along curved directions than along random ones"
    return Reproduction(
        results, [holds(said, "abstract", near < far, f"median distances {near:.3g} and {far:.3g}")], DIFFERS
    )


def perturbation_detection(context: Context) -> Reproduction:
    """Detect perturbed images by the mean curvature of the boundary.

    Args:
        context: The context of the item.

    Reference: fawzi2018topology, section 5.
    """
    results, (_, area, chance_error, *_) = _measure_at_images(
        context, "perturbed", detection, {"smoke": 8, "laptop": 200}
    )
    detected = read_value(area) > 0.5 + 2 * read_value(chance_error)
    said = "the asymmetry of the curvature distinguishes perturbed images from natural ones"
    return Reproduction(
        results, [holds(said, "abstract", detected, f"area under the curve {read_value(area):.3f}")], DIFFERS
    )


def loop_filling(context: Context) -> Reproduction:
    """Fill loops of four images within their region, a test of simple connectivity beyond the paper's paths.

    Args:
        context: The context of the item.
    """
    made, data, models = context.load_or_train(NAME, make_study(context))
    loops = {"smoke": 2, "laptop": 20}.get(context.scale, 100)
    make = partial(loop_results, models[NAME], data.test, loops, seed=made.seed, progress=context.progress)
    results = context.load_or_compute("filled", ("filled", made, loops), make)
    table = as_table(results["numbers"])
    claims = [
        holds(
            f"{name}: every loop that closes can be filled",
            NOT_IN_PAPER,
            0 < closed == share,
            f"{share:.1%} of {count}",
        )
        for name, count, closed, share in (
            (row[0], row[1], read_value(row[2]), read_value(row[3])) for row in table.rows
        )
    ]
    return Reproduction(results, claims, DIFFERS[:1])


def _measure_at_images(
    context: Context, name: str, measure: Callable[[SameImages], dict[str, Result]], counts: Mapping[str, int]
) -> tuple[Mapping[str, Result], tuple[Cell, ...]]:
    """Measure the network at its first correctly classified test images; return the results and the table's first row."""
    made, data, models = context.load_or_train(NAME, make_study(context))
    count = counts.get(context.scale, 1000)

    def make() -> dict[str, Result]:
        return measure(same_images(made, data, models, count, progress=context.progress))

    results = context.load_or_compute(name, (name, made, count), make)
    table = as_table(results["numbers"])
    return results, table.rows[0]


IMAGES = ("mnist", "cifar10", "digits")
ITEMS = tuple(
    Item(f"fawzi2018topology/{key}", title, where, make, IMAGES, claims=claim_paths if key == "connected" else None)
    for key, title, where, make in (
        ("connected", "Paths within classification regions", "Algorithm 1, section 3", connectivity),
        ("flatness", "Principal curvatures of the boundary", "section 4", flatness),
        ("vulnerability", "Vulnerability along curved and random directions", "section 4", vulnerability),
        ("perturbed", "Detection of perturbed images by curvature", "section 5", perturbation_detection),
        ("filled", "Filled loops of images (arXiv 2605.06380)", NOT_IN_PAPER, loop_filling),
    )
)
