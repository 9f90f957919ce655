"""The geometry of a network at test images: curvature, spectra, linearity and decision boundary."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.hessians import record_backends
from lowcurve.data import DataSet
from lowcurve.geometry import (
    Curvature,
    CurvatureParts,
    CurvatureProfile,
    DecisionChange,
    FrobeniusNorm,
    PowerIteration,
    RobustnessIndicator,
    SecantCurvature,
    SpectralDensity,
    gradient_norm,
)
from lowcurve.losses import margin, true_logit
from lowcurve.models import summary
from lowcurve.results import Cell, Column, Curves, Line, Result, Table, summarize
from lowcurve.results.cells import CELLS, NETWORK, band, count_examples, count_missing, spread
from lowcurve.study.boundary_results import boundary_results
from lowcurve.study.linearity_results import compare_with_training, measure_linearity, measure_stability
from lowcurve.study.measured_network import MeasuredNetwork
from lowcurve.study.optional import OptionalSteps
from lowcurve.study.settings import Study
from lowcurve.types import Field, Inputs, Measure, PerExample, Progress

SCALES = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)
"""Scales h of the curvature figure, as multiples of the l_2 length of the study's largest perturbation."""
GRID = np.linspace(-1, 1, 201)
"""Points at which the spectral density is drawn, in units of each image's ||H||."""


def curvature_results(
    study: Study, data: DataSet, name: str, model: nn.Module, progress: Progress[int]
) -> dict[str, Result]:
    """Measure the geometry of one network at test examples.

    Args:
        study: Settings.
        data: Data set.
        name: Name of the network.
        model: The network.
        progress: Progress display.

    Returns:
        Results by kind. What cannot be computed is listed in "missing" with its reason.
    """
    settings = study.evaluation
    examples = data.test.take(slice(settings.curvature_examples))
    conditions = {
        "loss": "cross-entropy at the true label",
        "units": "pixel range [0, 1]",
        "BatchNorm": "eval mode",
        **count_examples(examples, "test"),
    }
    optional = OptionalSteps(name)
    network = MeasuredNetwork(study, name, model, examples, progress, conditions, optional)
    with record_backends() as ways:
        extremes = network.available({"curvature": Curvature(settings.lanczos_steps)})
    extremes = extremes or network.available({"gradient norm": gradient_norm})
    how = f"exact, {' and '.join(sorted(ways))}; Lanczos from the gradient, at most {settings.lanczos_steps} steps"
    exact = replace(network, conditions={**conditions, **({"Hessian": how} if ways else {})})
    few = network.first(settings.profile_examples)
    steps: dict[str, Callable[[], Result]] = {
        "geometry": lambda: _geometry(exact, extremes),
        "spectrum": lambda: _spectrum(exact, extremes),
        "against scale": lambda: _against_scale(network),
        "stability": lambda: measure_stability(network),
        "linearity": lambda: measure_linearity(exact, extremes),
        "density": lambda: _density(network.first(settings.density_examples)),
        "indicator": lambda: _indicator(network.first(max(settings.profile_examples, settings.density_examples))),
        "discrepancy": lambda: compare_with_training(exact, extremes, data.train.take(slice(len(examples)))),
    }
    if int(np.prod(data.shape)) <= settings.largest_profile and settings.profile_examples:
        steps["profile"] = lambda: measure_profile(few, None)
        steps["profile at scale"] = lambda: measure_profile(few, few.reach)
    near = examples.take(slice(settings.boundary_examples))
    groups: dict[str, Callable[[], dict[str, Result]]] = {
        "boundary": lambda: boundary_results(study, name, model, near, progress, optional),
        "layers": lambda: tabulate_layers(name, model),
    }
    results = optional.collect(steps)
    for what, group in groups.items():
        results |= optional.run(what, group) or {}
    return results | optional.table()


def tabulate_layers(name: str, model: nn.Module) -> dict[str, Result]:
    """Make a table of the betas, gammas and norms of each layer of LCNN.

    Args:
        name: Name of the network.
        model: The network.

    Returns:
        "layers", or nothing if the network has no such layer.
    """
    rows = summary(model)
    if not rows:
        return {}
    headings = (
        NETWORK,
        Column("layer"),
        Column("kind"),
        Column("β", "Sharpness of the nonlinearity, its largest s″/s′."),
        Column("γ", "Upper bound of the block's Lipschitz constant."),
        Column("σ, at least", "Norm of the block before it is clipped, by power iteration."),
        Column("σ, at most", "The same by Gram iteration, an upper bound for every input."),
        Column("clipped", "yes if σ is above γ."),
    )
    cells: list[tuple[Cell, ...]] = [
        (
            *(name, row.name, row.kind, row.beta, row.gamma),
            *((None, None) if row.norm is None else (row.norm.lower, row.norm.upper)),
            {True: "yes", False: "no", None: None}[row.clipped],
        )
        for row in rows
    ]
    return {"layers": Table("Sharpness and norms of each layer", headings, tuple(cells))}


