"""Yu et al. 2018 on Jacobian and Hessian: their statistics, what the bound promises, and the Jacobians as pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lowcurve import evaluation
from lowcurve.analysis.norms import pixels
from lowcurve.data import Examples
from lowcurve.figures.jacobians import jacobians
from lowcurve.geometry.alignment import contrast_alignment
from lowcurve.losses import margin
from lowcurve.papers.common.context import Context, Reproduction
from lowcurve.papers.common.lookup import as_table, read_cells, read_value
from lowcurve.papers.common.seed_tables import train_row
from lowcurve.papers.yu2018.indicators import EXACT, LOSS, SECANT, make_bound_table, make_statistics_table
from lowcurve.papers.yu2018.networks import (
    DIFFERS,
    MINMAX,
    NATURAL,
    OURS,
    add_figure_numbers,
    choose_table,
    limit_count,
    make_studies,
    select_shared_images,
    select_studies,
)  # fmt: skip
from lowcurve.randomness import permutation, stream
from lowcurve.results import UNSAID, Claim, Column, Curves, Line, Result, Table, holds
from lowcurve.results.cells import NETWORK

PRINTED_STATISTICS = {
    NATURAL: ("~500", "1.1 %", "1.26", "65.6 %"),
    MINMAX: ("~50", "54.0 %", "0.53", "97.1 %"),
}
"""Section 4.3: the l_1 norm of J and its zeros, the l_1 norm of H and the zeros among its eigenvalues."""


def figure_8(context: Context) -> Reproduction:
    """Statistics of Jacobian and Hessian, what the bound of Eq. (9) promises, and whether the indicator ranks networks."""
    wanted = make_studies(context, choose_table(context))
    test = train_row(context, NATURAL, wanted[NATURAL]).data.test
    drawn = _at_random(test, limit_count(context, 100))
    h, few = float(np.sqrt(np.prod(test.shape))) * pixels(1), limit_count(context, 12)
    radii = (0.02, 0.05, 0.1)

    def make() -> dict[str, Result]:
        models = {row: train_row(context, row, study).model for row, study in wanted.items()}
        three = {row: models[row] for row in (NATURAL, MINMAX, OURS)}
        images = test.take(slice(limit_count(context, 200)))
        shared = select_shared_images(context, {row: wanted[row] for row in (NATURAL, MINMAX)}, 4)
        return {
            "numbers": make_statistics_table(three, drawn, few, h, context.progress),
            "bounds": make_bound_table(models, images, radii, context.progress),
            "jacobians": jacobians(shared)["margin"],
            "slope and curvature": make_slope_and_curvature_curves(),
        }

    results = context.load_or_compute("figure-8", ("statistics", wanted, len(drawn), few, radii), make)
    table = as_table(results["numbers"])
    headings = [column.heading for column in table.columns]
    found = {(str(row[0]), str(row[1])): dict(zip(headings, row, strict=True)) for row in table.rows}
    claims = []
    for row, (slope, blanks, bend, flats) in PRINTED_STATISTICS.items():
        claims.append(Claim(f"{row}: ‖J‖₁", slope, "section 4.3", found[row, EXACT]["‖J‖₁"]))
        claims.append(Claim(f"{row}: zeros in J", blanks, "section 4.3", found[row, EXACT]["J, zeros"], ".1%"))
        for reading in (EXACT, SECANT, LOSS):
            seen = found[row, reading]
            claims.append(Claim(f"{row}: ‖H‖₁ of {reading}", bend, "section 4.3", seen["‖H‖₁"]))
            claims.append(Claim(f"{row}: zero eigenvalues of {reading}", flats, "section 4.3", seen["λ, zeros"], ".1%"))
    for other, kind, what, printed, where in (
        (MINMAX, EXACT, "‖J‖₁", "10", "section 4.3"), (MINMAX, SECANT, "‖H‖₁", "2.4", "section 4.3"),
        (OURS, EXACT, "‖J‖₁", "10", "section 5.3"), (OURS, SECANT, "‖H‖₁", "3", "section 5.3"),
    ):  # fmt: skip
        ratio = read_value(found[NATURAL, kind][what]) / max(read_value(found[other, kind][what]), 1e-12)
        claims.append(Claim(f"{what} of {kind}, natural over {other}", printed, where, ratio))
    differs = (
        "The Hessian of a ReLU network's margin is 0 almost everywhere, so the paper's numbers must be of something else. "
        "Three readings are shown: exact, at the scale of one grey level, and of the cross-entropy.",
        DIFFERS[0],
    )
    titled = add_figure_numbers({"slope": "Figure 5", "": "Figure 8"}, results)
    return Reproduction(titled, [*claims, *_of_the_bound(results)], differs)


def figure_10(context: Context) -> Reproduction:
    """Jacobians of the margin as pictures, and how far they keep to the images' edges and strokes."""
    wanted = select_studies(context, NATURAL, OURS)

    def make() -> dict[str, Result]:
        shared = select_shared_images(context, wanted, limit_count(context, 200))
        aligned = tuple(
            (name, float(values.mean()), float(np.median(values)))
            for name, model in shared.models.items()
            for values in evaluation.measure(
                model, shared.examples, {"alignment": contrast_alignment}, loss=margin
            ).values()
        )
        columns = (NETWORK, Column("alignment", "Mean over images."), Column("median"))
        conditions = {
            "images": f"{len(shared.numbers)} that every network classifies rightly",
            "of": "the margin's Jacobian",
        }
        table = Table("Correlation of |J| with local contrast", columns, aligned, conditions=conditions)
        return {"jacobians": jacobians(shared.few(6))["margin"], "numbers": table}

    results = context.load_or_compute("figure-10", ("jacobians", wanted), make)
    found = read_cells(as_table(results["numbers"]))
    ours, theirs = (read_value(found[row]["alignment"]) for row in (OURS, NATURAL))
    said = "our network's Jacobian keeps to the main pattern of the image more than the natural one's"
    claims = [holds(said, "Figures 10, 15", ours > theirs, f"correlation with contrast {ours:.3g} and {theirs:.3g}")]
    return Reproduction(add_figure_numbers({"": "Figures 10, 15"}, results), claims, DIFFERS[:1])


