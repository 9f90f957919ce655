"""Reproduce Figures 5, 8, 10 and 15 of Yu et al. 2018: statistics of Jacobian and Hessian, and Jacobians as pictures."""

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
from lowcurve.papers.common.lookup import as_table, read_cells, read_records, read_value
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
from lowcurve.results import NOT_IN_PAPER, Claim, Column, Curves, Line, Result, Table, holds
from lowcurve.results.cells import NETWORK

PRINTED_STATISTICS = {
    NATURAL: ("~500", "1.1 %", "1.26", "65.6 %"),
    MINMAX: ("~50", "54.0 %", "0.53", "97.1 %"),
}
"""Section 4.3: l_1 norm of J, share of zeros in J, l_1 norm of H, share of zeros among the eigenvalues of H."""


def figure_8(context: Context) -> Reproduction:
    """Compare the statistics of Jacobian and Hessian, test the bound of Eq. (9), and rank networks by the indicator.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Figs. 5 and 8.
    """
    wanted = make_studies(context, choose_table(context))
    test = train_row(context, NATURAL, wanted[NATURAL]).data.test
    sample = _sample(test, limit_count(context, 100))
    h, few = float(np.sqrt(np.prod(test.shape))) * pixels(1), limit_count(context, 12)
    radii = (0.02, 0.05, 0.1)

    def make() -> dict[str, Result]:
        models = {row: train_row(context, row, study).model for row, study in wanted.items()}
        three = {row: models[row] for row in (NATURAL, MINMAX, OURS)}
        images = test.take(slice(limit_count(context, 200)))
        shared = select_shared_images(context, {row: wanted[row] for row in (NATURAL, MINMAX)}, 4)
        return {
            "numbers": make_statistics_table(three, sample, few, h, context.progress),
            "bounds": make_bound_table(models, images, radii, context.progress),
            "jacobians": jacobians(shared)["margin"],
            "slope and curvature": make_slope_and_curvature_curves(),
        }

    results = context.load_or_compute("figure-8", ("statistics", wanted, len(sample), few, radii), make)
    differs = (
        "The Hessian of a ReLU network's margin is 0 almost everywhere, so the paper's numbers must be of something else. "
        "Three readings are shown: exact, at the scale of one grey level, and of the cross-entropy.",
        DIFFERS[0],
    )
    titled = add_figure_numbers({"slope": "Figure 5", "": "Figure 8"}, results)
    return Reproduction(titled, claim_figure_8(results, context.data), differs)


