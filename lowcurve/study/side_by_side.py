"""The results of several runs side by side."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lowcurve.errors import InputError
from lowcurve.results import Cell, Column, Curves, Gallery, Result, Scatter, Surface, Table, join, merge
from lowcurve.results.cells import NETWORK

DECIDING = ("data", "norm", "radius", "suite", "evaluation.examples", "evaluation.effort")
"""Settings in which the runs must agree for their robust accuracies to be compared."""
TRAINING = "training "
"""Beginning of the kinds of results on the course of one network's training."""


def beside(runs: Mapping[str, Mapping[str, Result]]) -> dict[str, Result]:
    """Merge the results of several runs by kind, with the run's name before each network's.

    Results with other columns or axes stay apart, with the run's name in their titles.

    Args:
        runs: Results of each run by kind.

    Returns:
        Results by kind; "KIND, RUN" for those that stay apart.

    Example:
        >>> table = Table("t", (Column("network"), Column("clean")), (("CURE", 0.9),))
        >>> beside({"a": {"geometry": table}, "b": {"geometry": table}})["geometry"].rows
        (('a: CURE', 0.9), ('b: CURE', 0.9))
    """
    merged: dict[str, Result] = {}
    for kind in dict.fromkeys(kind for results in runs.values() for kind in results):
        if kind.startswith(TRAINING):  # its lines are not networks
            courses = {run: results[kind] for run, results in runs.items() if kind in results}
            merged |= {
                f"{TRAINING}{run}: {kind.removeprefix(TRAINING)}": replace(course, title=f"{course.title} ({run})")
                for run, course in courses.items()
            }
            continue
        parts = {run: _add_run_name(results[kind], run) for run, results in runs.items() if kind in results}
        tables = {run: replace(part, title=run) for run, part in parts.items() if isinstance(part, Table)}
        if kind == "comparison" and len(tables) == len(parts):
            title = next(results[kind].title for results in runs.values() if kind in results)
            headings = dict.fromkeys(column.heading for table in tables.values() for column in table.columns)
            merged[kind] = join(title, list(tables.values()), list(headings))
            continue
        try:
            merged[kind] = merge(list(parts.values()))
        except InputError:
            merged |= {f"{kind}, {run}": replace(part, title=f"{part.title} ({run})") for run, part in parts.items()}
    return merged


def _add_run_name(result: Result, run: str) -> Result:
    """Return a result with the run's name before each name of a network."""
    if isinstance(result, Table):
        if not result.columns or result.columns[0].heading != NETWORK.heading:
            return replace(result, title=f"{result.title} ({run})")
        return replace(result, rows=tuple((f"{run}: {row[0]}", *row[1:]) for row in result.rows))
    if isinstance(result, Curves):
        return replace(result, lines={f"{run}: {name}": line for name, line in result.lines.items()})
    if isinstance(result, Scatter):
        return replace(result, points={f"{run}: {name}": points for name, points in result.points.items()})
    if isinstance(result, Surface):
        return replace(result, panels={f"{run}: {name}": panel for name, panel in result.panels.items()})
    assert isinstance(result, Gallery)
    return replace(result, row_labels=tuple(f"{run}: {label}" for label in result.row_labels))


def differences(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the settings in which runs differ, and the seed, with a column for each run.

    Args:
        settings: Settings of each run by dotted name.
    """
    names = dict.fromkeys(name for own in settings.values() for name in own)
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        values = [write_setting(own.get(name)) for own in settings.values()]
        if len({*values}) > 1 or name == "seed":
            rows.append((name, *values))
    return Table("Settings in which the runs differ", (Column("setting"), *map(Column, settings)), tuple(rows))


def incomparable(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the deciding settings in which runs differ: their robust accuracies cannot be compared.

    Args:
        settings: Settings of each run by dotted name.
    """
    names = dict.fromkeys(name for own in settings.values() for name in own)
    deciding = [name for name in names if any(f"{name}.".startswith(f"{head}.") for head in DECIDING)]
    return [name for name in deciding if len({write_setting(own.get(name)) for own in settings.values()}) > 1]


def write_setting(value: Any) -> str:
    """Return a setting as text: a list without brackets, and "none" for nothing.

    Args:
        value: The setting.
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(write_setting, value)) or "none"
    return "none" if value is None else str(value)
