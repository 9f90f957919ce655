"""Several networks' rows over several seeds: geometry and robustness in numbers, for every paper that compares models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, Ball
from lowcurve.attacks import PGD
from lowcurve.data import DataSet
from lowcurve.geometry import Curvature, PowerIteration
from lowcurve.papers.common.context import Context
from lowcurve.papers.common.lookup import read_value
from lowcurve.results import Cell, Claim, Column, Result, Table, holds, merge
from lowcurve.results.cells import counted
from lowcurve.study.boundary_results import boundary_results
from lowcurve.study.linearity_results import stability, train_against_test
from lowcurve.study.measured_network import MeasuredNetwork
from lowcurve.study.robustness_results import suite_of
from lowcurve.study.settings import Study
from lowcurve.types import Measure, Progress

POWER_STEPS = 10


@dataclass(frozen=True)
class TrainedRow:
    """A row's network with the study that it was made by and its data."""

    study: Study
    data: DataSet
    row: str
    model: nn.Module
    progress: Progress[int]


def train_row(context: Context, row: str, study: Study, seed: int = 0) -> TrainedRow:
    """The network of a row whose study has one method."""
    made, data, models = context.load_or_train(file_name(row), study, seed)
    (name,) = study.methods
    return TrainedRow(made, data, row, models[name], context.progress)


def make_seed_table(
    context: Context,
    wanted: Mapping[str, Study],
    kind: str,
    what: Callable[[Study], Any],
    make: Callable[[TrainedRow], Table],
) -> Table:
    """Each model's numbers: means over the seeds, between one standard deviation less and more.

    kind: how the parts are called; what: what decides them beside the study, of which it is made; make: a network's table of
    one row, of its name and then numbers alone.
    """
    lines: list[tuple[Cell, ...]] = []
    shown = Table("", (), ())
    for row, study in context.select_rows(wanted).items():
        found = []
        for seed in range(context.seeds):
            one = train_row(context, row, study, seed)
            key = (kind, one.study, what(one.study))
            name = f"{kind}-{file_name(row)}-{seed}"
            table = context.load_or_compute(name, key, partial(_as_results, kind, make, one))[kind]
            assert isinstance(table, Table)
            shown = table
            found.append([read_value(cell) for cell in table.rows[0][1:]])
        lines.append((row, *_spreads(np.array(found))))
    conditions = {**shown.conditions, "seeds": str(context.seeds)}
    return replace(shown, rows=tuple(lines), caption="In brackets one standard deviation.", conditions=conditions)


def make_geometry_table(context: Context, wanted: Mapping[str, Study], radii: Sequence[float]) -> Table:
    """Geometry and robustness in l_2, over the seeds."""
    return make_seed_table(context, wanted, "numbers", lambda _: tuple(radii), partial(_numbers, radii=radii))


def make_extra_results(context: Context, wanted: Mapping[str, Study], kinds: Sequence[str]) -> dict[str, Result]:
    """Results of other kinds (stability, discrepancy, boundary, certified), of the first seed's networks."""
    found: dict[str, list[Result]] = {}
    for row, study in context.select_rows(wanted).items():
        one = train_row(context, row, study)
        for kind in kinds:
            make = partial(_extra, kind, one)
            for name, result in context.load_or_compute(f"{kind}-{file_name(row)}", (kind, one.study), make).items():
                found.setdefault(name, []).append(result)
    return {name: merge(results) for name, results in found.items()}


def file_name(row: str) -> str:
    """A row's name as a file's.

    Example:
        >>> file_name("LCNN + gradient norm")
        'lcnn-gradient-norm'
    """
    return row.replace(" + ", "-").replace(" ", "-").lower()


def claim_order(found: Mapping[str, Mapping[str, Cell]], kind: str, models: Sequence[str], where: str) -> Claim:
    """Whether a number rises along these models, and whether by more than the seeds' spreads; not run where one of them was
    not.

    Example:
        >>> claim_order({"CURE": {"C": 2.0}, "standard": {"C": 9.0}}, "C", ("CURE", "standard"), "Table 1").shown
        'holds (2, 9)'
    """
    name = f"{kind}: {' < '.join(models)}"
    if not found.keys() >= set(models):
        return holds(name, where, None)
    values = [read_value(found[model][kind]) for model in models]
    evidence = ", ".join(f"{value:.3g}" for value in values)
    spans = [_span(found[model][kind]) for model in models]
    apart = all(a[1] < b[0] or b[1] < a[0] for a, b in pairwise(spans))
    near = "" if apart else "; neighbors within the seeds' spread"
    return holds(name, where, bool(np.all(np.diff(values) > 0)), evidence + near)


