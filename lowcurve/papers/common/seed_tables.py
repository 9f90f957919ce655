"""Make tables of several networks over several seeds: geometry and robustness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, Ball
from lowcurve.attacks import PGD
from lowcurve.data import DataSet
from lowcurve.geometry import Curvature, PowerIteration
from lowcurve.papers.common.context import Context
from lowcurve.papers.common.lookup import as_table, read_value
from lowcurve.results import Cell, Column, Result, Table, merge
from lowcurve.results.cells import count_examples
from lowcurve.study.boundary_results import boundary_results
from lowcurve.study.linearity_results import compare_with_training, measure_stability
from lowcurve.study.measured_network import MeasuredNetwork
from lowcurve.study.robustness_row import suite_of
from lowcurve.study.settings import Study
from lowcurve.types import Measure, Progress

POWER_STEPS = 10
"""Steps of power iteration, a few as in srinivas2022lcnn."""


@dataclass(frozen=True)
class TrainedRow:
    """The trained network of a row.

    Attributes:
        study: The resolved study.
        data: Its data.
        row: Name of the row.
        model: The network in eval mode.
        progress: Receives the progress of long computations.
    """

    study: Study
    data: DataSet
    row: str
    model: nn.Module
    progress: Progress[int]


def train_row(context: Context, row: str, study: Study, seed: int = 0) -> TrainedRow:
    """Return the network of a row, loaded if it is stored and trained otherwise.

    Args:
        context: The context of the item.
        row: Name of the row.
        study: The row's study, which has exactly one method.
        seed: Seed of the data split and of training.
    """
    made, data, models = context.load_or_train(file_name(row), study, seed)
    (name,) = study.methods
    return TrainedRow(made, data, row, models[name], context.progress)


def make_seed_table(
    context: Context,
    wanted: Mapping[str, Study],
    kind: str,
    settings: Callable[[Study], Any],
    make: Callable[[TrainedRow], Table],
) -> Table:
    """Make a table of means over the seeds, each with an interval of one standard deviation to either side.

    Args:
        context: The context of the item.
        wanted: The studies by row.
        kind: Prefix of the names of stored parts.
        settings: Function of a study. It returns the other settings that change the row.
        make: Makes a table with one row. It has the network's name, then numbers.
    """
    lines: list[tuple[Cell, ...]] = []
    table = Table("", (), ())
    for row, study in context.select_rows(wanted).items():
        numbers = []
        for seed in range(context.seeds):
            trained = train_row(context, row, study, seed)
            key = (kind, trained.study, settings(trained.study))
            name = f"{kind}-{file_name(row)}-{seed}"
            table = as_table(context.load_or_compute(name, key, partial(_make_part, kind, make, trained))[kind])
            numbers.append([read_value(cell) for cell in table.rows[0][1:]])
        lines.append((row, *_average_seeds(np.array(numbers))))
    conditions = {**table.conditions, "seeds": str(context.seeds)}
    return replace(table, rows=tuple(lines), caption="In brackets: one standard deviation.", conditions=conditions)


def make_geometry_table(context: Context, wanted: Mapping[str, Study], radii: Sequence[float]) -> Table:
    """Make a table of geometry and of robustness in l_2, over the seeds.

    Args:
        context: The context of the item.
        wanted: The studies by row.
        radii: The radii of PGD, in l_2 pixel units.
    """
    return make_seed_table(context, wanted, "numbers", lambda _: tuple(radii), partial(_make_geometry_row, radii=radii))


def make_extra_results(context: Context, wanted: Mapping[str, Study], kinds: Sequence[str]) -> dict[str, Result]:
    """Make results of other kinds for the networks of the first seed.

    Args:
        context: The context of the item.
        wanted: The studies by row.
        kinds: Names among "stability", "discrepancy", "boundary" and "certified".
    """
    found: dict[str, list[Result]] = {}
    for row, study in context.select_rows(wanted).items():
        trained = train_row(context, row, study)
        for kind in kinds:
            make = partial(_make_extra_result, kind, trained)
            for name, result in context.load_or_compute(
                f"{kind}-{file_name(row)}", (kind, trained.study), make
            ).items():
                found.setdefault(name, []).append(result)
    return {name: merge(results) for name, results in found.items()}


def file_name(row: str) -> str:
    """Return a row's name as a file name.

    Args:
        row: Name of a row.

    Example:
        >>> file_name("LCNN + gradient norm")
        'lcnn-gradient-norm'
    """
    return row.replace(" + ", "-").replace(" ", "-").lower()


def _make_part(kind: str, make: Callable[[TrainedRow], Table], trained: TrainedRow) -> dict[str, Result]:
    return {kind: make(trained)}


def _make_geometry_row(trained: TrainedRow, radii: Sequence[float]) -> Table:
    study, data, model, settings = trained.study, trained.data, trained.model, trained.study.evaluation
    few = data.test.take(slice(settings.curvature_examples))
    attacked = data.test.take(slice(settings.examples))
    network = MeasuredNetwork(study, trained.row, model, few, trained.progress, {})
    measures: dict[str, Measure] = {"all": Curvature(settings.lanczos_steps), "power": PowerIteration(POWER_STEPS)}
    columns = network.columns(measures)
    cells: list[tuple[Column, float]] = [
        (Column("‖g‖", "Mean over images."), float(columns["gradient norm"].mean())),
        (Column("‖H‖", "Mean over images, by Lanczos."), float(columns["Hessian norm"].mean())),
        (Column("‖H‖, power", f"By {POWER_STEPS} steps of power iteration."), float(columns["power"].mean())),
        (Column("C", "Mean of ‖H‖ / ‖g‖."), float(columns["normalized curvature"].mean())),
        (Column("C median", "Median of ‖H‖ / ‖g‖."), float(np.median(columns["normalized curvature"]))),
        (Column("clean", "Accuracy on the whole test set.", ".1%"), float(evaluation.correct(model, data.test).mean())),
    ]
    for radius in radii:
        outcome = evaluation.attack(
            model, attacked, PGD(Ball(L2, radius), steps=20), seed=study.seed, progress=trained.progress,
            heading=f"PGD on {trained.row}",
        )  # fmt: skip
        cells.append(
            (Column(f"PGD at {radius:g}", "20 steps in l_2 on the true label.", ".1%"), float(outcome.robust.mean()))
        )
    heading = f"strong on {trained.row}"
    outcome = evaluation.attack(
        model, attacked, suite_of(study), seed=study.seed, progress=trained.progress, heading=heading
    )
    strongest = Column(f"strong at {study.ball().radius:g}", "Accuracy under the suite strong.", ".1%")
    cells.append((strongest, float(outcome.robust.mean())))
    conditions = {
        "curvature": few.describe("test"),
        "attacks": f"{attacked.describe('test')}, l_2 in pixel units",
        **training_conditions(trained),
    }
    return make_row_table("Geometry and robustness", trained, cells, conditions)


def training_conditions(trained: TrainedRow) -> dict[str, str]:
    """Return the conditions that every table of rows states: test set, BatchNorm mode, network and training.

    Args:
        trained: The trained network of the row.
    """
    study = trained.study
    return {
        "clean": trained.data.test.describe("test"),
        "BatchNorm": "eval mode",
        "network": f"{study.network}, width {study.width}, {study.training.epochs} epochs on {len(trained.data.train)} images",
    }


def make_row_table(
    title: str, trained: TrainedRow, cells: Sequence[tuple[Column, float]], conditions: Mapping[str, str]
) -> Table:
    """Make a table of one row from a network's numbers.

    Args:
        title: Title of the table.
        trained: The trained network of the row.
        cells: Columns with their numbers.
        conditions: The conditions under which the numbers hold.
    """
    headings = (Column("network"), *(column for column, _ in cells))
    return Table(title, headings, ((trained.row, *(value for _, value in cells)),), conditions=dict(conditions))


def _make_extra_result(kind: str, trained: TrainedRow) -> dict[str, Result]:
    study, data, settings = trained.study, trained.data, trained.study.evaluation
    few = data.test.take(slice(settings.curvature_examples))
    conditions = {"BatchNorm": "eval mode", **count_examples(few, "test")}
    network = MeasuredNetwork(study, trained.row, trained.model, few, trained.progress, conditions)
    if kind == "stability":
        return {kind: measure_stability(network)}
    if kind == "discrepancy":
        columns = network.columns({"all": Curvature(settings.lanczos_steps)})
        return {kind: compare_with_training(network, columns, data.train.take(slice(len(few))))}
    few = data.test.take(slice(settings.boundary_examples))
    found = boundary_results(study, trained.row, trained.model, few, trained.progress)
    return {name: result for name, result in found.items() if name == kind}


def _average_seeds(values: np.ndarray) -> list[Cell]:
    """Average values of shape (seeds, numbers); with several seeds each mean has an interval of one standard deviation."""
    if len(values) == 1:
        return [float(v) for v in values[0]]
    means, deviations = values.mean(0), values.std(0, ddof=1)
    return [(float(m), float(m - d), float(m + d)) for m, d in zip(means, deviations, strict=True)]
