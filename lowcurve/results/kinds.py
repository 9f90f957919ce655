"""The kinds of results: numbers with the conditions under which they hold."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lowcurve.errors import InputError

Number = float | None
"""A number, or nothing where it is missing or not finite."""
Cell = str | float | int | tuple[Number, Number, Number] | None
"""Text, a number, a number with its interval (value, low, high), or nothing."""
FORM = re.compile(r"d|\.\d{1,2}[efg%]")
Conditions = Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: Its heading.
        meaning: What it means, in one sentence.
        form: Format specification of its numbers.
    """

    heading: str
    meaning: str = ""
    form: str = ".3g"

    def __post_init__(self) -> None:
        if FORM.fullmatch(self.form) is None:
            raise InputError("a format of numbers such as .3g or .1%", repr(self.form), "write .3g")

    def write(self, cell: Cell) -> str:
        """Return a cell as text. A number that is missing or not finite is a dash.

        Args:
            cell: Text, a number, or a number with its interval.

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
        if cell is None or not math.isfinite(cell):
            return "–"
        return format(cell, ".0f" if self.form == "d" else self.form)


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns.

    Args:
        title: Its title.
        columns: Its columns.
        rows: Rows with one cell per column.
        caption: Facts that a reader needs beyond the columns' meanings.
        conditions: Conditions of the numbers, by name.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    conditions: Conditions = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"{len(self.columns)} cells a row", len(row), "give every column its cell")

    def cells(self, heading: str) -> tuple[Cell, ...]:
        """Return the cells of a column, or nothing if no column has this heading.

        Args:
            heading: Heading of the column.

        Example:
            >>> Table("t", (Column("network"), Column("clean")), (("CURE", 0.9),)).cells("clean")
            (0.9,)
        """
        headings = [column.heading for column in self.columns]
        return tuple(row[headings.index(heading)] for row in self.rows) if heading in headings else ()


@dataclass(frozen=True)
class Line:
    """One line of `Curves`.

    Args:
        y: One value per x; None leaves a gap.
        low: Lower end of a band around it.
        high: Upper end of the band.
    """

    y: tuple[float | None, ...]
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Curves:
    """Named lines over one axis.

    Args:
        title: Their title.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        x: Places of all lines on the horizontal axis.
        lines: The lines by name.
        caption: Facts that a reader needs.
        conditions: Conditions of the numbers, by name.
        x_logarithmic: Use a logarithmic horizontal axis.
        y_logarithmic: Use a logarithmic vertical axis.
    """

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
class Points:
    """One network's points, one per example, or the corners of a line.

    Args:
        x: Horizontal coordinates.
        y: Vertical coordinates, as many.
    """

    x: tuple[float | None, ...]
    y: tuple[float | None, ...]


@dataclass(frozen=True)
class Scatter:
    """Named points over two axes, one per example.

    Each name may have its own number of points. A point with a missing or infinite coordinate is counted but not drawn.

    Args:
        title: Their title.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        points: The points by name.
        caption: Facts that a reader needs.
        conditions: Conditions of the numbers, by name.
        x_logarithmic: Use a logarithmic horizontal axis.
        y_logarithmic: Use a logarithmic vertical axis.
        diagonal: Draw the line y = x and mark the points below it.

    Example:
        >>> points = {"CURE": Points((0.5, 2.0), (1.5, 0.3)), "standard": Points((9.0,), (0.1,))}
        >>> Scatter("Curvature and radius", "C", "smallest fooling radius", points, x_logarithmic=True).diagonal
        False
    """

    title: str
    x_label: str
    y_label: str
    points: Mapping[str, Points]
    caption: str = ""
    conditions: Conditions = field(default_factory=dict)
    x_logarithmic: bool = False
    y_logarithmic: bool = False
    diagonal: bool = False

    def __post_init__(self) -> None:
        for name, points in self.points.items():
            if len(points.y) != len(points.x):
                raise InputError(f"{len(points.x)} numbers y of points {name!r}", len(points.y), "one for each x")
        if self.diagonal and self.x_logarithmic != self.y_logarithmic:
            raise InputError(
                "two axes of one kind under a diagonal", "one logarithmic axis", "make both logarithmic, or neither"
            )


@dataclass(frozen=True)
class Gallery:
    """Images in rows and columns.

    Args:
        title: Their title.
        row_labels: One label per row.
        column_labels: One label per column.
        pixels: Pixels in [0, 1], shape (rows, columns, channels, height, width).
        notes: One note per image. They may be left out.
        caption: Facts that a reader needs.
        conditions: Conditions of the images, by name.
    """

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
        """Compare up to the decimals that `dump` leaves out."""
        if not isinstance(other, Gallery) or self.pixels.shape != other.pixels.shape:
            return False
        names = ("title", "row_labels", "column_labels", "notes", "caption", "conditions")
        alike = all(getattr(self, name) == getattr(other, name) for name in names)
        return alike and np.allclose(self.pixels, other.pixels, rtol=0, atol=1e-4)

    __hash__ = None  # type: ignore[assignment]  # an array has no hash


@dataclass(frozen=True)
class Panel:
    """One network's values on the grid of its `Surface`.

    Args:
        values: The value values[i, j] belongs to (x[j], y[i]). NaN where there is none.
        lines: Lines drawn over the values, by name, such as an attack's steps.
        marks: Points (x, y) by name.
        note: Text below the panel.
    """

    values: np.ndarray
    lines: Mapping[str, Points] = field(default_factory=dict)
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""

    def __eq__(self, other: object) -> bool:
        """Compare up to the digits that `dump` leaves out."""
        if not isinstance(other, Panel) or self.values.shape != other.values.shape:
            return False
        alike = (self.lines, self.marks, self.note) == (other.lines, other.marks, other.note)
        return alike and np.allclose(self.values, other.values, rtol=1e-4, atol=0, equal_nan=True)

    __hash__ = None  # type: ignore[assignment]  # an array has no hash


@dataclass(frozen=True)
class Surface:
    """Values on a grid over two axes, one panel per network, with one color scale for all panels.

    The values are numbers, named by `value_label`, or places in `classes`.

    Args:
        title: Its title.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
        x: Rising places on the horizontal axis.
        y: Rising places on the vertical axis.
        panels: The panels by name.
        value_label: Label of the values.
        classes: Names of all classes.
        level: Value that is drawn as a line. The colors change there.
        caption: Facts that a reader needs.
        conditions: Conditions of the values, by name.

    Example:
        >>> panel = Panel(np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]]), marks={"image": (0.5, 0.0)})
        >>> Surface("Margin", "v (l_2)", "r (l_2)", (0.0, 0.5, 1.0), (0.0, 1.0), {"CURE": panel}, "margin", level=0.0).level
        0.0
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    panels: Mapping[str, Panel]
    value_label: str = ""
    classes: tuple[str, ...] = ()
    level: float | None = None
    caption: str = ""
    conditions: Conditions = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis in (self.x, self.y):
            if len(axis) < 2 or not all(a < b for a, b in itertools.pairwise(axis)):
                raise InputError("rising numbers along both axes, two at least", "others", "write (0.0, 0.5, 1.0)")
        if bool(self.value_label) == bool(self.classes):
            found = "both" if self.classes else "neither"
            raise InputError("a label of the values, or the names of classes", found, "give value_label or classes")
        if self.classes and self.level is not None:
            raise InputError("no level of classes", self.level, "leave it out: every class has its own color")
        for name, panel in self.panels.items():
            self._check(name, panel)

    def _check(self, name: str, panel: Panel) -> None:
        expected = (len(self.y), len(self.x))
        if panel.values.shape != expected:
            shape = panel.values.shape
            raise InputError(
                f"values of shape {expected} in panel {name!r}", shape, "a row for each y, a column for each x"
            )
        for heading, line in panel.lines.items():
            if len(line.x) != len(line.y):
                raise InputError(f"{len(line.x)} numbers y of line {heading!r}", len(line.y), "one for each x")
        numbers = set(np.unique(panel.values).tolist()) if self.classes else set()
        if strange := numbers - set(range(len(self.classes))):
            wrong = next(iter(strange))
            raise InputError(f"places of classes, 0 to {len(self.classes) - 1}", wrong, "name every class in classes")


Plot = Curves | Scatter
"""Results over two axes, whose numbers a report also shows as a table."""
Result = Table | Plot | Gallery | Surface
KINDS: dict[str, type[Result]] = {
    "table": Table,
    "curves": Curves,
    "scatter": Scatter,
    "gallery": Gallery,
    "surface": Surface,
}
