"""Maps of values and classes over a plane: in the page, in a browser, in space, and as files for a paper."""

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from test_report import GALLERY, HOSTILE, RADII, SCALES, SCATTER, TABLE, Reader

from lowcurve.errors import InputError
from lowcurve.report import draw_surface, page, static_figure, styles
from lowcurve.report.contours import contour
from lowcurve.report.palette import class_color, span_of
from lowcurve.report.surfaces import interpolate
from lowcurve.results import Curves, Line, Panel, Points, Surface

X, Y = tuple(np.linspace(-1, 1, 41).tolist()), tuple(np.linspace(-1, 1, 31).tolist())
ALONG, UP = np.meshgrid(X, Y)
LINE = Points((0.0, 0.5, None, 2.0), (-0.5, 0.25, 0.0, 0.0))
MARGIN = Surface(
    f"Margin {HOSTILE}",
    f"along v, random {HOSTILE} (l_2)",
    "along r (l_2)",
    X,
    Y,
    {
        "standard": Panel(4 * (ALONG**2 + UP), {"PGD": LINE}, {"image": (0.0, -0.5)}, f"note {HOSTILE}"),
        HOSTILE: Panel(UP + 0.5, {"PGD": LINE, HOSTILE: LINE}, {HOSTILE: (0.5, 0.5)}),
    },
    f"margin {HOSTILE}",
    level=0.0,
    caption="A caption.",
    conditions={"grid": "41 x 31"},
)
LOSS = Surface("Loss", "u", "w", X, Y, {"standard": Panel(np.exp(ALONG) + 0 * UP)}, "cross-entropy")
NAMES = ("cat", "dog", HOSTILE, "cow")
REGIONS = Surface(
    "Regions",
    "u",
    "w",
    X,
    Y,
    {"standard": Panel(np.where(ALONG > 0, 2, 0)), "CURE": Panel(np.where(UP > 0, 3, 2))},
    classes=NAMES,
)


def data(surface: Surface) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', draw_surface(surface, styles([surface])))
    assert found is not None
    return json.loads(found.group(1))


def maps(surface: Surface) -> list[np.ndarray]:
    """The pixels of the flat maps, red, green, blue and opacity, their first row at the bottom."""
    sources = re.findall(r'href="data:image/webp;base64,([^"]+)"', draw_surface(surface, styles([surface])))
    images = (Image.open(io.BytesIO(base64.b64decode(source))).convert("RGBA") for source in sources)
    return [np.asarray(image)[::-1].astype(int) for image in images]


def levels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def whole() -> str:
    return page("t", "l", [MARGIN, LOSS, REGIONS], {}, interactive=False)


def test_every_panel_has_its_name_labels_and_note_and_no_text_becomes_markup():
    text = whole()
    reader = Reader(text)
    shown = [HOSTILE, "standard", MARGIN.x_label, MARGIN.y_label, f"note {HOSTILE}", "cow", f"{MARGIN.value_label} = 0"]
    assert not [words for words in shown if words not in reader.texts]
    assert "<b>" not in text
    assert sum("Measured with" in words for words in reader.texts) == 1
    kinds = [attributes["class"] for tag, attributes in reader.tags if tag == "section"]
    assert kinds == ["surface figure"] * 3


def test_all_panels_share_one_scale_as_far_below_the_level_as_above():
    assert span_of(MARGIN) == (-8.0, 8.0)
    assert span_of(MARGIN, whole=True) == (-4.0, 8.0)
    assert (data(MARGIN)["span"], data(MARGIN)["heights"], data(MARGIN)["ramp"][4]) == ([-8, 8], [-4, 8], "#f7f7f7")
    first, second = maps(MARGIN)
    assert first.shape == (100, 100, 4)
    assert first[0, 50, :3].tolist() == pytest.approx(levels("#e08a4f"), abs=2)  # -4 of 8
    assert abs(second[24, 50, :3] - 247).max() < 12  # 0
    (loss,) = maps(LOSS)
    assert loss[0, 0, :3].tolist() == levels("#440154")
    assert loss[0, -1, :3].tolist() == levels("#fde725")
    flat = Surface("s", "x", "y", X, Y, {"a": Panel(np.full((31, 41), 2.0))}, "z")
    assert span_of(flat) == (1.0, 3.0)
    assert span_of(Surface("s", "x", "y", X, Y, {}, "z")) == (-1.0, 1.0)


def test_a_class_has_one_color_wherever_it_stands_and_only_those_seen_are_named():
    assert len({class_color(k) for k in range(30)}) == 30
    for image, seen in zip(maps(REGIONS), ({0, 2}, {2, 3}), strict=True):
        found = {tuple(pixel) for pixel in image[..., :3].reshape(-1, 3).tolist()}
        assert found == {tuple(levels(class_color(k))) for k in seen}
    assert data(REGIONS)["classes"] == {class_color(k): NAMES[k] for k in (0, 2, 3)}
    fragment = draw_surface(REGIONS, {})
    assert ("dog" in fragment, 'class="turn"' in fragment) == (False, False)


