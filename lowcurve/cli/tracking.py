"""The report in experiment trackers: its numbers, and its figures as images."""

import io
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.results import Result
    from lowcurve.store import Run

log = logging.getLogger("lowcurve")
NAME = "report"
"""Name of the report among the run's trainings."""


def log_report(run: "Run", kinds: Sequence[str], settings: Mapping[str, Any], results: "Mapping[str, Result]") -> None:
    """Log a report to the trackers of a run: the numbers of its first table, and each figure as an image.

    Args:
        run: The run.
        kinds: Names of loggers. For csv nothing is logged: study.json holds all numbers.
        settings: Settings of the run.
        results: Results of the report by kind.
    """
    from lowcurve.results import Table

    kinds = [kind for kind in kinds if kind != "csv"]
    if not kinds or not results:
        return
    trackers = run.loggers(NAME, kinds, settings)
    table, figures = results.get("comparison"), _figures(results)
    numbers = _numbers(table) if isinstance(table, Table) else {}
    for tracker in trackers:
        if numbers:
            tracker.log_metrics(numbers, step=0)
        for name, image in figures.items():
            tracker.log_image(name, image)
        tracker.finalize("success")


def _numbers(table: Any) -> dict[str, float]:
    """Return the numbers of a table as NETWORK/HEADING, without their intervals."""
    found = {}
    for row in table.rows:
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            value = cell[0] if isinstance(cell, tuple) else cell
            if isinstance(value, int | float):
                found[f"{row[0]}/{column.heading}"] = float(value)
    return found


def _figures(results: "Mapping[str, Result]") -> dict[str, Any]:
    """Return the figures as images, or none with a warning if matplotlib is missing."""
    from PIL import Image

    from lowcurve.report import static_figure, styles
    from lowcurve.results import Table

    drawn = {name: result for name, result in results.items() if not isinstance(result, Table)}
    look = styles(list(drawn.values()))
    try:
        return {
            name: Image.open(io.BytesIO(static_figure(result, "png", look))).convert("RGB")
            for name, result in drawn.items()
        }
    except InputError as error:
        log.warning("The trackers get no figures. %s", error)
        return {}
