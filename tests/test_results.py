"""Results carry their numbers through JSON, name their settings exactly and refuse what does not fit."""

import dataclasses
import functools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import lowcurve
from lowcurve.errors import InputError
from lowcurve.results import (
    Column,
    Curves,
    Gallery,
    Line,
    Panel,
    Points,
    Result,
    Scatter,
    Surface,
    Table,
    code_version,
    describe,
    dump,
    join,
    load,
    merge,
    proportion,
    summarize,
    training_version,
)
from lowcurve.results.versions import MEASURES, SHOWS, fingerprint

NETWORKS = Table(
    "networks",
    (
        Column("network"),
        Column("clean accuracy", "share labeled correctly", ".1%"),
        Column("robust accuracy", form=".1%"),
    ),
    (("standard", 0.97, (0.03, 0.02, 0.05)), ("CURE", 1, None)),
    "A caption.",
    {"sample": "360 digits"},
)
SCALES = Curves(
    "scales",
    "scale h",
    "curvature",
    (0.1, 1.0),
    {"CURE": Line((1.0, None), (0.5, 0.6), (2.0, 3.0)), "PGD": Line((0.0, 2.0))},
    x_logarithmic=True,
    y_logarithmic=True,
)
IMAGES = Scatter(
    "images",
    "C",
    "radius",
    {"CURE": Points((0.5, 2.0), (1.5, None)), "PGD": Points((9.0,), (0.1,))},
    "A caption.",
    {"seed": "0"},
    x_logarithmic=True,
    y_logarithmic=True,
    diagonal=True,
)
DIGITS = Gallery("digits", ("a", "b"), ("x",), np.full((2, 1, 1, 2, 3), 0.25), (("one",), ("two",)), "", {"seed": "0"})
PLANE = Surface(
    "plane",
    "v (l_2)",
    "r (l_2)",
    (0.0, 0.5, 1.0),
    (-1.0, 1.0),
    {
        "CURE": Panel(
            np.array([[1e-7, -2.0, 3.123456], [0.0, 1.0, math.nan]]),
            {"PGD": Points((0.0, 0.5), (0.0, None))},
            {"image": (0.5, 0.0)},
            "a note",
        )
    },
    "margin",
    level=0.0,
    caption="A caption.",
    conditions={"seed": "0"},
)
REGIONS = Surface(
    "r", "x", "y", (0.0, 1.0), (0.0, 1.0), {"a": Panel(np.array([[0, 1], [1, 1]]))}, classes=("cat", "dog")
)


def through_json(result: Result) -> Result:
    return load(json.loads(json.dumps(dump(result), allow_nan=False)))


@pytest.mark.parametrize("result", [NETWORKS, SCALES, IMAGES, DIGITS, PLANE, REGIONS], ids=lambda r: type(r).__name__)
def test_dump_and_load_keep_everything(result):
    assert through_json(result) == result


def test_numpy_numbers_are_dumped_as_plain_numbers():
    table = Table("t", (Column("a"), Column("b")), ((np.float32(0.5), np.int64(3)),))
    assert dump(table)["rows"] == [[0.5, 3]]


def test_numbers_that_are_not_finite_become_null_and_are_written_as_a_dash_before_and_after():
    table = Table("t", (Column("a"), Column("b")), ((math.nan, math.inf),))
    loaded = through_json(table)
    assert loaded.rows == ((None, None),)
    assert [table.columns[0].write(cell) for cell in table.rows[0]] == ["–", "–"]
    assert [loaded.columns[0].write(cell) for cell in loaded.rows[0]] == ["–", "–"]
    curves = Curves("c", "x", "y", (0.0, 1.0), {"a": Line((math.nan, -math.inf))})
    assert through_json(curves).lines["a"].y == (None, None)
    scatter = Scatter("s", "x", "y", {"a": Points((math.nan, 1.0), (2.0, math.inf))})
    assert through_json(scatter).points["a"] == Points((None, 1.0), (2.0, None))


def test_galleries_differ_by_a_pixel():
    other = Gallery(DIGITS.title, DIGITS.row_labels, DIGITS.column_labels, DIGITS.pixels + 0.1, DIGITS.notes)
    assert other != DIGITS


def test_a_surface_keeps_five_digits_of_every_value_and_gaps():
    values = dump(PLANE)["panels"]["CURE"]["values"]
    assert values == [[1e-7, -2.0, 3.1235], [0.0, 1.0, None]]
    moved = Panel(PLANE.panels["CURE"].values * 1.001)
    assert PLANE.panels["CURE"] != moved
    assert Panel(moved.values, note="a") != moved
    assert Panel(moved.values[:, :2]) != moved
    assert REGIONS.panels["a"] != Panel(np.array([[0, 1], [1, 0]]))


