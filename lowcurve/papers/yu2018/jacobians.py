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
from lowcurve.papers.common.context import Context, Found
from lowcurve.papers.common.seed_tables import cells_of, trained, value_of
from lowcurve.papers.yu2018.indicators import EXACT, LOSS, SECANT, promises, statistics
from lowcurve.papers.yu2018.networks import (
    DIFFERS,
    MINMAX,
    NATURAL,
    OURS,
    chosen,
    count_of,
    rows,
    sitting_of,
    table_in,
    table_of,
    titled,
)  # fmt: skip
from lowcurve.randomness import permutation, stream
from lowcurve.results import UNSAID, Claim, Column, Curves, Line, Result, Table, holds
from lowcurve.results.cells import NETWORK

PRINTED_STATISTICS = {
    NATURAL: ("~500", "1.1 %", "1.26", "65.6 %"),
    MINMAX: ("~50", "54.0 %", "0.53", "97.1 %"),
}
"""Section 4.3: the l_1 norm of J and its zeros, the l_1 norm of H and the zeros among its eigenvalues."""


def figure_8(context: Context) -> Found:
    """Statistics of Jacobian and Hessian, what the bound of Eq. (9) promises, and whether the indicator ranks networks."""
    wanted = rows(context, table_of(context))
    test = trained(context, NATURAL, wanted[NATURAL]).data.test
    drawn = _at_random(test, count_of(context, 100))
    h, few = float(np.sqrt(np.prod(test.shape))) * pixels(1), count_of(context, 12)
    radii = (0.02, 0.05, 0.1)

    def make() -> dict[str, Result]:
        models = {row: trained(context, row, study).model for row, study in wanted.items()}
        three = {row: models[row] for row in (NATURAL, MINMAX, OURS)}
        images = test.take(slice(count_of(context, 200)))
        shared = sitting_of(context, {row: wanted[row] for row in (NATURAL, MINMAX)}, 4)
        return {
            "numbers": statistics(three, drawn, few, h, context.progress),
            "bounds": promises(models, images, radii, context.progress),
            "jacobians": jacobians(shared)["margin"],
            "slope and curvature": slope_and_curvature(),
        }

    results = context.part("figure-8", ("statistics", wanted, len(drawn), few, radii), make)
    table = table_in(results, "numbers")
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
        ratio = value_of(found[NATURAL, kind][what]) / max(value_of(found[other, kind][what]), 1e-12)
        claims.append(Claim(f"{what} of {kind}, natural over {other}", printed, where, ratio))
    return Found(titled({"slope": "Figure 5", "": "Figure 8"}, results), [*claims, *_of_the_bound(results)], (
        "The Hessian of a ReLU network's margin is 0 almost everywhere, so the paper's numbers are not those of that; here "
        "stand three readings: exact, at the scale of a grey level, and of the cross-entropy.", DIFFERS[0],
    ))  # fmt: skip


def figure_10(context: Context) -> Found:
    """Jacobians of the margin as pictures, and how far they keep to the images' edges and strokes."""
    wanted = chosen(context, NATURAL, OURS)

    def make() -> dict[str, Result]:
        shared = sitting_of(context, wanted, count_of(context, 200))
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

    results = context.part("figure-10", ("jacobians", wanted), make)
    found = cells_of(table_in(results, "numbers"))
    ours, theirs = (value_of(found[row]["alignment"]) for row in (OURS, NATURAL))
    said = "our network's Jacobian keeps to the main pattern of the image more than the natural one's"
    claims = [holds(said, "Figures 10, 15", ours > theirs, f"correlation with contrast {ours:.3g} and {theirs:.3g}")]
    return Found(titled({"": "Figures 10, 15"}, results), claims, DIFFERS[:1])


def slope_and_curvature() -> Curves:
    """t + κ t² / 2 for three curvatures κ: one slope, and the larger κ the sooner the value is another one."""
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    lines = {f"κ = {k:g}": Line(tuple((x + k * x.square() / 2).tolist())) for k in (0.0, 1.0, 4.0)}
    caption = "κ is the reciprocal of the radius of the osculating circle where the slope is 0."
    return Curves("Slope and curvature in one dimension", "t", "value", tuple(x.tolist()), lines, caption)


def _of_the_bound(results: Mapping[str, Result]) -> list[Claim]:
    table = table_in(results, "bounds")
    place = {column.heading: k for k, column in enumerate(table.columns)}
    promised, fooled = (sum(value_of(row[place[name]]) for row in table.rows) for name in ("promised", "fooled"))
    radius = max(value_of(row[place["radius"]]) for row in table.rows)
    last = [row for row in table.rows if value_of(row[place["radius"]]) == radius]
    evidence = "; ".join(
        f"{row[0]} {value_of(row[place['‖J‖₁']]):.3g}, {value_of(row[place['PGD']]):.1%}" for row in last
    )
    slopes, robust = ([value_of(row[place[name]]) for row in last] for name in ("‖J‖₁", "PGD"))
    relative = [value_of(row[place["‖J‖₁ / L"]]) for row in last]
    return [
        holds(
            "no attack fools an image whose bound by Eq. (9) is below its margin", "section 4.1", fooled == 0,
            f"{fooled:.0f} of {promised:.0f} promised",
        ),
        holds(f"the smaller ‖J‖₁, the higher the accuracy at {radius:g}", "section 4.1", against(slopes, robust), evidence),
        holds(
            f"the smaller ‖J‖₁ / L, the higher the accuracy at {radius:g}", UNSAID, against(relative, robust),
            ", ".join(f"{row[0]} {value:.3g}" for row, value in zip(last, relative, strict=True)),
        ),
    ]  # fmt: skip


def against(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether one falls as the other rises: nowhere the other way, and in all; false where a number is missing.

    Example:
        >>> against([3.0, 1.0, 2.0], [0.0, 0.5, 0.0]), against([3.0, 1.0], [0.0, 0.0])
        (True, False)
    """
    ordered = np.array(second)[np.argsort(first)]
    known = bool(np.isfinite([*first, *second]).all())
    return known and bool(np.all(np.diff(ordered) <= 0) and ordered[0] > ordered[-1])


def _at_random(examples: Examples, count: int) -> Examples:
    return examples.take(permutation(len(examples), generator=stream(0, "yu2018interpreting"))[:count])
