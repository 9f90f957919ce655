"""From columns of numbers to results: what the study shows of each network, and how networks are put side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lowcurve.results import Curves, Line, Result, Scatter, Table, join, merge
from lowcurve.study.method_options import METHOD_NAMES
from lowcurve.study.settings import Study
from lowcurve.training import History

READING_ORDER = (
    "against radius",
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
LEVELS = ("β ", "γ ", "σ ")
TRAINING_CURVES = {
    "course": ("", "", "mean over the epoch", ""),
    "course of β": (
        "β ",
        ": the sharpness of each nonlinearity",
        "β, the largest s″/s′",
        "ReLU has infinity, x/2 has 0.",
    ),
    "course of γ": ("γ ", ": the bound of each block", "γ", "The most by which a block may lengthen."),
    "course of σ": (
        "σ ",
        ": the norm of each block before it is clipped",
        "σ, by power iteration",
        "Where it is above γ the block is divided by as much as brings it there.",
    ),
}
"""Kind of result: how the names of its lines begin in a history, title, label, caption."""
GIVEN = "given"
"""Name of a network with the user's own weights."""
UNRELIABLE = "upper bound, evaluation unreliable"
"""What a failed audit's verdict begins with."""


def training_results(study: Study, method: str, history: History) -> dict[str, Result]:
    """The course of training, and of what LCNN's layers learn beside their weights."""
    epochs = tuple(row["epoch"] for row in history)
    conditions = {"seed": str(study.seed), "data": study.data}
    found: dict[str, Result] = {}
    for kind, (sign, what, label, caption) in TRAINING_CURVES.items():
        names = [name for name in history[0] if name.startswith(sign) and name not in ("epoch", "learning rate")]
        if kind == "course":
            names = [name for name in names if not name.startswith(LEVELS)]
        lines = {name.removeprefix(sign): Line(tuple(row[name] for row in history)) for name in names}
        if lines:
            title = f"Training {method}{what}"
            found[kind] = Curves(title, "epoch", label, epochs, lines, caption, conditions)
    return found


def unreliable(robustness: Table) -> dict[str, str]:
    """The networks whose robust accuracy the audit does not believe, each with its verdict."""
    headings = [column.heading for column in robustness.columns]
    if "audit" not in headings:
        return {}
    place = headings.index("audit")
    return {str(row[0]): str(row[place]) for row in robustness.rows if str(row[place]).startswith(UNRELIABLE)}


def _with_warning(result: Result, verdicts: Mapping[str, str]) -> Result:
    """The result with the words beside every such network's name, wherever its accuracies stand."""

    def named(name: str) -> str:
        return f"{name} ({UNRELIABLE})" if name in verdicts else name

    if isinstance(result, Curves) and "Accuracy" in result.title:
        return replace(result, lines={named(name): line for name, line in result.lines.items()})
    if isinstance(result, Scatter) and "radius" in result.y_label:
        return replace(result, points={named(name): points for name, points in result.points.items()})
    if isinstance(result, Table) and any("then " in column.heading for column in result.columns):
        return replace(result, rows=tuple((named(str(row[0])), *row[1:]) for row in result.rows))
    return result


def sort_networks(networks: Sequence[str]) -> list[str]:
    """A given network first, then the methods as the study lists them."""
    known = (GIVEN, *METHOD_NAMES)
    return sorted(networks, key=lambda name: (known.index(name) if name in known else len(known), name))


def merge_by_kind(found: Mapping[str, Sequence[Result]]) -> dict[str, Result]:
    """Several networks' results, kind by kind; the clean images, which are the same for all, once above the perturbed ones."""
    kinds = dict(found)
    if clean := kinds.pop("clean images", None):
        kinds["gallery"] = [clean[0], *kinds["gallery"]]
    return {kind: merge(results) for kind, results in kinds.items()}


def compare(parts: Mapping[str, Mapping[str, Result]], networks: Sequence[str]) -> dict[str, Result]:
    """The report's results from the parts of a run: one headline table, then each figure with all networks in it."""
    order = sort_networks(networks)
    grouped: dict[str, list[Result]] = {}
    for step in ("attack", "curvature"):
        for network in order:
            for kind, result in parts.get(f"{step}-{network}", {}).items():
                grouped.setdefault(kind, []).append(result)
    merged = merge_by_kind(grouped)
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
    figures |= {**parts.get("transfer", {}), **parts.get("drawn", {})}
    courses = {
        f"training {n}{kind.removeprefix('course')}": result
        for n in order
        for kind, result in parts.get(f"training-{n}", {}).items()
    }
    return {**compared, **figures, **courses}
