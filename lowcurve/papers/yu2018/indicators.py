"""The robustness indicator of yu2018: its statistics under three readings of the Hessian, and what its bound promises."""

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.norms import L1, LINF, Ball
from lowcurve.attacks import PGD
from lowcurve.data import Examples
from lowcurve.geometry import DecisionChange, RobustnessIndicator
from lowcurve.losses import cross_entropy, margin, margin_loss
from lowcurve.results import Cell, Column, Table
from lowcurve.results.cells import NETWORK
from lowcurve.types import Field, Inputs, PerExample, Progress, silent

EXACT, SECANT, LOSS = "L, exact", "L, at h", "cross-entropy, exact"
"""Of which function and how: the margin of a ReLU network has no Hessian almost everywhere."""
KINDS = {
    "Jacobian, mean": Column("mean |J|", "Over pixels."),
    "Jacobian, l_1 norm": Column("‖J‖₁", "Sum over pixels."),
    "Jacobian, zeros": Column("J, zeros", "Share of pixels.", ".1%"),
    "eigenvalues, mean": Column("mean |λ|", "Over eigenvalues."),
    "eigenvalues, l_1 norm": Column("Σ|λ|", "Sum over eigenvalues."),
    "eigenvalues, zeros": Column("λ, zeros", "Share of eigenvalues.", ".1%"),
    "Hessian, l_1 norm": Column("‖H‖₁", "Sum over entries."),
}


def make_statistics_table(
    models: Mapping[str, nn.Module], examples: Examples, few: int, h: float, progress: Progress[int] = silent
) -> Table:
    """Means over the images of the statistics of Jacobian and Hessian, in double precision, a row a network and reading.

    few: how many of the images the Hessian at the scale h is taken at, which costs a gradient a pixel.

    Reference: yu2018interpreting, Fig. 8 and its footnote 3.
    """
    rows: list[tuple[Cell, ...]] = []
    for name, model in models.items():
        exactly = deepcopy(model).double()
        for reading, loss, scale in ((EXACT, margin, None), (SECANT, margin, h), (LOSS, cross_entropy, None)):
            measure = RobustnessIndicator(h=scale)
            images = examples if scale is None else examples.take(slice(few))
            columns = evaluation.measure(
                exactly, images, {"indicator": measure}, loss=loss, progress=progress, heading=f"{reading} of {name}"
            )
            rows.append((name, reading, *(float(columns[key].mean()) if key in columns else None for key in KINDS)))
    zeros = RobustnessIndicator()
    conditions = {
        "images": f"{len(examples)} of the test set, drawn at random; {min(few, len(examples))} of them at h",
        "zeros": f"|J| < {zeros.jacobian_zero:g}, |λ| < {zeros.eigenvalue_zero:g}",
        "h": f"{h:.3g} in l_2, a grey level a pixel",
        "precision": "float64",
        "units": "pixel range [0, 1]",
    }
    caption = "Means over images. L = z_y − max z_k; its exact Hessian is 0 for a ReLU network."
    headings = (NETWORK, Column("of", "The function, and how its Hessian is had."), *KINDS.values())
    return Table("Statistics of Jacobian and Hessian", headings, tuple(rows), caption, conditions)


def make_bound_table(
    models: Mapping[str, nn.Module], examples: Examples, radii: tuple[float, ...], progress: Progress[int] = silent
) -> Table:
    """Of the images whose bound by Eq. (9) is below their margin, how many an attack fools all the same; a row a network and
    radius. The bound is one of the quadratic model: of a ReLU network that is linear, and kinks are not in it.

    Reference: yu2018interpreting, Eqs. (6) to (9).
    """
    rows: list[tuple[Cell, ...]] = []
    for name, model in models.items():
        values = evaluation.measure(model, examples, {"margin": _value, "slope": _slope}, loss=margin)
        right = values["margin"] > 0
        for radius in radii:
            attack = PGD(Ball(LINF, radius), steps=20, loss=margin_loss)
            left = evaluation.attack(model, examples, attack, progress=progress, heading=f"attacking {name}")
            change = evaluation.measure(model, examples, {"bound": DecisionChange(radius)}, loss=margin)["bound"]
            promised = right & (change < values["margin"])
            fooled = promised & ~left.robust
            relative = np.median(values["slope"][right] / values["margin"][right]) if right.any() else None
            rows.append(
                (
                    name, radius, float(values["slope"].mean()), None if relative is None else float(relative),
                    float(left.robust.mean()), int(promised.sum()), int(fooled.sum()),
                )
            )  # fmt: skip
    columns = (
        NETWORK,
        Column("radius", "In l_inf."),
        Column("‖J‖₁", "Of the margin, mean over images."),
        Column("‖J‖₁ / L", "Median over images that are classified rightly."),
        Column("PGD", "Accuracy under 20 steps on the margin.", ".1%"),
        Column("promised", "Images whose bound is below their margin.", "d"),
        Column("fooled", "How many of those the attack fools.", "d"),
    )
    conditions = {"images": f"{len(examples)} of the test set", "units": "pixel range [0, 1]"}
    return Table("What the bound of Eq. (9) promises", columns, tuple(rows), conditions=conditions)


def _value(field: Field, x: Inputs) -> PerExample:
    return field(x)


def _slope(field: Field, x: Inputs) -> PerExample:
    return L1.length(gradient(field, x))
