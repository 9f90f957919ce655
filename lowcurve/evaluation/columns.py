"""The columns of numbers that `measure` returns."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lowcurve.libraries import require_library

if TYPE_CHECKING:
    from lowcurve.results.statistics import Proportion


class Columns(dict[str, np.ndarray]):
    """Numbers by name, one entry per image; printed as a table of means and quantiles.

    Attributes:
        shard: (number, shards) if they are of a shard of the images, which `join` needs.

    Example:
        >>> Columns({"gradient norm": np.array([1.0, 2.0, 6.0]), "right": np.array([True, True, False])})
        3 images       mean  median  10 %  90 %
        gradient norm     3       2   1.2   5.2
        right          66.7% (95% CI 20.8-93.9%, 2 of 3)
    """

    shard: tuple[int, int] | None = None

    def __repr__(self) -> str:
        count = len(next(iter(self.values()), ()))
        width = max(map(len, (f"{count} images", *self)))
        rows = {name: self._row(values) for name, values in self.items()}
        cells = [["mean", "median", "10 %", "90 %"], *(row for row in rows.values() if isinstance(row, list))]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

        def line(name: str, row: list[str] | str) -> str:
            said = row if isinstance(row, str) else "  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True))
            missing = int(np.isnan(self[name]).sum()) if name in self and self[name].dtype.kind == "f" else 0
            note = f"  {missing} NaN left out" if missing else ""
            return f"{name:<{width}}  {said}{note}"

        return "\n".join([line(f"{count} images", cells[0]), *(line(name, row) for name, row in rows.items())])

    @staticmethod
    def _row(values: np.ndarray) -> list[str] | str:
        if values.ndim != 1 or not len(values):
            return f"numbers of shape {values.shape}"
        if values.dtype == bool:
            return repr(share_of_true(values))
        from lowcurve.results.statistics import summarize  # see share_of_true

        found = summarize(values)
        return [f"{number:.4g}" for number in (found.mean, found.median, found.low, found.high)]

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per image; several numbers an image become a list."""
        pandas = require_library("pandas", install="pandas")

        return pandas.DataFrame({name: list(values) if values.ndim > 1 else values for name, values in self.items()})


def share_of_true(values: np.ndarray) -> "Proportion":
    """Return the share of true entries with its 95 % interval."""
    # Trainings import this module, and their code version must not depend on the statistics; see results/versions.py.
    from lowcurve.results.statistics import proportion

    return proportion(int(values.sum()), len(values))