def make_slope_and_curvature_curves() -> Curves:
    """T + κ t² / 2 for three curvatures κ: one slope, and the larger κ the sooner the value is another one."""
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    lines = {f"κ = {k:g}": Line(tuple((x + k * x.square() / 2).tolist())) for k in (0.0, 1.0, 4.0)}
    caption = "κ is the reciprocal of the radius of the osculating circle where the slope is 0."
    return Curves("Slope and curvature in one dimension", "t", "value", tuple(x.tolist()), lines, caption)


def _of_the_bound(results: Mapping[str, Result]) -> list[Claim]:
    table = as_table(results["bounds"])
    place = {column.heading: k for k, column in enumerate(table.columns)}
    promised, fooled = (sum(read_value(row[place[name]]) for row in table.rows) for name in ("promised", "fooled"))
    radius = max(read_value(row[place["radius"]]) for row in table.rows)
    last = [row for row in table.rows if read_value(row[place["radius"]]) == radius]
    evidence = "; ".join(
        f"{row[0]} {read_value(row[place['‖J‖₁']]):.3g}, {read_value(row[place['PGD']]):.1%}" for row in last
    )
    slopes, robust = ([read_value(row[place[name]]) for row in last] for name in ("‖J‖₁", "PGD"))
    relative = [read_value(row[place["‖J‖₁ / L"]]) for row in last]
    return [
        holds(
            "no attack fools an image whose bound by Eq. (9) is below its margin", "section 4.1", fooled == 0,
            f"{fooled:.0f} of {promised:.0f} promised",
        ),
        holds(
            f"the smaller ‖J‖₁, the higher the accuracy at {radius:g}", "section 4.1", decreases_with(slopes, robust), evidence
        ),
        holds(
            f"the smaller ‖J‖₁ / L, the higher the accuracy at {radius:g}", UNSAID, decreases_with(relative, robust),
            ", ".join(f"{row[0]} {value:.3g}" for row, value in zip(last, relative, strict=True)),
        ),
    ]  # fmt: skip


def decreases_with(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether one falls as the other rises: nowhere the other way, and in all; false where a number is missing.

    Example:
        >>> decreases_with([3.0, 1.0, 2.0], [0.0, 0.5, 0.0]), decreases_with([3.0, 1.0], [0.0, 0.0])
        (True, False)
    """
    ordered = np.array(second)[np.argsort(first)]
    known = bool(np.isfinite([*first, *second]).all())
    return known and bool(np.all(np.diff(ordered) <= 0) and ordered[0] > ordered[-1])


def _at_random(examples: Examples, count: int) -> Examples:
    return examples.take(permutation(len(examples), generator=stream(0, "yu2018interpreting"))[:count])