def claim_figure_8(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare the statistics of Figure 8 with our numbers, and test the bound of Eq. (9).

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    table = as_table(results["numbers"])
    found = {(str(row[0]), str(row[1])): record for row, record in zip(table.rows, read_records(table), strict=True)}
    claims = []
    for row, (jacobian_norm, jacobian_zeros, hessian_norm, hessian_zeros) in PRINTED_STATISTICS.items():
        claims.append(Claim(f"{row}: ‖J‖₁", jacobian_norm, "section 4.3", found[row, EXACT]["‖J‖₁"]))
        claims.append(Claim(f"{row}: zeros in J", jacobian_zeros, "section 4.3", found[row, EXACT]["J, zeros"], ".1%"))
        for reading in (EXACT, SECANT, LOSS):
            cells = found[row, reading]
            claims.append(Claim(f"{row}: ‖H‖₁ of {reading}", hessian_norm, "section 4.3", cells["‖H‖₁"]))
            said = f"{row}: zero eigenvalues of {reading}"
            claims.append(Claim(said, hessian_zeros, "section 4.3", cells["λ, zeros"], ".1%"))
    for other, kind, what, printed, where in (
        (MINMAX, EXACT, "‖J‖₁", "10", "section 4.3"), (MINMAX, SECANT, "‖H‖₁", "2.4", "section 4.3"),
        (OURS, EXACT, "‖J‖₁", "10", "section 5.3"), (OURS, SECANT, "‖H‖₁", "3", "section 5.3"),
    ):  # fmt: skip
        ratio = read_value(found[NATURAL, kind][what]) / max(read_value(found[other, kind][what]), 1e-12)
        claims.append(Claim(f"{what} of {kind}, natural over {other}", printed, where, ratio))
    return [*claims, *_claim_bound(results)]


def figure_10(context: Context) -> Reproduction:
    """Show Jacobians of the margin as pictures, and correlate them with the edges of the images.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Figs. 10 and 15.
    """
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
        columns = (NETWORK, Column("alignment", "Mean over images."), Column("median", "Median over images."))
        conditions = {
            "images": f"{len(shared.numbers)} that every network classifies correctly",
            "of": "the margin's Jacobian",
        }
        table = Table("Correlation of |J| with local contrast", columns, aligned, conditions=conditions)
        return {"jacobians": jacobians(shared.first(6))["margin"], "numbers": table}

    results = context.load_or_compute("figure-10", ("jacobians", wanted), make)
    found = read_cells(as_table(results["numbers"]))
    ours, theirs = (read_value(found[row]["alignment"]) for row in (OURS, NATURAL))
    said = "our network's Jacobian follows the main pattern of the image more closely than the natural network's"
    claims = [holds(said, "Figures 10, 15", ours > theirs, f"correlation with contrast {ours:.3g} and {theirs:.3g}")]
    return Reproduction(add_figure_numbers({"": "Figures 10, 15"}, results), claims, DIFFERS[:1])


def make_slope_and_curvature_curves() -> Curves:
    """Make curves of t + κ t² / 2, which have equal derivatives at 0 and different curvatures κ.

    Reference: yu2018interpreting, Fig. 5.
    """
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    lines = {f"κ = {k:g}": Line(tuple((x + k * x.square() / 2).tolist())) for k in (0.0, 1.0, 4.0)}
    caption = "κ is the reciprocal of the radius of the osculating circle where the derivative is 0."
    return Curves("Derivative and curvature in one dimension", "t", "value", tuple(x.tolist()), lines, caption)


def _claim_bound(results: Mapping[str, Result]) -> list[Claim]:
    records = read_records(results["bounds"])
    promised, fooled = (sum(read_value(record[name]) for record in records) for name in ("promised", "fooled"))
    radius = max(read_value(record["radius"]) for record in records)
    last = [record for record in records if read_value(record["radius"]) == radius]
    norms, robust, relative = ([read_value(record[name]) for record in last] for name in ("‖J‖₁", "PGD", "‖J‖₁ / L"))
    names = [str(record["network"]) for record in last]
    evidence = "; ".join(f"{name} {n:.3g}, {r:.1%}" for name, n, r in zip(names, norms, robust, strict=True))
    return [
        holds(
            "no attack fools an image whose bound by Eq. (9) is below its margin", "section 4.1", fooled == 0,
            f"{fooled:.0f} of {promised:.0f} images declared safe", told=fooled > 0 or None,
        ),
        holds(
            f"the smaller ‖J‖₁, the higher the accuracy at {radius:g}", "section 4.1", decreases_with(norms, robust), evidence
        ),
        holds(
            f"the smaller ‖J‖₁ / L, the higher the accuracy at {radius:g}", NOT_IN_PAPER, decreases_with(relative, robust),
            ", ".join(f"{name} {value:.3g}" for name, value in zip(names, relative, strict=True)),
        ),
    ]  # fmt: skip


def decreases_with(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether the second sequence falls as the first rises, nowhere rises, and falls overall.

    Args:
        first: Numbers that give the order.
        second: As many numbers. A number that is not finite in either sequence makes the answer False.

    Example:
        >>> decreases_with([3.0, 1.0, 2.0], [0.0, 0.5, 0.0]), decreases_with([3.0, 1.0], [0.0, 0.0])
        (True, False)
    """
    ordered = np.array(second)[np.argsort(first)]
    known = bool(np.isfinite([*first, *second]).all())
    return known and bool(np.all(np.diff(ordered) <= 0) and ordered[0] > ordered[-1])


def _sample(examples: Examples, count: int) -> Examples:
    return examples.take(permutation(len(examples), generator=stream(0, "yu2018interpreting"))[:count])
