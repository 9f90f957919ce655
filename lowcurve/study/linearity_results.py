"""Linearity of the loss around an image: gradient under noise, tangent plane, training against test images."""

from dataclasses import replace

import numpy as np
import torch

from lowcurve import evaluation
from lowcurve.analysis.norms import Norm
from lowcurve.data import Examples
from lowcurve.geometry import (
    Curvature,
    GradientStability,
    LinearityError,
    discrepancy,
    gradient_change_bounds,
    linearity_error_bounds,
    value_change_bounds,
)
from lowcurve.results import Cell, Column, Curves, Line, Table, summarize
from lowcurve.results.cells import CELLS, NETWORK, band, count_missing, spread
from lowcurve.study.measured_network import MeasuredNetwork
from lowcurve.types import Measure


def measure_stability(network: MeasuredNetwork) -> Curves:
    """Measure the relative change of the gradient under random noise, compared with the estimate by C at the image.

    Args:
        network: Network at its test images.
    """
    measure = GradientStability(steps=network.study.evaluation.lanczos_steps)
    columns = network.columns({"stability": measure})
    noise, estimate = (
        [columns[f"gradient change, {kind} {length:g}"] for length in measure.lengths] for kind in ("noise", "estimate")
    )
    medians = Line(tuple(float(np.median(values)) for values in estimate))
    return Curves(
        "Change of the gradient under noise",
        "length of the noise (l_2, pixel units)",
        "‖g(x + e) − g(x)‖ / ‖g(x)‖, median and 10–90 %",
        measure.lengths,
        {network.name: band(noise), f"{network.name}, ‖e‖ C": medians},
        caption="Random noise e of each length, uniform in direction, and the estimate ‖e‖ C for the worst direction, with the "
        "normalized curvature C at x. C does not include the kinks of a ReLU network.",
        conditions={**network.conditions, "draws": f"{measure.draws} an example", **count_missing(columns)},
        x_logarithmic=True,
        y_logarithmic=True,
    )


def measure_linearity(network: MeasuredNetwork, extremes: evaluation.Columns) -> Table:
    """Measure the distance of the loss from its tangent plane over the length of the attack, compared with bounds by C.

    Args:
        network: Network at its test images.
        extremes: Columns of `Curvature` at these images.
    """
    norm, radius = Norm(network.study.norm), network.study.ball().radius
    found = {
        kind: network.available({f"linearity, {kind}": LinearityError(radius, norm, kind)})
        for kind in ("random", "steepest")
    }
    names = ("linearity error", "linearity error, second order")
    cells = [spread(found[kind].get(name)) for kind in found for name in names]
    if "normalized curvature" in extremes:
        ratio, slope = (torch.from_numpy(extremes[key]) for key in ("normalized curvature", "gradient norm"))
        change, error = gradient_change_bounds(network.reach, ratio), linearity_error_bounds(network.reach, ratio)
        value = value_change_bounds(network.reach, ratio, slope)
        bounds = (error.sharp, change.quadratic, change.sharp, value.quadratic, value.sharp)
        cells += [spread(bound.numpy()) for bound in bounds]
    else:
        cells += [None] * 5
    headings = (
        NETWORK,
        Column("random", "|l(x + e) − l(x) − ⟨g, e⟩| / ‖g‖ for random e of the attack's radius: an l_2 length."),
        Column("random, ½eᵀHe", "What the Hessian at x predicts of it."),
        Column("steepest", "The same for the steepest e of the attack's norm."),
        Column("steepest, ½eᵀHe", "What the Hessian predicts of that."),
        Column("(eᵃ − 1 − a)/C", "Its bound with a = ‖e‖C, if C at x were the largest in the ball."),
        Column("a", "‖e‖C: the gradient's relative change if the loss were quadratic (Proposition 1)."),
        Column("eᵃ − 1", "The bound of that change if C at x were the largest in the ball (Proposition 1, sharpened)."),
        Column("‖e‖‖g‖(1 + a/2)", "Change of the loss if it were quadratic (Proposition 2, whose form has 1 + a)."),
        Column(
            "‖e‖‖g‖(eᵃ − 1)/a",
            "The bound of that change if C at x were the largest in the ball (Proposition 2, sharpened).",
        ),
    )
    conditions = {
        **network.conditions,
        "e": f"{norm.name} radius {radius:.4g}, l_2 length at most {network.reach:.3g}; no pixel box",
    }
    row = (network.name, *cells)
    return Table("Linearity of the loss around the image", headings, (row,), CELLS, conditions)


def compare_with_training(network: MeasuredNetwork, test: evaluation.Columns, train: Examples) -> Table:
    """Compare the geometry at test images with that at training images, as Table 3 of srinivas2022lcnn.

    Args:
        network: Network at its test images.
        test: Columns of `Curvature` at these images.
        train: Training images.
    """
    measures: dict[str, Measure] = {"curvature at training images": Curvature(network.study.evaluation.lanczos_steps)}
    training = replace(network, examples=train).available(measures)
    parts = {"training": training, "test": test}
    names = {"‖g‖": "gradient norm", "‖H‖": "Hessian norm", "C": "normalized curvature"}
    cells = [_ratio(training.get(key), test.get(key)) for key in names.values()]
    headings = [Column(heading, f"(test − train) / train of the mean {heading}.") for heading in names]
    missing = {f"{key}, {part}": column.get(key) for key in names.values() for part, column in parts.items()}
    caption = "Relative difference of the geometry at test and at training images; in brackets the 95 % interval."
    counts = f"{train.describe('training')}; {network.examples.describe('test')}"
    conditions = {**network.conditions, "examples": counts, **count_missing(missing)}
    return Table("Training against test images", (NETWORK, *headings), ((network.name, *cells),), caption, conditions)


def _ratio(train: np.ndarray | None, test: np.ndarray | None) -> Cell:
    """Return the discrepancy with its 95 % interval, or None if the mean at training images is 0 or missing."""
    if train is None or test is None:
        return None
    means = [values[np.isfinite(values)] for values in (train, test)]
    if not all(len(values) for values in means) or not means[0].any():
        return None
    found = discrepancy(*(summarize(values) for values in means))
    reach = 1.96 * found.standard_error
    return (found.value, found.value - reach, found.value + reach)
