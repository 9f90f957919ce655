"""From columns of numbers to results: what the study shows of each network, and how networks are put side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.data import DataSet, Examples
from lowcurve.experiments.settings import METHODS, Study
from lowcurve.geometry import Curvature, Profile, SecantCurvature
from lowcurve.results import Column, Curves, Line, Result, Table, join, merge, summarize
from lowcurve.training import History
from lowcurve.types import Measure, Progress

NETWORK = Column("network", "How it was trained.")
READING_ORDER = (
    "against radius",
    "attacks",
    "gallery",
    "against scale",
    "profile",
    "profile at scale",
    "geometry",
    "audit",
)
UNRELIABLE = "upper bound, evaluation unreliable"
"""What a failed audit's verdict begins with."""
SCALES = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)
"""Scales h of the curvature figure, as multiples of the length of the study's largest perturbation."""


def training_results(study: Study, method: str, history: History) -> dict[str, Result]:
    """The course of training."""
    epochs = tuple(row["epoch"] for row in history)
    terms = [name for name in history[0] if name not in ("epoch", "learning rate")]
    lines = {name: Line(tuple(row[name] for row in history)) for name in terms}
    conditions = {"seed": str(study.seed), "data": study.data}
    title = f"Training {method}"
    return {"course": Curves(title, "epoch", "mean over the epoch", epochs, lines, conditions=conditions)}


def curvature_results(
    study: Study, data: DataSet, name: str, model: nn.Module, progress: Progress[int]
) -> dict[str, Result]:
    """The geometry of one network at test examples: a row of means and medians, curvature against scale, the profile."""
    settings = study.evaluation
    examples = data.test.take(slice(settings.curvature_examples))
    dimensions = int(np.prod(data.shape))
    reach = study.scale(dimensions)
    conditions = {
        "loss": "cross-entropy at the true label",
        "units": "pixel range [0, 1]",
        "BatchNorm": "eval mode",
        "examples": f"{len(examples)} of the test set",
    }
    measures: dict[str, Measure] = {
        "extremes": Curvature(settings.lanczos_steps),
        f"at scale {reach:.3g}": SecantCurvature(reach),
    }
    columns = evaluation.measure(model, examples, measures, progress=progress, heading=f"measuring {name}")
    results: dict[str, Result] = {"geometry": _geometry_row(name, columns, reach, settings.lanczos_steps, conditions)}
    results["against scale"] = _against_scale(name, model, examples, reach, conditions)
    if settings.profile_examples and dimensions <= settings.largest_profile:
        few = examples.take(slice(settings.profile_examples))
        shared = {**conditions, "examples": f"{len(few)} of the test set"}
        results["profile"] = _profile(name, model, few, None, shared)
        results["profile at scale"] = _profile(name, model, few, reach, shared)
    return results


def _geometry_row(
    name: str, columns: evaluation.Columns, reach: float, steps: int, conditions: Mapping[str, str]
) -> Table:
    slope, norm, ratio, secant = (
        summarize(columns[key])
        for key in ("gradient norm", "Hessian norm", "normalized curvature", f"at scale {reach:.3g}")
    )
    residual = summarize(columns["residual"] / np.maximum(columns["Hessian norm"], 1e-30))
    headings = (
        NETWORK,
        Column("‖g‖", "Mean l_2 norm of the input gradient of the loss."),
        Column("‖H‖", "Mean spectral norm (largest |eigenvalue|) of the exact input Hessian of the loss."),
        Column("‖H‖ median", "Its median over examples; the mean has a heavy tail."),
        Column("C", "Median of the normalized curvature ‖H‖ / ‖g‖."),
        Column(
            "‖Hₕz‖",
            f"Mean curvature along z = sign(g) at the scale of the attack, h = {reach:.3g}: ‖g(x + hz) − g(x)‖ / h.",
        ),
        Column(
            "error",
            "90 % quantile of the Lanczos residual relative to ‖H‖: how well the eigenvalues are known.",
            ".0e",
        ),
    )
    row = (name, slope.mean, norm.mean, norm.median, ratio.median, secant.mean, residual.high)
    how = {
        **conditions,
        "Hessian": f"exact products, Lanczos from the gradient, at most {steps} steps",
        "h": f"{reach:.3g} in l_2",
    }
    return Table("Curvature of the loss in input space", headings, (row,), conditions=how)


