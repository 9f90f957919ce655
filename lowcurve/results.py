"""What a study found, as numbers only: no tensors, no drawing, no disk.

A result holds everything that its picture needs and the conditions under which its numbers hold; `dump` and `load`
carry it through JSON without loss.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowcurve.types import InputError

Cell = str | float | int | None
Conditions = Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A column's heading, what it means in one sentence, and how its numbers are written (a format specification)."""

    heading: str
    meaning: str = ""
    form: str = ".3g"

    def write(self, cell: Cell) -> str:
        """The cell as a reader sees it.

        Example:
            >>> Column("clean accuracy", form=".1%").write(0.9722), Column("network").write("CURE")
            ('97.2%', 'CURE')
        """
        if cell is None:
            return "–"
        return cell if isinstance(cell, str) else format(cell, self.form)


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    conditions: Conditions = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"{len(self.columns)} cells a row", len(row), "give every column its cell")


@dataclass(frozen=True)
class Line:
    """One curve: y over the x of its `Curves`, with an optional band."""

    y: tuple[float | None, ...]
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Curves:
    """Named lines over one axis."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    lines: Mapping[str, Line]
    caption: str = ""
    conditions: Conditions = field(default_factory=dict)
    x_logarithmic: bool = False
    y_logarithmic: bool = False

    def __post_init__(self) -> None:
        for name, line in self.lines.items():
            for values in (line.y, line.low, line.high):
                if values is not None and len(values) != len(self.x):
                    raise InputError(f"{len(self.x)} numbers in line {name!r}", len(values), "one for each x")


@dataclass(frozen=True)
class Gallery:
    """Images in rows and columns, pixels in [0, 1], shape (rows, columns, channels, height, width)."""

    title: str
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    pixels: np.ndarray
    notes: tuple[tuple[str, ...], ...]
    caption: str = ""
    conditions: Conditions = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.row_labels), len(self.column_labels))
        if self.pixels.ndim != 5 or self.pixels.shape[:2] != expected:
            raise InputError(f"pixels of shape {expected} + (channels, height, width)", self.pixels.shape, "one image a cell")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gallery) and dump(self) == dump(other)

    __hash__ = None  # type: ignore[assignment]  # an array has no hash


Result = Table | Curves | Gallery
KINDS: dict[str, type[Result]] = {"table": Table, "curves": Curves, "gallery": Gallery}


@dataclass(frozen=True)
class Summary:
    """Mean with its standard error, and the 10, 50 and 90 % quantiles: a heavy tail shows in their distance."""

    count: int
    mean: float
    standard_error: float
    low: float
    median: float
    high: float


def summarize(values: Sequence[float] | np.ndarray) -> Summary:
    """The one reduction over examples outside training.

    Example:
        >>> summarize([1.0, 2.0, 3.0]).median
        2.0
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        raise InputError("at least one number", "none", "measure at least one example")
    low, median, high = (float(q) for q in np.quantile(numbers, (0.1, 0.5, 0.9)))
    error = float(numbers.std(ddof=1) / math.sqrt(numbers.size)) if numbers.size > 1 else math.nan
    return Summary(int(numbers.size), float(numbers.mean()), error, low, median, high)


@dataclass(frozen=True)
class Proportion:
    """A share of examples with its 95 % Wilson interval."""

    successes: int
    count: int
    value: float
    low: float
    high: float


def proportion(successes: int, count: int) -> Proportion:
    """successes / count with the 95 % Wilson score interval, which stays inside [0, 1] and is honest near its ends.

    Example:
        >>> p = proportion(0, 10)
        >>> p.low, round(p.high, 4)
        (0.0, 0.2775)

    Reference: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if not 0 <= successes <= count or count == 0:
        raise InputError("0 <= successes <= count and count > 0", f"{successes} of {count}", "evaluate at least one example")
    z, p = 1.959963984540054, successes / count
    center = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == count else center + half
    return Proportion(successes, count, p, low, high)


def describe(setting: Any) -> str:
    """An exact, stable name of a setting without memory addresses: cache key, caption and check on resume.

    Dataclasses are written with every field, functions by module and name, numbers so that they can be read back.
    What has no such name (a lambda, a local function, any other object) is refused, since two different settings could
    share it.

    Example:
        >>> describe({"radius": 0.1, "loss": math.sqrt})
        "{'radius': 0.1, 'loss': math.sqrt}"
    """
    if setting is None or isinstance(setting, bool | int | float | str):
        return repr(setting)
    if isinstance(setting, Mapping):
        return "{" + ", ".join(f"{describe(k)}: {describe(v)}" for k, v in setting.items()) + "}"
    if isinstance(setting, tuple | list):
        return "(" + ", ".join(map(describe, setting)) + ")"
    if dataclasses.is_dataclass(setting) and not isinstance(setting, type):
        parts = (f"{f.name}={describe(getattr(setting, f.name))}" for f in dataclasses.fields(setting))
        return f"{type(setting).__name__}({', '.join(parts)})"
    name = getattr(setting, "__qualname__", None)
    if name is None or "<" in name:
        raise InputError(
            "a setting with an exact name (numbers, text, dataclasses, functions of a module)",
            name or type(setting).__name__,
            "give it as a function or a frozen dataclass at the top of a module",
        )
    return f"{setting.__module__}.{name}"


def dump(result: Result) -> dict[str, Any]:
    """The result as plain JSON values; arrays as nested lists of four decimals, numbers that are not finite as null."""
    kind = next(name for name, cls in KINDS.items() if isinstance(result, cls))
    content = {f.name: _plain(getattr(result, f.name)) for f in dataclasses.fields(result)}
    return {"kind": kind, **content}


def load(content: Mapping[str, Any]) -> Result:
    """The result that `dump` wrote.

    Example:
        >>> table = Table("t", (Column("a"),), ((1.5,),))
        >>> load(dump(table)) == table
        True
    """
    fields = {name: _tuples(value) for name, value in content.items() if name != "kind"}
    kind = content.get("kind")
    if kind == "table":
        return Table(**{**fields, "columns": tuple(Column(**c) for c in fields["columns"])})
    if kind == "curves":
        return Curves(**{**fields, "lines": {name: Line(**line) for name, line in fields["lines"].items()}})
    if kind == "gallery":
        return Gallery(**{**fields, "pixels": np.asarray(fields["pixels"], dtype=np.float64)})
    raise InputError(f"a result of kind {', '.join(KINDS)}", repr(kind), "write it with lowcurve.results.dump")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return np.round(value, 4).tolist()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value