def _as_results(kind: str, make: Callable[[TrainedRow], Table], one: TrainedRow) -> dict[str, Result]:
    return {kind: make(one)}


def _numbers(one: TrainedRow, radii: Sequence[float]) -> Table:
    study, data, model, settings = one.study, one.data, one.model, one.study.evaluation
    few = data.test.take(slice(settings.curvature_examples))
    attacked = data.test.take(slice(settings.examples))
    subject = MeasuredNetwork(study, one.row, model, few, one.progress, {})
    measures: dict[str, Measure] = {"all": Curvature(settings.lanczos_steps), "power": PowerIteration(POWER_STEPS)}
    columns = subject.columns(measures)
    cells: list[tuple[Column, float]] = [
        (Column("‖g‖", "Mean over images."), float(columns["gradient norm"].mean())),
        (Column("‖H‖", "Mean over images, by Lanczos."), float(columns["Hessian norm"].mean())),
        (Column("‖H‖, power", f"By {POWER_STEPS} steps of power iteration."), float(columns["power"].mean())),
        (Column("C", "Mean of ‖H‖ / ‖g‖."), float(columns["normalized curvature"].mean())),
        (Column("C median", "Its median."), float(np.median(columns["normalized curvature"]))),
        (Column("clean", "", ".1%"), float(evaluation.correct(model, data.test).mean())),
    ]
    for radius in radii:
        left = evaluation.attack(
            model, attacked, PGD(Ball(L2, radius), steps=20), seed=study.seed, progress=one.progress,
            heading=f"PGD on {one.row}",
        )  # fmt: skip
        cells.append((Column(f"PGD at {radius:g}", "20 steps in l_2, true label.", ".1%"), float(left.robust.mean())))
    heading = f"strong on {one.row}"
    left = evaluation.attack(model, attacked, suite_of(study), seed=study.seed, progress=one.progress, heading=heading)
    strongest = Column(f"strong at {study.ball().radius:g}", "The suite strong.", ".1%")
    cells.append((strongest, float(left.robust.mean())))
    conditions = {
        "curvature": f"{len(few)} of the test set",
        "attacks": f"{len(attacked)} of the test set, l_2 in pixel units",
        **training_conditions(one),
    }
    return make_row_table("Geometry and robustness", one, cells, conditions)


def training_conditions(one: TrainedRow) -> dict[str, str]:
    """What holds for each table of rows: the test set, the mode, and how the network was made."""
    study = one.study
    return {
        "clean": f"{len(one.data.test)} of the test set",
        "BatchNorm": "eval mode",
        "network": f"{study.network}, width {study.width}, {study.training.epochs} epochs on {len(one.data.train)} images",
    }


def make_row_table(
    title: str, one: TrainedRow, cells: Sequence[tuple[Column, float]], conditions: Mapping[str, str]
) -> Table:
    """A network's numbers under their headings."""
    headings = (Column("network"), *(column for column, _ in cells))
    return Table(title, headings, ((one.row, *(value for _, value in cells)),), conditions=dict(conditions))


def _extra(kind: str, one: TrainedRow) -> dict[str, Result]:
    study, data, settings = one.study, one.data, one.study.evaluation
    few = data.test.take(slice(settings.curvature_examples))
    conditions = {"BatchNorm": "eval mode", **counted(few, "test")}
    subject = MeasuredNetwork(study, one.row, one.model, few, one.progress, conditions)
    if kind == "stability":
        return {kind: stability(subject)}
    if kind == "discrepancy":
        columns = subject.columns({"all": Curvature(settings.lanczos_steps)})
        return {kind: train_against_test(subject, columns, data.train.take(slice(len(few))))}
    few = data.test.take(slice(settings.boundary_examples))
    found = boundary_results(study, one.row, one.model, few, one.progress)
    return {name: result for name, result in found.items() if name == kind}


def _span(cell: Cell) -> tuple[float, float]:
    """From one end of its spread to the other."""
    return (cell[1], cell[2]) if isinstance(cell, tuple) else (read_value(cell), read_value(cell))


def _spreads(values: np.ndarray) -> list[Cell]:
    """(seeds, numbers) -> each number's mean between one standard deviation less and more; alone where there is one seed."""
    if len(values) == 1:
        return [float(v) for v in values[0]]
    means, deviations = values.mean(0), values.std(0, ddof=1)
    return [(float(m), float(m - d), float(m + d)) for m, d in zip(means, deviations, strict=True)]
