"""Make tables of the robustness indicator of Yu et al. 2018: its statistics for three Hessians, and a test of its bound."""

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
"""The three Hessians: of the margin, whose exact Hessian is 0 for a ReLU network almost everywhere, and of the loss."""
KINDS = {
    "Jacobian, mean": Column("mean |J|", "Mean over pixels."),
    "Jacobian, l_1 norm": Column("‖J‖₁", "Sum over pixels."),
    "Jacobian, zeros": Column("J, zeros", "Share of pixels.", ".1%"),
    "eigenvalues, mean": Column("mean |λ|", "Mean over eigenvalues."),
    "eigenvalues, l_1 norm": Column("Σ|λ|", "Sum over eigenvalues."),
    "eigenvalues, zeros": Column("λ, zeros", "Share of eigenvalues.", ".1%"),
    "Hessian, l_1 norm": Column("‖H‖₁", "Sum over entries."),
}


def make_statistics_table(
    models: Mapping[str, nn.Module], examples: Examples, few: int, h: float, progress: Progress[int] = silent
) -> Table:
    """Make a table of the statistics of Jacobian and Hessian: means over images in double precision.

    There is a row for each network and Hessian.

    Args:
        models: Networks by name.
        examples: Images with their labels.
        few: Number of images for the Hessian by finite differences. It costs a gradient per pixel.
        h: Step of the finite differences, in l_2 pixel units.
        progress: Display of the progress.

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
        "images": f"{examples.describe('test')}; {min(few, len(examples))} of them at h",
        "zeros": f"|J| < {zeros.jacobian_zero:g}, |λ| < {zeros.eigenvalue_zero:g}",
        "h": f"{h:.3g} in l_2, one grey level per pixel",
        "precision": "float64",
        "units": "pixel range [0, 1]",
    }
    caption = "Means over images. L = z_y − max z_k; its exact Hessian is 0 for a ReLU network."
    headings = (NETWORK, Column("of", "The function, and how its Hessian is computed."), *KINDS.values())
    return Table("Statistics of Jacobian and Hessian", headings, tuple(rows), caption, conditions)


def make_bound_table(
    models: Mapping[str, nn.Module], examples: Examples, radii: tuple[float, ...], progress: Progress[int] = silent
) -> Table:
    """Count the images that the bound of Eq. (9) declares safe and that an attack fools.

    The bound is that of the quadratic model. For a ReLU network the model is linear and does not see kinks. There is a row
    for each network and radius.

    Args:
        models: Networks by name.
        examples: Images with their labels.
        radii: Radii of the attack in l_inf.
        progress: Receives the progress of the attacks.

    Reference: yu2018interpreting, Eqs. (6) to (9).
    """
    rows: list[tuple[Cell, ...]] = []
    for name, model in models.items():
        values = evaluation.measure(model, examples, {"margin": _margin, "gradient norm": _gradient_norm}, loss=margin)
        right = values["margin"] > 0
        for radius in radii:
            attack = PGD(Ball(LINF, radius), steps=20, loss=margin_loss)
            outcome = evaluation.attack(model, examples, attack, progress=progress, heading=f"attacking {name}")
            change = evaluation.measure(model, examples, {"bound": DecisionChange(radius)}, loss=margin)["bound"]
            promised = right & (change < values["margin"])
            fooled = promised & ~outcome.robust
            relative = np.median(values["gradient norm"][right] / values["margin"][right]) if right.any() else None
            rows.append(
                (
                    name, radius, float(values["gradient norm"].mean()), None if relative is None else float(relative),
                    float(outcome.robust.mean()), int(promised.sum()), int(fooled.sum()),
                )
            )  # fmt: skip
    columns = (
        NETWORK,
        Column("radius", "Radius of the attack in l_inf."),
        Column("‖J‖₁", "Mean over images of the l_1 norm of the margin's gradient."),
        Column("‖J‖₁ / L", "Median over correctly classified images."),
        Column("PGD", "Accuracy under 20 steps on the margin.", ".1%"),
        Column("promised", "Images that the bound declares safe: it is below their margin.", "d"),
        Column("fooled", "Images among them that the attack fools.", "d"),
    )
    conditions = {"images": examples.describe("test"), "units": "pixel range [0, 1]"}
    return Table("Test of the bound of Eq. (9)", columns, tuple(rows), conditions=conditions)


def _margin(field: Field, x: Inputs) -> PerExample:
    return field(x)


def _gradient_norm(field: Field, x: Inputs) -> PerExample:
    return L1.length(gradient(field, x))
