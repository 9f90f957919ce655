"""The results of a study with known numbers, for tests of its report."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lowcurve.evaluation.audit import CHECKS
from lowcurve.results import Column, Curves, Gallery, Line, Panel, Points, Result, Scatter, Surface, Table, proportion
from lowcurve.results.cells import NETWORK

NETWORKS = ("standard", "CURE", "gradient-norm", "PGD")
CLEAN, ROBUST, CURVATURE = (353, 353, 353, 356), (101, 243, 188, 285), (21.4, 1.54, 2.63, 0.718)
RAISED = {("CURE", 6): "flag", ("CURE", 13): "flag", ("PGD", 13): "flag"}
NOT_RUN = (19, 20)


def share(count: int, of: int = 360) -> tuple[float, float, float]:
    found = proportion(count, of)
    return (found.value, found.low, found.high)


def comparison(robust: Sequence[int] = ROBUST, clean: Sequence[int] = CLEAN, of: int = 360) -> Table:
    columns = (NETWORK, Column("clean", "Accuracy.", ".1%"), Column("strong", "The suite.", ".1%"), Column("audit"))
    verdicts = [verdict(name) for name in NETWORKS]
    rows = tuple(
        (name, share(a, of), share(b, of), told)
        for name, a, b, told in zip(NETWORKS, clean, robust, verdicts, strict=False)
    )
    return Table(
        "Robustness and curvature",
        columns,
        rows,
        conditions={"examples (robustness)": f"all {of} of the test set, seed 0"},
    )


def verdict(name: str) -> str:
    warned = [check.name for check in CHECKS if RAISED.get((name, check.number)) == "flag"]
    failed = [check.name for check in CHECKS if RAISED.get((name, check.number)) == "fail"]
    if failed:
        return f"upper bound, evaluation unreliable: {', '.join(failed)}"
    return "no masking found by these tests" + (f"; warnings: {', '.join(warned)}" if warned else "")


def audit() -> Table:
    columns = (NETWORK, *map(Column, ("test", "outcome", "found", "meaning", "to do")))
    rows = []
    for name in NETWORKS:
        for check in CHECKS:
            outcome = "not run" if check.number in NOT_RUN else RAISED.get((name, check.number), "passed")
            texts = (check.means, check.hint) if outcome in ("flag", "fail") else ("", "")
            rows.append((name, f"{check.number}. {check.name}", outcome, f"the figures of {check.name}", *texts))
    return Table("Audit", columns, tuple(rows), "In order of cost.", {"seed": "0"})


def results() -> dict[str, Result]:
    """Results of every kind for four networks."""
    return dict(_results())


@functools.cache
def _results() -> dict[str, Result]:
    radii = (0.0, 0.125, 0.25)
    lines = {
        name: Line((a / 360, b / 360, 0.0), (a / 360 - 0.02, b / 360 - 0.05, 0.0), (1.0, b / 360 + 0.05, 0.01))
        for name, a, b in zip(NETWORKS, CLEAN, ROBUST, strict=True)
    }
    against = Curves(
        "Accuracy against radius", "radius (l_inf)", "robust accuracy", radii, lines, "A caption.", {"attack": "PGD-20"}
    )
    scales = (0.1, 1.0, 1.5)
    bends = {
        name: Line((c / 2, c, 1.2 * c), (c / 4, c / 3, c / 2), (2 * c, 3 * c, 3 * c))
        for name, c in zip(NETWORKS, CURVATURE, strict=True)
    }
    scale = Curves(
        "Curvature against scale", "scale h", "curvature", scales, bends, x_logarithmic=True, y_logarithmic=True
    )
    geometry = Table(
        "Curvature", (NETWORK, Column("C")), tuple(zip(NETWORKS, CURVATURE, strict=True)), conditions={"h": "1 in l_2"}
    )
    points = Points(tuple(np.linspace(0.1, 2, 90)), tuple(np.linspace(2, 0.1, 90)))
    scatter = Scatter("Curvature and robustness", "C", "radius", dict.fromkeys(NETWORKS, points), x_logarithmic=True)
    distance = Column("found by DeepFool", "Median.", ".3g")
    boundary = Table("The decision boundary", (NETWORK, distance, Column("osculating circle")),
                     tuple((name, (1.0 + i, 0.5, 2.0 + i), 1.0) for i, name in enumerate(NETWORKS)))  # fmt: skip
    axis = tuple(np.linspace(-1, 1, 21).tolist())
    x, y = np.meshgrid(axis, axis)
    panel = Panel(x**2 + y, {"parabola": Points(axis, tuple(-a * a for a in axis))}, {"image": (0.0, 0.5)}, "a note")
    surface = Surface(
        "Margin along r and v", "along v", "along r", axis, axis, dict.fromkeys(NETWORKS, panel), "margin", level=0.0,
        conditions={"grid": "21 x 21 points"},
    )  # fmt: skip
    classes = replace(surface, title="Classes", panels={n: Panel((x > 0).astype(int)) for n in NETWORKS}, value_label="",
                      level=None, classes=("cat", "dog"))  # fmt: skip
    pixels = np.linspace(0, 1, 4 * 3 * 64).reshape(4, 3, 1, 8, 8)
    gallery = Gallery("Perturbed images", NETWORKS, ("0", "1", "2"), pixels, (("predicted 1",) * 3,) * 4)
    last = {"validation accuracy": Line((0.5, 0.97))}
    course = {f"training {name}": Curves(f"Training {name}", "epoch", "mean", (1.0, 2.0), last) for name in NETWORKS}
    attacks = Table("The suite strong", (NETWORK, Column("then PGD")), tuple((name, 0.5) for name in NETWORKS))
    return {
        "comparison": comparison(), "against radius": against, "attacks": attacks, "gallery": gallery,
        "curvature and robustness": scatter, "against scale": scale, "geometry": geometry, "boundary": boundary,
        "audit": audit(), "margin 1": surface, "classes 1": classes, **course,
    }  # fmt: skip