def test_the_level_is_a_line_where_the_function_has_its_value():
    (line,) = contour(X, Y, ALONG**2 + UP**2, 0.5)
    assert line[0] == line[-1]
    assert np.hypot(*np.array(line).T) == pytest.approx(0.5**0.5, abs=2e-3)
    saddle = contour(X, Y, ALONG * UP + 1e-9, 0.0)
    assert sum(map(len, saddle)) > 60
    open_ended = contour(X, Y, np.where(ALONG > 0.5, np.nan, UP), 0.01)
    assert [len(line) for line in open_ended] == [31]
    assert contour(X, Y, UP, 7.0) == []


def test_a_line_lies_on_the_surface_it_is_drawn_over():
    """Between the grid's points a function that is linear in each coordinate is had exactly."""
    panel = Panel(1 + 2 * ALONG - UP + 3 * ALONG * UP)
    surface = Surface("s", "x", "y", X, Y, {"a": panel}, "z")
    x, y = (0.137, -0.91, 1.0, -1.0), (0.51, 0.033, 1.0, -1.0)
    expected = [1 + 2 * a - b + 3 * a * b for a, b in zip(x, y, strict=True)]
    assert interpolate(surface, panel, Points(x, y)) == pytest.approx(expected)
    assert interpolate(surface, panel, Points((1.01, None, 0.0), (0.0, 0.0, -1.2))) == [None] * 3
    holed = Panel(np.where(ALONG > 0, np.nan, 1.0))
    assert interpolate(surface, holed, Points((-0.5, 0.5), (0.0, 0.0))) == [1.0, None]
    (number, color, corners), *_ = data(MARGIN)["panels"][0]["lines"]
    assert (number, color) == (0, "#a3005f")
    assert corners == [[0.0, -0.5, -2.0], [0.5, 0.25, pytest.approx(2.0)], None, None]
    assert data(MARGIN)["panels"][0]["marks"] == [[2, [[0.0, -0.5, -2.0]]]]


def test_values_that_are_missing_are_gaps():
    holed = Surface("s", "x", "y", X, Y, {"a": Panel(np.where(ALONG > 0.5, np.nan, UP))}, "z", level=0.0)
    (image,) = maps(holed)
    assert (image[0, 0, 3], image[0, -1, 3]) == (255, 0)
    packed = data(holed)["panels"][0]
    steps = np.frombuffer(base64.b64decode(packed["values"]), "<u2").reshape(packed["shape"])
    assert (steps[0, 0], steps[-1, 0], steps[0, -1]) == (0, 65534, 65535)


def test_the_numbers_of_a_map():
    assert data(MARGIN)["table"][0][-1] == "points below 0"
    assert data(MARGIN)["table"][2] == [HOSTILE, "-0.5", "0.5", "1.5", "25.8%"]
    assert [row[1:] for row in data(REGIONS)["table"][1:]] == [["51.2%", "48.8%", "0.0%"], ["0.0%", "51.6%", "48.4%"]]


HEADS = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("result", [MARGIN, LOSS, REGIONS, RADII, SCALES, SCATTER, GALLERY], ids=lambda r: r.title[:8])
def test_a_file_for_a_paper(result, form):
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    content = static_figure(result, form)
    assert content.startswith(HEADS[form])
    assert dict(matplotlib.rcParams) == before
    if form == "png":
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > (2 if result is REGIONS else 20)


def test_the_same_result_makes_the_same_file():
    pytest.importorskip("matplotlib")
    for form in HEADS:
        assert static_figure(MARGIN, form) == static_figure(MARGIN, form)


def test_a_file_has_the_page_s_colors():
    pytest.importorskip("matplotlib")
    apart = Curves("c", "x", "y", (0.0, 1.0), {"a": Line((0.0, 1.0)), "b": Line((1.0, 0.0))})
    for result, colors in ((REGIONS, [class_color(k) for k in (0, 2, 3)]), (apart, ["#0072B2", "#D55E00"])):
        with Image.open(io.BytesIO(static_figure(result, "png"))) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        for color in colors:
            assert (pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1).sum() > 300


def test_what_makes_no_file(monkeypatch):
    with pytest.raises(InputError, match=r"a form among pdf, svg, png, got 'gif'\. Write static_figure"):
        static_figure(MARGIN, "gif")
    with pytest.raises(InputError, match=r"a result with a picture, got a table\. The page shows it"):
        static_figure(TABLE)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"the library matplotlib for static figures, got .* 'lowcurve\[figures\]'"):
        static_figure(MARGIN)


def test_four_panels_stand_two_and_two():
    pytest.importorskip("matplotlib")
    four = Surface("s", "x", "y", X, Y, dict.fromkeys("abcd", Panel(ALONG)), "z")
    three = Surface("s", "x", "y", X, Y, dict.fromkeys("abc", Panel(ALONG)), "z")
    shapes = []
    for surface in (four, three):
        with Image.open(io.BytesIO(static_figure(surface, "png"))) as image:
            shapes.append(image.width / image.height)
    assert shapes[0] < 1.3
    assert shapes[1] > 2
    assert 'class="panels pairs"' in draw_surface(four, styles([four]))
    assert 'class="panels"' in draw_surface(three, styles([three]))