def test_cells_are_written_in_their_column_s_form():
    percent = Column("accuracy", form=".1%")
    written = [percent.write(cell) for cell in (0.5, None, "none", (0.5, 0.25, 0.75))]
    assert written == ["50.0%", "–", "none", "50.0% [25.0%, 75.0%]"]


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (1, 1), (1, 3), (50, 100), (999, 1000)])
def test_the_interval_solves_wilson_s_equation(successes, count):
    """Its ends are the p with |successes / count - p| = z sqrt(p (1 - p) / count)."""
    share, z = proportion(successes, count), 1.959963984540054
    assert 0 <= share.low <= share.value <= share.high <= 1
    for end in (share.low, share.high):
        gap = abs(share.value - end)
        assert gap == pytest.approx(z * math.sqrt(end * (1 - end) / count), abs=1e-9) or end in (0.0, 1.0)


def test_the_interval_at_the_ends_has_a_closed_form():
    z2 = 1.959963984540054**2
    assert proportion(0, 10).low == 0.0
    assert proportion(0, 10).high == pytest.approx(z2 / (10 + z2))
    assert proportion(10, 10).high == 1.0
    assert proportion(10, 10).low == pytest.approx(10 / (10 + z2))


def test_a_summary_of_known_numbers():
    summary = summarize(np.arange(11.0))
    assert (summary.count, summary.mean, summary.low, summary.median, summary.high) == (11, 5.0, 1.0, 5.0, 9.0)
    assert summary.standard_error == pytest.approx(1.0)


def test_a_summary_with_infinite_numbers():
    """The normalized curvature where the gradient is 0: the quantiles below it do not know."""
    summary = summarize([1.0, 2.0, math.inf, math.inf, math.inf])
    assert (summary.mean, summary.median, summary.high) == (math.inf, math.inf, math.inf)
    assert summary.low == pytest.approx(1.4)
    assert math.isnan(summary.standard_error)
    assert summarize([3.0, math.inf, 1.0]).median == 3.0


def test_one_number_has_no_standard_error():
    assert math.isnan(summarize([2.0]).standard_error)


@dataclass(frozen=True)
class Setting:
    radius: float
    loss: object = math.sqrt

    def act(self) -> None: ...


def test_a_description_is_exact_and_stable():
    setting = {"a": Setting(0.1), "b": [1, None, True, "x"], "c": summarize, "d": np.float64(0.1), "e": Setting}
    expected = (
        "{'a': Setting(radius=0.1, loss=math.sqrt), 'b': (1, None, True, 'x'), 'c': lowcurve.results.statistics.summarize, "
        f"'d': 0.1, 'e': {__name__}.Setting}}"
    )
    assert describe(setting) == expected
    assert describe(Setting(0.1)) != describe(Setting(0.1 + 1e-16 * 2))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (lambda x: x, "<lambda>"),
        (functools.partial(math.pow, 2), "partial"),
        (object(), "object"),
        (Setting(0.1).act, "Setting.act"),
        ({"nested": [object()]}, "object"),
    ],
)
def test_a_description_refuses_what_has_no_exact_name(setting, named):
    with pytest.raises(InputError) as caught:
        describe(setting)
    expected = "Expected a setting with an exact name (numbers, text, dataclasses, functions of a module)"
    assert str(caught.value).startswith(expected + ", got ")
    assert named in caught.value.received
    assert str(caught.value).endswith(". Give it as a function or a frozen dataclass at the top of a module.")


