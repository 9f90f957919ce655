"""What a study found, as numbers only: no tensors, no drawing, no disk.

A result holds everything that its picture needs and the conditions under which its numbers hold; `dump` and `load`
carry it through JSON without loss.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from lowcurve.errors import InputError

Cell = str | float | int | tuple[float, float, float] | None
"""Text, a number, a number with its interval (value, low, high), or nothing."""
Conditions = Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A column's heading, what it means in one sentence, and how its numbers are written (a format specification)."""

    heading: str
    meaning: str = ""
    form: str = ".3g"

    def write(self, cell: Cell) -> str:
        """The cell as a reader sees it; a number that is not finite is a dash, as it is after `dump` and `load`.

        Example:
            >>> Column("clean accuracy", form=".1%").write(0.9722), Column("network").write("CURE")
            ('97.2%', 'CURE')
            >>> Column("robust accuracy", form=".1%").write((0.5, 0.4, 0.6))
            '50.0% [40.0%, 60.0%]'
        """
        if isinstance(cell, tuple):
            value, low, high = (self.write(number) for number in cell)
            return f"{value} [{low}, {high}]"
        if isinstance(cell, str):
            return cell
        return "–" if cell is None or not math.isfinite(cell) else format(cell, self.form)


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
            raise InputError(
                f"pixels of shape {expected} + (channels, height, width)", self.pixels.shape, "one image a cell"
            )
        notes = tuple(map(len, self.notes))
        if notes and notes != (expected[1],) * expected[0]:
            raise InputError(
                f"{expected[1]} notes in each of {expected[0]} rows", notes, "one note an image, or none at all"
            )

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
        raise InputError(
            "0 <= successes <= count and count > 0", f"{successes} of {count}", "evaluate at least one example"
        )
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
    if isinstance(setting, np.generic):
        setting = setting.item()
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
    owner = getattr(setting, "__self__", None)
    # A bound method's name says nothing about the object it is bound to; a builtin is bound to its module.
    bound = owner is not None and not isinstance(owner, ModuleType | type)
    if name is None or "<" in name or bound:
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


def merge(parts: Sequence[Result]) -> Result:
    """One result from those of several networks: rows below one another, lines into one figure.

    Title, caption, columns and axes must be the same; conditions that all share are kept.

    Example:
        >>> first, second = (Table("t", (Column("network"),), ((name,),)) for name in ("standard", "CURE"))
        >>> merge([first, second]).rows
        (('standard',), ('CURE',))
    """
    first = parts[0]
    shared = {k: v for k, v in first.conditions.items() if all(p.conditions.get(k) == v for p in parts)}
    tables = [p for p in parts if isinstance(p, Table)]
    curves = [p for p in parts if isinstance(p, Curves)]
    galleries = [p for p in parts if isinstance(p, Gallery)]
    if isinstance(first, Table) and len(tables) == len(parts) and len({t.columns for t in tables}) == 1:
        return dataclasses.replace(first, rows=tuple(row for t in tables for row in t.rows), conditions=shared)
    if isinstance(first, Curves) and len(curves) == len(parts) and len({c.x for c in curves}) == 1:
        lines = {name: line for c in curves for name, line in c.lines.items()}
        return dataclasses.replace(first, lines=lines, conditions=shared)
    if isinstance(first, Gallery) and len(galleries) == len(parts) and len({g.column_labels for g in galleries}) == 1:
        return dataclasses.replace(
            first,
            row_labels=tuple(label for g in galleries for label in g.row_labels),
            pixels=np.concatenate([g.pixels for g in galleries]),
            notes=tuple(row for g in galleries for row in g.notes),
            conditions=shared,
        )
    kinds = ", ".join(sorted({type(p).__name__ for p in parts}))
    raise InputError("results of one kind with the same columns or axis", kinds, "run the step again for all networks")


def join(title: str, tables: Sequence[Table], columns: Sequence[str], caption: str = "") -> Table:
    """One table with the chosen columns of several, their rows matched by the first cell; what is missing is left empty.

    Example:
        >>> a = Table("a", (Column("network"), Column("accuracy")), (("CURE", 0.9),))
        >>> b = Table("b", (Column("network"), Column("curvature")), (("CURE", 2.0),))
        >>> join("both", [a, b], ["network", "curvature", "accuracy"]).rows
        (('CURE', 2.0, 0.9),)
    """
    found: dict[str, Column] = {}
    cells: dict[Cell, dict[str, Cell]] = {}
    for table in tables:
        found |= {column.heading: column for column in table.columns}
        for row in table.rows:
            names = (column.heading for column in table.columns)
            cells.setdefault(row[0], {}).update(dict(zip(names, row, strict=True)))
    chosen = tuple(found[name] for name in columns if name in found)
    rows = tuple(tuple(row.get(column.heading) for column in chosen) for row in cells.values())
    conditions = {k: v for table in tables for k, v in table.conditions.items()}
    return Table(title, chosen, rows, caption, conditions)