def _geometry(network: MeasuredNetwork, extremes: evaluation.Columns) -> Table:
    h = network.reach
    secant = network.available({"‖Hₕz‖": SecantCurvature(h)}).get("‖Hₕz‖")
    names = ("gradient norm", "Hessian norm", "normalized curvature", "residual")
    slope, norm, ratio, residual = (extremes.get(name) for name in names)
    error = None if residual is None or norm is None else residual / np.maximum(norm, 1e-30)
    headings = (
        NETWORK,
        Column("‖g‖", "Mean l_2 norm of the input gradient of the loss."),
        Column("‖H‖", "Mean spectral norm (largest |eigenvalue|) of the exact input Hessian of the loss."),
        Column("‖H‖ median", "Its median over examples; the mean has a heavy tail."),
        Column("C", "Median of the normalized curvature ‖H‖ / ‖g‖."),
        Column(
            "‖Hₕz‖",
            f"Mean curvature along z = sign(g) at the scale of the attack, h = {h:.3g}: ‖g(x + hz) − g(x)‖ / h.",
        ),
        Column(
            "error",
            "90 % quantile of the Lanczos residual relative to ‖H‖: how well the eigenvalues are known.",
            ".0e",
        ),
    )
    row = (
        network.name,
        *(None if values is None else summarize(values).mean for values in (slope, norm)),
        *(None if values is None else summarize(values).median for values in (norm, ratio)),
        None if secant is None else summarize(secant).mean,
        None if error is None else summarize(error).high,
    )
    missing = count_missing({"‖g‖": slope, "‖H‖": norm, "C": ratio, "‖Hₕz‖": secant})
    conditions = {**network.conditions, "h": f"{h:.3g} in l_2", **missing}
    return Table("Curvature of the loss in input space", headings, (row,), conditions=conditions)


def _spectrum(network: MeasuredNetwork, extremes: evaluation.Columns) -> Table:
    """Make a table of further properties of the Hessian, each with its quantiles."""
    steps = network.study.evaluation.lanczos_steps
    power = PowerIteration()
    measures: dict[str, Measure] = {
        "Frobenius norm": FrobeniusNorm(),
        "‖H‖, power": power,
        "network's share": CurvatureParts(steps),
    }
    more = network.available(measures)
    ratio = {
        name: network.available({f"C, {name}": Curvature(steps)}, loss).get("normalized curvature")
        for name, loss in (("margin", margin), ("logit", true_logit))
    }
    norm, rest = extremes.get("Hessian norm"), more.get("network norm")
    share = None if norm is None or rest is None else rest / np.maximum(norm, 1e-30)
    columns: list[tuple[Column, np.ndarray | None]] = [
        (Column("‖g‖", "l_2 norm of the input gradient."), extremes.get("gradient norm")),
        (Column("‖H‖", "Spectral norm, the largest |eigenvalue|."), extremes.get("Hessian norm")),
        (Column("λ max", "The largest eigenvalue with its sign, CURE's ν."), extremes.get("largest eigenvalue")),
        (
            Column("‖H‖, power", f"As in the LCNN paper: {power.steps} steps of power iteration, a lower bound."),
            more.get("‖H‖, power"),
        ),
        (Column("‖H‖_F", "Frobenius norm: ten directions exactly, twenty random draws."), more.get("Frobenius norm")),
        (Column("C", "Normalized curvature ‖H‖ / ‖g‖ of the loss."), extremes.get("normalized curvature")),
        (Column("C, margin", "The same of the margin z_y − max z_k; 0 for a ReLU network."), ratio["margin"]),
        (Column("C, logit", "The same of the true logit."), ratio["logit"]),
        (Column("network's share", "‖H − JᵀAJ‖ / ‖H‖: the part that does not come from the loss function."), share),
        (Column("alignment", "|⟨g, u⟩| / ‖g‖ with u the eigenvector of ‖H‖."), extremes.get("alignment")),
    ]
    row = (network.name, *(spread(values) for _, values in columns))
    headings = (NETWORK, *(column for column, _ in columns))
    title = "The Hessian, for each image"
    return Table(title, headings, (row,), CELLS, conditions=network.conditions)


def _against_scale(network: MeasuredNetwork) -> Curves:
    scales = tuple(network.reach * multiple for multiple in SCALES)
    columns = network.columns({f"{h:g}": SecantCurvature(h) for h in scales})
    return Curves(
        "Curvature against scale",
        "scale h (l_2 length, pixel units)",
        "‖g(x + hz) − g(x)‖ / h, median and 10–90 %",
        scales,
        {network.name: band([columns[f"{h:g}"] for h in scales])},
        caption="Change of the input gradient along its own sign, z = sign(g)/‖sign(g)‖, over a distance h. "
        f"The study's attack reaches as far as h = {network.reach:.3g}.",
        conditions={**network.conditions, **count_missing(columns)},
        x_logarithmic=True,
        y_logarithmic=True,
    )