IMAGE = np.zeros((1, 2, 1, 2, 2))
REFUSED = {
    "row": (
        lambda: Table("t", (Column("a"), Column("b")), ((1,),)),
        "Expected 2 cells a row, got 1. Give every column its cell",
    ),
    "line": (
        lambda: Curves("c", "x", "y", (0.0, 1.0), {"CURE": Line((1.0,))}),
        "Expected 2 numbers in line 'CURE', got 1. One for each x",
    ),
    "band": (
        lambda: Curves("c", "x", "y", (0.0,), {"CURE": Line((1.0,), low=(1.0, 2.0))}),
        "Expected 1 numbers in line 'CURE', got 2. One for each x",
    ),
    "points": (
        lambda: Scatter("s", "x", "y", {"CURE": Points((0.0, 1.0), (1.0,))}),
        "Expected 2 numbers y of points 'CURE', got 1. One for each x",
    ),
    "diagonal": (
        lambda: Scatter("s", "x", "y", {}, y_logarithmic=True, diagonal=True),
        "Expected two axes of one kind under a diagonal, got one logarithmic axis. Make both logarithmic, or neither",
    ),
    "pixels": (
        lambda: Gallery("g", ("a",), ("x",), IMAGE, ()),
        "Expected pixels of shape (1, 1) + (channels, height, width), got (1, 2, 1, 2, 2). One image a cell",
    ),
    "notes": (
        lambda: Gallery("g", ("a",), ("x", "y"), IMAGE, (("one",),)),
        "Expected 2 notes in each of 1 rows, got (1,). One note an image, or none at all",
    ),
    "axis": (
        lambda: Surface("s", "x", "y", (0.0, 1.0), (1.0, 1.0), {}, "margin"),
        "Expected rising numbers along both axes, two at least, got others. Write (0.0, 0.5, 1.0)",
    ),
    "one coordinate": (
        lambda: Surface("s", "x", "y", (0.0,), (0.0, 1.0), {}, "margin"),
        "Expected rising numbers along both axes, two at least, got others. Write (0.0, 0.5, 1.0)",
    ),
    "unnamed values": (
        lambda: Surface("s", "x", "y", (0.0, 1.0), (0.0, 1.0), {}),
        "Expected a label of the values, or the names of classes, got neither. Give value_label or classes",
    ),
    "numbers and classes": (
        lambda: Surface("s", "x", "y", (0.0, 1.0), (0.0, 1.0), {}, "margin", ("cat",)),
        "Expected a label of the values, or the names of classes, got both. Give value_label or classes",
    ),
    "a level of classes": (
        lambda: Surface("s", "x", "y", (0.0, 1.0), (0.0, 1.0), {}, classes=("cat",), level=0.0),
        "Expected no level of classes, got 0.0. Leave it out: every class has its own color",
    ),
    "panel": (
        lambda: Surface("s", "x", "y", (0.0, 1.0), (0.0, 1.0, 2.0), {"a": Panel(np.zeros((2, 3)))}, "margin"),
        "Expected values of shape (3, 2) in panel 'a', got (2, 3). A row for each y, a column for each x",
    ),
    "line over a panel": (
        lambda: dataclasses.replace(PLANE, panels={"a": Panel(np.zeros((2, 3)), {"PGD": Points((0.0,), ())})}),
        "Expected 1 numbers y of line 'PGD', got 0. One for each x",
    ),
    "class": (
        lambda: dataclasses.replace(REGIONS, panels={"a": Panel(np.array([[0, 1], [2, 1]]))}),
        "Expected places of classes, 0 to 1, got 2. Name every class in classes",
    ),
    "half a class": (
        lambda: dataclasses.replace(REGIONS, panels={"a": Panel(np.array([[0, 0.5], [1, 1]]))}),
        "Expected places of classes, 0 to 1, got 0.5. Name every class in classes",
    ),
    "no numbers": (
        lambda: summarize([]),
        "Expected at least one number, got none. Measure at least one example",
    ),
    "too many successes": (
        lambda: proportion(3, 2),
        "Expected 0 <= successes <= count and count > 0, got 3 of 2. Evaluate at least one example",
    ),
    "no examples": (
        lambda: proportion(0, 0),
        "Expected 0 <= successes <= count and count > 0, got 0 of 0. Evaluate at least one example",
    ),
    "unknown kind": (
        lambda: load({"kind": "chart"}),
        "Expected a result of kind table, curves, scatter, gallery, surface, got 'chart'. "
        "Write it with lowcurve.results.dump",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_mend(case):
    act, message = REFUSED[case]
    with pytest.raises(InputError) as caught:
        act()
    assert str(caught.value) == f"{message}."


def test_a_gallery_may_have_no_notes():
    assert Gallery("g", ("a",), ("x", "y"), IMAGE, ()).notes == ()


def test_merging_puts_networks_below_one_another_and_into_one_figure():
    tables = [Table("t", (Column("network"),), ((name,),), conditions={"seed": "0", "n": name}) for name in "ab"]
    assert merge(tables) == Table("t", (Column("network"),), (("a",), ("b",)), conditions={"seed": "0"})
    curves = [Curves("c", "x", "y", (1.0, 2.0), {name: Line((3.0, 4.0))}) for name in "ab"]
    assert list(merge(curves).lines) == ["a", "b"]
    scatters = [
        Scatter("s", "x", "y", {name: Points(numbers, numbers)}, conditions={"seed": "0", "n": name})
        for name, numbers in (("a", (1.0, 2.0)), ("b", (3.0,)))
    ]
    both = {"a": Points((1.0, 2.0), (1.0, 2.0)), "b": Points((3.0,), (3.0,))}
    assert merge(scatters) == Scatter("s", "x", "y", both, conditions={"seed": "0"})
    assert list(merge(scatters[::-1]).points) == ["b", "a"]
    galleries = [Gallery("g", (name,), ("c",), np.zeros((1, 1, 1, 2, 2)), (("n",),)) for name in "ab"]
    assert merge(galleries).pixels.shape == (2, 1, 1, 2, 2)
    assert merge(galleries).row_labels == ("a", "b")
    surfaces = [dataclasses.replace(REGIONS, panels={name: REGIONS.panels["a"]}) for name in "ba"]
    assert list(merge(surfaces).panels) == ["b", "a"]
    for unlike in (
        [surfaces[0], galleries[0]],
        [surfaces[0], dataclasses.replace(REGIONS, x=(0.0, 2.0))],
        [surfaces[0], dataclasses.replace(REGIONS, classes=("cat", "cow"))],
        [tables[0], curves[0]],
        [curves[0], scatters[0]],
        [curves[0], Curves("c", "x", "y", (1.0,), {})],
        [scatters[0], Scatter("s", "x", "z", {})],
        [scatters[0], Scatter("s", "x", "y", {}, x_logarithmic=True)],
        [scatters[0], Scatter("s", "x", "y", {}, diagonal=True)],
    ):
        with pytest.raises(InputError, match="results of one kind with the same columns or axis"):
            merge(unlike)


def test_joining_matches_rows_by_their_name_and_says_conditions_that_differ_with_their_table():
    head = Column("network")
    accuracy = Table(
        "Robustness", (head, Column("clean")), (("a", 0.9), ("b", 0.8)), conditions={"n": "500", "seed": "0"}
    )
    curvature = Table("Curvature", (head, Column("C")), (("b", 2.0),), conditions={"n": "200", "seed": "0"})
    both = join("both", [accuracy, curvature], ["network", "C", "clean", "absent"])
    assert [column.heading for column in both.columns] == ["network", "C", "clean"]
    assert both.rows == (("a", None, 0.9), ("b", 2.0, 0.8))
    assert both.conditions == {"n (robustness)": "500", "n (curvature)": "200", "seed": "0"}


def test_any_change_of_what_computes_is_another_code_and_none_of_what_shows_is(tmp_path):
    shutil.copytree(Path(lowcurve.__file__).parent, tmp_path / "package")

    def versions() -> tuple[str, str]:
        return fingerprint(tmp_path / "package", SHOWS), fingerprint(tmp_path / "package", MEASURES)

    def edit(name: str, text: str = "edited = 1\n") -> None:
        with (tmp_path / "package" / name).open("a") as file:
            file.write(text)

    both = versions()
    assert code_version().endswith(both[0])
    assert training_version().endswith(both[1])
    for path in (tmp_path / "package").iterdir():  # the rest of the test needs four folders
        if path.is_dir() and path.name not in ("cli", "geometry", "penalties", "report"):
            shutil.rmtree(path)
    both = versions()
    for shown in ("report/figures.py", "cli/draw.py", "report/report.css"):
        edit(shown)
    assert versions() == both
    edit("geometry/curvature.py")
    measuring = versions()
    assert measuring[0] != both[0]
    assert measuring[1] == both[1]
    edit("penalties/cure.py")
    assert all(after != before for after, before in zip(versions(), measuring, strict=True))


def test_prose_and_moved_files_keep_the_code_version(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text(
        '"""Text."""\nfrom lowcurve.a import b\n\ndef f():\n    """Doc."""\n    return b\n'
    )
    before = fingerprint(tmp_path, ())
    (tmp_path / "sub" / "a.py").unlink()
    (tmp_path / "__init__.py").write_text('"""A new package."""\n')
    (tmp_path / "b.py").write_text(
        'from lowcurve.elsewhere import b\n# comment\ndef f():\n    """Other."""\n    return (b)\n'
    )
    assert fingerprint(tmp_path, ()) == before
    (tmp_path / "b.py").write_text("from lowcurve.elsewhere import c\n\ndef f():\n    return b\n")
    assert fingerprint(tmp_path, ()) != before


def test_no_training_goes_through_the_rooms_that_its_version_leaves_out():
    rooms = [f"lowcurve.{room.replace('/', '.')}" for room in MEASURES]
    program = (
        "import sys, lowcurve.training, lowcurve.study.methods, lowcurve.study.adversarial_set\n"
        f"sys.exit(str([name for name in sys.modules if name.startswith({tuple(rooms)})]).strip('[]'))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == ""
