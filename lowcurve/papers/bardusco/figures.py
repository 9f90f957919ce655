"""Reproduce Figures 2 to 9 of Bardusco's report: boundaries, regions, paths and a change of color."""

from collections.abc import Callable, Mapping

import numpy as np

from lowcurve.figures.colors import color_table, colors
from lowcurve.figures.cross_sections import cross_sections
from lowcurve.figures.path_figures import path_pictures
from lowcurve.figures.paths import ADVERSARIAL, NATURAL
from lowcurve.figures.regions import wide_sections
from lowcurve.figures.same_images import SameImages
from lowcurve.papers.bardusco.networks import (
    ADVERSARIAL_TRAINING,
    BASE,
    CURE,
    DIFFERS,
    TRAINED,
    make_study,
    train_networks,
)
from lowcurve.papers.common.context import Context, Reproduction
from lowcurve.papers.common.lookup import as_curves, as_table, read_cells, read_records, read_value
from lowcurve.results import Claim, Result, holds, merge
from lowcurve.study.report_figures import same_images


def figure_2(context: Context) -> Reproduction:
    """Draw cross-sections of the decision boundary with the parabolas that fit them.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Figs. 2 and 4.
    """
    return _make_pictures(context, "figure-2", cross_sections, "cross-sections", "κ")


def figure_3(context: Context) -> Reproduction:
    """Draw the classes over wide planes of random directions.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Figs. 3 and 4.
    """
    return _make_pictures(context, "figure-3", wide_sections, "wide", "pieces")


def _make_pictures(
    context: Context, name: str, draw: Callable[[SameImages], dict[str, Result]], table: str, column: str
) -> Reproduction:
    """Draw three networks at two images, and claim that a number of a table is smaller than for the base network."""
    networks, rows = train_networks(context), (BASE, ADVERSARIAL_TRAINING, CURE)
    count, points = {"smoke": (2, 9)}.get(context.scale, (20, 101))
    key = (name, networks.study, count, points)
    results = context.load_or_compute(name, key, lambda: draw(networks.select_images(context, count, points, *rows)))
    values: dict[str, list[float]] = {row: [] for row in rows}
    for record in read_records(results[table]):
        if record[column] is not None:
            values[str(record["network"])].append(abs(read_value(record[column])))
    means = {row: float(np.mean(found)) if found else float("nan") for row, found in values.items()}
    claims = []
    for other in (ADVERSARIAL_TRAINING, CURE):
        evidence = f"mean |{column}| {means[other]:.3g}, {means[BASE]:.3g}"
        claims.append(holds(f"flatter than the base: {other}", "section 2.1", means[other] < means[BASE], evidence))
    shown = {key: value for key, value in results.items() if not key[-1].isdigit() or key.split()[-1] in ("1", "2")}
    return Reproduction(shown, claims, TRAINED[:2])


def figure_5(context: Context) -> Reproduction:
    """Draw paths in their principal components, with the share of the variance of the first components.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Figs. 5 to 8.
    """
    made, data, models = context.load_or_train("base", make_study(context))
    count = {"smoke": 30}.get(context.scale, 500)

    def make() -> dict[str, Result]:
        return path_pictures(same_images(made, data, {BASE: models["standard"]}, count, progress=context.progress))

    results = context.load_or_compute("figure-5", ("figure-5", made, count), make)
    flat = as_curves(results["components"])
    first = {
        family: [line.y for key, line in flat.lines.items() if key.startswith(f"{BASE}, {family} (")]
        for family in (NATURAL, ADVERSARIAL)
    }
    # A straight path has all its variance in the first component.
    natural, adversarial = (lines[0][0] or 0.0 if lines else 1.0 for lines in first.values())
    ours = f"{natural:.4f} for curved paths" if first[NATURAL] else "1: every path is straight"
    claims = [
        Claim("natural: share of the first component", "almost all", "Figure 6", ours),
        holds("the variance falls more slowly for adversarial pairs", "Figure 8", adversarial < natural,
              f"first component {adversarial:.4f} and {natural:.4f}"),
    ]  # fmt: skip
    return Reproduction(results, claims, DIFFERS[:1])


def figure_9(context: Context) -> Reproduction:
    """Measure how changes of hue and of other colors fool the three networks.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Fig. 9.
    """
    networks, count = train_networks(context), {"smoke": 8}.get(context.scale, 200)
    rows = (BASE, ADVERSARIAL_TRAINING, CURE)
    few = networks.data.test.take(slice(count))

    def make() -> dict[str, Result]:
        made = [
            color_table(row, networks.models[row], few, seed=networks.study.seed, progress=context.progress)
            for row in rows
        ]
        drawn = colors(networks.select_images(context, 3, 101, *rows))
        return {**drawn, "colors": merge(made)}

    results = context.load_or_compute("figure-9", ("figure-9", networks.study, count), make)
    differs = (
        "The report changes one picture of a pepper; here the whole sample of test images is changed, in hue and in color.",
    )
    return Reproduction(results, claim_figure_9(results, context.data), (*differs, *TRAINED[:2]))


def claim_figure_9(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Claim that a change of hue fools images of each network.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    table, claims = as_table(results["colors"]), []
    for row, cells in read_cells(table).items():
        clean, kept, hue = (read_value(cells[name]) for name in ("clean", "pepper test", "hue"))
        said = f"{row}: a change of hue by at most 30 degrees fools it"
        claims.append(
            holds(said, "Figure 9", kept < clean, f"{clean:.1%} clean, {kept:.1%} then, {hue:.1%} at any hue",
                  told=kept < clean or None)  # one fooled image shows it; none among few shows nothing
        )  # fmt: skip
    return claims