def _density(network: MeasuredNetwork) -> Curves:
    measure, width = SpectralDensity(), 0.01
    columns = network.columns({"density": measure})
    largest = np.maximum(np.abs(columns["eigenvalues"]).max(1, keepdims=True), 1e-30)
    away = (GRID[:, None, None] - columns["eigenvalues"] / largest) / width
    heights = (np.exp(-(away**2) / 2) * columns["masses"]).sum(2).mean(1) / (width * np.sqrt(2 * np.pi))
    return Curves(
        "Spectral density of the exact Hessian",
        "eigenvalue, in units of the image's largest",
        "density, mean over examples",
        tuple(float(t) for t in GRID),
        {network.name: Line(tuple(float(v) for v in np.maximum(heights, 1e-6)))},
        caption=f"Distribution of all eigenvalues. Each is smoothed by {width}; densities below 1e-6 are drawn at 1e-6.",
        conditions={**network.conditions, "Hessian": f"exact; {measure.draws} probes of {measure.steps} Lanczos steps"},
        y_logarithmic=True,
    )


def _indicator(network: MeasuredNetwork) -> Table:
    """Compute the indicator of yu2018 from the exact Hessian and at the scale of the attack, which includes ReLU kinks."""
    h, up_to, ball = network.reach, network.study.evaluation.largest_profile, network.study.ball()
    exact = RobustnessIndicator(up_to=up_to)
    change = DecisionChange(ball.radius, ball.norm, network.study.evaluation.lanczos_steps)
    measures: dict[str, Measure] = {"Σ|λ|": exact, "change at most": change, "margin": _value}
    columns = network.available(measures, margin)
    changes, margins = columns.get("change at most"), columns.get("margin")
    kept = None if changes is None or margins is None else float((changes < margins).mean())
    at_scale = network.available({"Σ|λ|, at h": RobustnessIndicator(up_to=up_to, h=h)}, margin)
    zeros = f"|J| < {exact.jacobian_zero:g}", f"|λ| < {exact.eigenvalue_zero:g}"
    wanted: list[tuple[Column, np.ndarray | None]] = [
        (Column("mean |J|", "Of the margin's Jacobian, over pixels."), columns.get("Jacobian, mean")),
        (Column("‖J‖₁", "Sum over pixels."), columns.get("Jacobian, l_1 norm")),
        (Column("J, zeros", f"Share of pixels with {zeros[0]}.", ".1%"), columns.get("Jacobian, zeros")),
        (Column("Σ|λ|", "Of the margin's exact Hessian; 0 for a ReLU network."), columns.get("eigenvalues, l_1 norm")),
        (Column("λ, zeros", f"Share of eigenvalues with {zeros[1]}.", ".1%"), columns.get("eigenvalues, zeros")),
        (
            Column("Σ|λ|, at h", f"The same at the scale of the attack, h = {h:.3g}, symmetrized."),
            at_scale.get("eigenvalues, l_1 norm"),
        ),
        (Column("mean |λ|, at h", "Its mean over eigenvalues."), at_scale.get("eigenvalues, mean")),
        (Column("margin", "z_y − max z_k."), columns.get("margin")),
        (
            Column(
                "change at most", "‖J‖ r + ‖H‖ R²/2: largest change of the quadratic model of the margin in the ball."
            ),
            columns.get("change at most"),
        ),
    ]
    row = (network.name, *(spread(values) for _, values in wanted), kept)
    keeps = Column("kept", "Share of images whose margin is larger: the quadratic model keeps its decision.", ".1%")
    headings = (NETWORK, *(column for column, _ in wanted), keeps)
    conditions = {
        **network.conditions,
        "loss": "the margin z_y − max z_k",
        "zeros": ", ".join(zeros),
        "h": f"{h:.3g} in l_2",
        "ball": f"{ball.norm.name} radius {ball.radius:.4g}, no pixel box",
    }
    title = "Robustness indicator of the decision function"
    return Table(title, headings, (row,), CELLS, conditions)


def _value(field: Field, x: Inputs) -> PerExample:
    """Return the field itself, as a measure."""
    return field(x)


def measure_profile(network: MeasuredNetwork, h: float | None) -> Curves:
    """Compute all eigenvalues of the loss's Hessian, sorted and averaged over the images.

    Args:
        network: Network at its test images.
        h: Scale, an l_2 length in pixel units; None for the exact Hessian.
    """
    mean = network.columns({"profile": CurvatureProfile(h)})["profile"].astype(np.float64).mean(0)
    exact = h is None
    title = (
        "Curvature profile, exact Hessian" if exact else f"Curvature profile at the scale of the attack, h = {h:.3g}"
    )
    how = "exact" if exact else "secant along each coordinate, symmetrized"
    return Curves(
        title,
        "eigenvalue number, in rising order",
        "eigenvalue, mean over examples",
        tuple(float(k) for k in range(1, len(mean) + 1)),
        {network.name: Line(tuple(float(v) for v in mean))},
        caption="All eigenvalues of the input Hessian of the loss, sorted, then averaged over examples.",
        conditions={**network.conditions, "Hessian": how},
    )