def _against_scale(
    name: str, model: nn.Module, examples: Examples, reach: float, conditions: Mapping[str, str]
) -> Curves:
    scales = tuple(reach * multiple for multiple in SCALES)
    measures = {f"{h}": SecantCurvature(h) for h in scales}
    found = [summarize(values) for values in evaluation.measure(model, examples, measures).values()]
    band = Line(*(tuple(getattr(s, part) for s in found) for part in ("median", "low", "high")))
    return Curves(
        "Curvature against scale",
        "scale h (l_2 length, pixel units)",
        "‖g(x + hz) − g(x)‖ / h, median and 10–90 %",
        scales,
        {name: band},
        caption="How much the input gradient turns along its own sign, z = sign(g)/‖sign(g)‖, over a distance h. "
        f"The study's attack reaches as far as h = {reach:.3g}.",
        conditions=conditions,
        x_logarithmic=True,
        y_logarithmic=True,
    )


def _profile(name: str, model: nn.Module, examples: Examples, h: float | None, conditions: Mapping[str, str]) -> Curves:
    # Few at a time: every example holds a d x d matrix.
    columns = evaluation.measure(model, examples, {"profile": Profile(h)}, batch_size=32)
    mean = columns["profile"].astype(np.float64).mean(0)
    title = (
        "Curvature profile, exact Hessian"
        if h is None
        else f"Curvature profile at the scale of the attack, h = {h:.3g}"
    )
    how = "exact products" if h is None else "secant along each coordinate, symmetrized"
    return Curves(
        title,
        "eigenvalue number, in rising order",
        "eigenvalue, mean over examples",
        tuple(float(k) for k in range(1, len(mean) + 1)),
        {name: Line(tuple(float(v) for v in mean))},
        caption="All eigenvalues of the input Hessian of the loss, sorted, then averaged over examples.",
        conditions={**conditions, "Hessian": how},
    )


def unreliable(robustness: Table) -> dict[str, str]:
    """The networks whose robust accuracy the audit does not believe, each with its verdict."""
    headings = [column.heading for column in robustness.columns]
    if "audit" not in headings:
        return {}
    place = headings.index("audit")
    return {str(row[0]): str(row[place]) for row in robustness.rows if str(row[place]).startswith(UNRELIABLE)}


def _with_warning(result: Result, verdicts: Mapping[str, str]) -> Result:
    """The result with the words beside every such network's name, wherever its accuracies stand."""
    if isinstance(result, Curves) and "Accuracy" in result.title:
        lines = {f"{name} ({UNRELIABLE})" if name in verdicts else name: line for name, line in result.lines.items()}
        return replace(result, lines=lines)
    if isinstance(result, Table) and any("then " in column.heading for column in result.columns):
        rows = tuple((f"{r[0]} ({UNRELIABLE})" if r[0] in verdicts else r[0], *r[1:]) for r in result.rows)
        return replace(result, rows=rows)
    return result


def in_reading_order(networks: Sequence[str]) -> list[str]:
    """A given network first, then the methods as the study lists them."""
    known = ("given", *METHODS)
    return sorted(networks, key=lambda name: (known.index(name) if name in known else len(known), name))


def compare(parts: Mapping[str, Mapping[str, Result]], networks: Sequence[str]) -> dict[str, Result]:
    """The report's results from the parts of a run: one headline table, then each figure with all networks in it."""
    order = in_reading_order(networks)
    grouped: dict[str, list[Result]] = {}
    for step in ("attack", "curvature"):
        for network in order:
            for kind, result in parts.get(f"{step}-{network}", {}).items():
                grouped.setdefault(kind, []).append(result)
    if clean := grouped.pop("clean images", None):
        grouped["gallery"] = [clean[0], *grouped["gallery"]]
    merged = {kind: merge(results) for kind, results in grouped.items()}
    tables = [table for kind in ("robustness", "geometry") if isinstance(table := merged.get(kind), Table)]
    compared: dict[str, Result] = {}
    if tables:
        # One table tells it all, how robust and how curved; what it leaves out stands further down.
        present = [column.heading for table in tables for column in table.columns]
        headline = [name for name in dict.fromkeys(present) if name not in ("‖H‖ median", "error")]
        compared["comparison"] = join("Robustness and curvature", tables, headline)
    figures = {kind: merged[kind] for kind in READING_ORDER if kind in merged}
    if isinstance(robustness := merged.get("robustness"), Table):
        figures = {kind: _with_warning(result, unreliable(robustness)) for kind, result in figures.items()}
    figures |= parts.get("transfer", {})
    courses = {f"training {n}": parts[f"training-{n}"]["course"] for n in order if f"training-{n}" in parts}
    return {**compared, **figures, **courses}
