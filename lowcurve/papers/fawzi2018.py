"""Fawzi et al. 2018, Empirical Study of the Topology and Geometry of Deep Networks: connected regions, flat boundaries, the
directions in which they bend, and what that bending tells of perturbed images. The claims are those of its abstract.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from lowcurve.figures.boundary_shape import FLAT, detection, profile, sensitivity
from lowcurve.figures.loops import loop_results
from lowcurve.figures.paths import MIXED, NATURAL, NOISE, path_results
from lowcurve.figures.same_images import SameImages
from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.lookup import as_table, read_value
from lowcurve.results import UNSAID, Cell, Result, holds
from lowcurve.study.presets import preset, shorten
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Study

SHARE = 1e-3
"""The spacing over the distance of the ends; the paper's is about 1e-4, ten times the work."""
NAME = "standard"
DIFFERS = (
    "The paper's networks are of ImageNet's size and its pairs 1,000 a family; here it is one network of the study's settings.",
    "Curvatures are of z_y − z_j at DeepFool's point on the boundary, by central differences at one grey level a pixel.",
)


def make_study(context: Context) -> Study:
    """A standard network on the data's preset."""
    study = replace(preset(context.data, "paper" if context.scale == "paper" else "laptop"), methods=(NAME,))
    return shorten(study, epochs=10) if context.scale == "smoke" else study


def connected(context: Context) -> Reproduction:
    """Paths within a region from natural images to natural, perturbed and noise images."""
    made, data, models = context.load_or_train(NAME, make_study(context))
    pairs = {"smoke": 8, "laptop": 200, "paper": 1000}[context.scale]

    def make() -> Mapping[str, Result]:
        return path_results(models[NAME], data.test, pairs, share=SHARE, seed=made.seed, progress=context.progress)

    results = context.load_or_compute("connected", ("connected", made, pairs, SHARE), make)
    table = as_table(results["paths"])
    headings = [column.heading for column in table.columns]
    cells = {(row[0], row[1]): dict(zip(headings, row, strict=True)) for row in table.rows}
    claims = []
    for family in (NATURAL, MIXED, NOISE):
        for how in ("as published", "beyond"):
            row = cells[family, how]
            said = f"{family}, {how}: a path joins every pair"
            claims.append(
                holds(said, "section 3", row["found"] == 1, f"{read_value(row['found']):.1%} of {row['count']}")
            )
            far = read_value(row["maximal deviation"])
            said = f"{family}, {how}: nearly straight"
            claims.append(holds(said, "section 3", far < 0.1, f"deviates by {far:.2g} of its length in the mean"))
    return Reproduction(results, claims, DIFFERS[:1])


def flatness(context: Context) -> Reproduction:
    """All principal curvatures of the boundary near images, in rising order."""
    results, (_, flat, mean, error, *_) = _at_images(context, "flatness", profile, {"smoke": 4, "laptop": 20})
    said = f"{read_value(flat):.1%} of them have |κ| of at most {FLAT:g} times the largest"
    uneven = abs(read_value(mean)) > 2 * read_value(error)
    claims = [
        holds("flat along most directions", "abstract", read_value(flat) > 0.5, said),
        holds("asymmetric", "abstract", uneven, f"mean κ {read_value(mean):.3g} ± {read_value(error):.2g}"),
    ]
    return Reproduction(results, claims, DIFFERS)


def vulnerability(context: Context) -> Reproduction:
    """Whether networks are more vulnerable along the directions in which their boundaries bend."""
    results, (_, curved, _) = _at_images(context, "vulnerability", sensitivity, {"smoke": 16, "laptop": 200})
    table = as_table(results["numbers"])
    near, far = read_value(curved), read_value(table.rows[1][1])
    said = "the boundary is nearer along curved directions than along random ones"
    return Reproduction(
        results, [holds(said, "abstract", near < far, f"median distances {near:.3g} and {far:.3g}")], DIFFERS
    )


def perturbed(context: Context) -> Reproduction:
    """Whether the sign of the boundary's mean curvature tells perturbed images from natural ones."""
    results, (_, area, coin, *_) = _at_images(context, "perturbed", detection, {"smoke": 8, "laptop": 200})
    found = read_value(area) > 0.5 + 2 * read_value(coin)
    said = "the curvature's asymmetry tells perturbed images from natural ones"
    return Reproduction(
        results, [holds(said, "abstract", found, f"area under the curve {read_value(area):.3f}")], DIFFERS
    )


def filled(context: Context) -> Reproduction:
    """Whether loops of four images can be filled within their region: simple connectivity, beyond the paper's paths."""
    made, data, models = context.load_or_train(NAME, make_study(context))
    loops = {"smoke": 2, "laptop": 20}.get(context.scale, 100)
    make = lambda: loop_results(models[NAME], data.test, loops, seed=made.seed, progress=context.progress)  # noqa: E731
    results = context.load_or_compute("filled", ("filled", made, loops), make)
    table = as_table(results["numbers"])
    claims = [
        holds(f"{name}: every loop that closes can be filled", UNSAID, 0 < closed == share, f"{share:.1%} of {count}")
        for name, count, closed, share in (
            (row[0], row[1], read_value(row[2]), read_value(row[3])) for row in table.rows
        )
    ]
    return Reproduction(results, claims, DIFFERS[:1])


def _at_images(
    context: Context, name: str, measure: Callable[[SameImages], dict[str, Result]], counts: Mapping[str, int]
) -> tuple[Mapping[str, Result], tuple[Cell, ...]]:
    """What is measured of the network at the first test images that it classifies rightly, and the table's first row."""
    made, data, models = context.load_or_train(NAME, make_study(context))
    count = counts.get(context.scale, 1000)
    make = lambda: measure(same_images(made, data, models, count, progress=context.progress))  # noqa: E731
    results = context.load_or_compute(name, (name, made, count), make)
    table = as_table(results["numbers"])
    return results, table.rows[0]


IMAGES = ("mnist", "cifar10", "digits")
ITEMS = tuple(
    Item(f"fawzi2018topology/{key}", title, where, make, IMAGES)
    for key, title, where, make in (
        ("connected", "Paths within classification regions", "Algorithm 1, section 3", connected),
        ("flatness", "Principal curvatures of the boundary", "section 4", flatness),
        ("vulnerability", "Curved directions and random ones", "section 4", vulnerability),
        ("perturbed", "Telling perturbed images by curvature", "section 5", perturbed),
        ("filled", "Loops of images, filled (arXiv 2605.06380)", UNSAID, filled),
    )
)
