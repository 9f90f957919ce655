"""The results of a report: training curves, and the results of all networks merged by kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lowcurve.errors import InputError
from lowcurve.results import Curves, Line, Result, Scatter, Table, join, merge
from lowcurve.study.method_options import METHOD_NAMES
from lowcurve.study.optional import MISSING
from lowcurve.study.settings import Study
from lowcurve.training import History

READING_ORDER = (
    MISSING,
    "robustness",
    "against radius",
    "bracket",
    "verified",
    "attacks",
    "gallery",
    "curvature and robustness",
    "against scale",
    "stability",
    "profile",
    "profile at scale",
    "density",
    "geometry",
    "spectrum",
    "boundary",
    "certified",
    "linearity",
    "indicator",
    "discrepancy",
    "layers",
    "audit",
)
"""Kinds of results in the order of the report."""
LEVELS = ("β ", "γ ", "σ ")
TRAINING_CURVES = {
    "course": ("", "", "mean over the epoch", ""),
    "course of β": (
        "β ",
        ": the sharpness of each nonlinearity",
        "β, the largest s″/s′",
        "ReLU has infinity, x/2 has 0.",
    ),
    "course of γ": ("γ ", ": the bound of each block", "γ", "Upper bound of the block's Lipschitz constant."),
    "course of σ": (
        "σ ",
        ": the norm of each block before it is clipped",
        "σ, by power iteration",
        "If it is above γ, the block is divided by σ / γ.",
    ),
}
"""Kind of result -> prefix of its lines in a history, title, label, caption."""
GIVEN = "given"
"""Name of a network with the user's own weights."""
UNRELIABLE = "upper bound, evaluation unreliable"
"""Beginning of the verdict of a failed audit."""


def training_results(study: Study, method: str, history: History) -> dict[str, Result]:
    """Make the curves of a training, and those of the betas, gammas and norms of LCNN's layers.

    Args:
        study: Settings of the study.
        method: Name of the method.
        history: History of `training.fit`.

    Returns:
        Curves by kind.
    """
    epochs = tuple(row["epoch"] for row in history)
    conditions = {"seed": str(study.seed), "data": study.data}
    results: dict[str, Result] = {}
    for kind, (sign, what, label, caption) in TRAINING_CURVES.items():
        names = [name for name in history[0] if name.startswith(sign) and name not in ("epoch", "learning rate")]
        if kind == "course":
            names = [name for name in names if not name.startswith(LEVELS)]
        lines = {name.removeprefix(sign): Line(tuple(row[name] for row in history)) for name in names}
        if lines:
            title = f"Training {method}{what}"
            results[kind] = Curves(title, "epoch", label, epochs, lines, caption, conditions)
    return results


def unreliable(robustness: Table) -> dict[str, str]:
    """Return the networks whose audit failed, each with its verdict.

    Args:
        robustness: Table of robust accuracies with the column "audit".
    """
    told = zip(robustness.rows, map(str, robustness.cells("audit")), strict=False)
    return {str(row[0]): verdict for row, verdict in told if verdict.startswith(UNRELIABLE)}


def _with_warning(result: Result, verdicts: Mapping[str, str]) -> Result:
    """Mark the names of networks with a failed audit in results that show their accuracies."""

    def mark(name: str) -> str:
        return f"{name} ({UNRELIABLE})" if name in verdicts else name

    if isinstance(result, Curves) and "Accuracy" in result.title:
        return replace(result, lines={mark(name): line for name, line in result.lines.items()})
    if isinstance(result, Scatter) and "radius" in result.y_label:
        return replace(result, points={mark(name): points for name, points in result.points.items()})
    if isinstance(result, Table) and any("then " in column.heading for column in result.columns):
        return replace(result, rows=tuple((mark(str(row[0])), *row[1:]) for row in result.rows))
    return result


def sort_networks(networks: Sequence[str]) -> list[str]:
    """Sort names of networks: the user's own first, then the methods in the order of training."""
    known = (GIVEN, *METHOD_NAMES)
    return sorted(networks, key=lambda name: (known.index(name) if name in known else len(known), name))


def merge_by_kind(found: Mapping[str, Sequence[Result]]) -> dict[str, Result]:
    """Merge the results of several networks by kind.

    The clean images are the same for all networks and come once, above the perturbed ones.

    Args:
        found: Results of all networks by kind.
    """
    kinds = dict(found)
    if clean := kinds.pop("clean images", None):
        kinds["gallery"] = [clean[0], *kinds["gallery"]]
    return {kind: merge(results) for kind, results in kinds.items()}


def compare(parts: Mapping[str, Mapping[str, Result]], networks: Sequence[str]) -> dict[str, Result]:
    """Make the results of a report from the parts of a run: a summary table, then each figure with all networks.

    Args:
        parts: Results of each finished step by its name.
        networks: Names of the networks.

    Returns:
        Results by name in the order of the report.

    Raises:
        InputError: If a part has a result of a kind that the order does not list.
    """
    order = sort_networks(networks)
    grouped: dict[str, list[Result]] = {}
    for step in ("attack", "curvature"):
        for network in order:
            for kind, result in parts.get(f"{step}-{network}", {}).items():
                grouped.setdefault(kind, []).append(result)
    together = {step: dict(parts.get(step, {})) for step in ("transfer", "drawn")}
    for results in together.values():
        if missing := results.pop(MISSING, None):
            grouped.setdefault(MISSING, []).append(missing)
    if unknown := grouped.keys() - {*READING_ORDER, "clean images"}:
        hint = "add it to READING_ORDER in lowcurve/study/comparison.py"
        raise InputError("results of kinds that the report shows", repr(min(unknown)), hint)
    merged = merge_by_kind(grouped)
    tables = [table for kind in ("robustness", "geometry") if isinstance(table := merged.get(kind), Table)]
    compared: dict[str, Result] = {}
    if tables:
        # The summary table; the columns that it leaves out are in the tables below.
        present = [column.heading for table in tables for column in table.columns]
        shown = [name for name in dict.fromkeys(present) if name not in ("‖H‖ median", "error")]
        compared["comparison"] = join("Robustness and curvature", tables, shown)
    figures = {kind: merged[kind] for kind in READING_ORDER if kind in merged and kind != "robustness"}
    if isinstance(robustness := merged.get("robustness"), Table):
        figures = {kind: _with_warning(result, unreliable(robustness)) for kind, result in figures.items()}
    figures |= {kind: result for results in together.values() for kind, result in results.items()}
    courses = {
        f"training {n}{kind.removeprefix('course')}": result
        for n in order
        for kind, result in parts.get(f"training-{n}", {}).items()
    }
    return {**compared, **figures, **courses}
