"""Maps of values and classes over a plane: in the page, in a browser, in space, and as files for a paper."""

import io
import json
import re
import sys

import numpy as np
import pytest
from browser import render
from PIL import Image
from plotly.offline import get_plotlyjs
from test_report import GALLERY, HOSTILE, RADII, SCALES, SCATTER, TABLE, Reader, needs_browser

from lowcurve.errors import InputError
from lowcurve.report import draw_surface, draw_values, page, static_figure, styles
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


def figures(surface: Surface) -> list[dict]:
    fragment = draw_surface(surface, styles([surface]))
    return [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', fragment)]


def whole() -> str:
    return page("t", "l", [MARGIN, LOSS, REGIONS], {})


def test_every_panel_has_its_name_labels_and_note_and_no_text_becomes_markup():
    text = whole().replace(get_plotlyjs(), "")
    reader = Reader(text)
    shown = [HOSTILE, "standard", MARGIN.x_label, MARGIN.y_label, f"note {HOSTILE}", "cow", f"{MARGIN.value_label} = 0"]
    assert not [words for words in shown if words not in reader.texts]
    assert "<b>" not in text
    assert text.count("</script>") == text.count("<script")
    assert sum("Measured with" in words for words in reader.texts) == 1
    assert [attributes["class"] for tag, attributes in reader.tags if tag == "section"] == ["surface"] * 3


def test_plotly_comes_once_with_surfaces_alone():
    assert whole().count(get_plotlyjs()) == 1
    assert len(whole().encode()) < 6_000_000


def test_all_panels_share_one_scale_as_far_below_the_level_as_above():
    assert span_of(MARGIN) == (-8.0, 8.0)
    assert span_of(MARGIN, whole=True) == (-4.0, 8.0)
    for figure in figures(MARGIN):
        drawn = figure["data"][0]
        assert (drawn["zmin"], drawn["zmax"]) == (-8.0, 8.0)
        assert (drawn["contours"]["start"], drawn["contours"]["end"], drawn["line"]["width"] > 0) == (0.0, 0.0, True)
        assert drawn["colorscale"][4] == [0.5, "#f7f7f7"]
        assert (len(drawn["z"]), len(drawn["z"][0])) == (31, 41)
    (loss,) = figures(LOSS)
    assert (loss["data"][0]["zmin"], loss["data"][0]["zmax"]) == pytest.approx((np.exp(-1), np.exp(1)))
    assert (loss["data"][0]["line"]["width"], loss["data"][0]["colorscale"][0]) == (0, [0.0, "#440154"])
    flat = Surface("s", "x", "y", X, Y, {"a": Panel(np.full((31, 41), 2.0))}, "z")
    assert span_of(flat) == (1.0, 3.0)
    assert span_of(Surface("s", "x", "y", X, Y, {}, "z")) == (-1.0, 1.0)


def test_a_class_has_one_color_wherever_it_stands_and_only_those_seen_are_named():
    assert len({class_color(k) for k in range(30)}) == 30
    for figure, seen in zip(figures(REGIONS), ({0, 2}, {2, 3}), strict=True):
        drawn = figure["data"][0]
        assert figure["classes"] == ["cat", "&lt;b&gt;&amp;\"&lt;/script&gt;'", "cow"]
        colors = [drawn["colorscale"][2 * place][1] for place in sorted({v for row in drawn["z"] for v in row})]
        assert colors == [class_color(k) for k in sorted(seen)]
    fragment = draw_surface(REGIONS, {})
    assert ("dog" in fragment, 'class="turn"' in fragment) == (False, False)


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
    drawn = figures(MARGIN)[0]["data"]
    assert [trace["customdata"] for trace in drawn if trace.get("customdata")] == [
        pytest.approx([-2.0, 4 * (0.25 + 0.25), None, None], nan_ok=True),
        [-2.0],
    ]


def test_values_that_are_missing_are_gaps():
    holed = Surface("s", "x", "y", X, Y, {"a": Panel(np.where(ALONG > 0.5, np.nan, UP))}, "z", level=0.0)
    row = figures(holed)[0]["data"][0]["z"][0]
    assert (row[0], row[-1]) == (-1.0, None)


def test_the_numbers_of_a_map():
    assert re.findall(r'class="number">([^<]+)</td>', draw_values(MARGIN, {}))[4:] == ["-0.5", "0.5", "1.5", "25.8%"]
    shares = re.findall(r'class="number">([^<]+)</td>', draw_values(REGIONS, {}))
    assert shares == ["51.2%", "48.8%", "0.0%", "0.0%", "51.6%", "48.4%"]


def test_equal_lengths_are_drawn_equal_only_where_the_window_is_a_square():
    assert figures(MARGIN)[0]["layout"]["yaxis"]["scaleanchor"] == "x"
    wide = Surface("s", "x", "y", tuple(10 * x for x in X), Y, {"a": Panel(ALONG)}, "z")
    assert "scaleanchor" not in figures(wide)[0]["layout"]["yaxis"]


@needs_browser
@pytest.mark.timeout(200)
def test_a_browser_draws_the_maps_and_hides_a_line_in_all_of_them(tmp_path):
    path = tmp_path / "maps.html"
    click = "<script>document.querySelector('.names button').click()</script>"
    path.write_text(whole().replace("</body>", f"{click}</body>"), encoding="utf-8")
    seen = render(path, tmp_path, height=2600, dark=True)
    assert (seen.console, seen.requests) == ((), ())
    plots = seen.dom.replace(get_plotlyjs(), "").split('js-plotly-plot" role="group"')[1:]
    assert len(plots) == 5
    assert all("<image" in plot for plot in plots)
    assert [plot.count('class="trace scatter') for plot in plots] == [1, 3, 0, 0, 0]  # without both lines PGD
    with Image.open(seen.screenshot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert pixels[0].mean() < 60
    for k in (0, 2, 3):
        color = [int(class_color(k)[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == color).all(axis=1).sum() > 20_000


@needs_browser
@pytest.mark.timeout(200)
@pytest.mark.slow
def test_a_browser_turns_one_section_at_a_time_into_surfaces(tmp_path):
    path = tmp_path / "space.html"
    click = (
        "<script>const turns = document.querySelectorAll('button.turn'); turns[0].click();"
        "setTimeout(() => turns[1].click(), 4000)</script>"
    )
    path.write_text(page("t", "l", [MARGIN, LOSS], {}).replace("</body>", f"{click}</body>"), encoding="utf-8")
    seen = render(path, tmp_path, height=1600)
    wrong = [line for line in seen.console if re.search(r"Uncaught|Error|ERROR|refused|Failed", line)]
    assert (wrong, seen.requests) == ([], ())
    margin, loss = seen.dom.replace(get_plotlyjs(), "").split("<section")[1:]
    assert ("Show as surfaces to turn" in margin, "Show as flat maps" in loss) == (True, True)
    assert ('class="gl-container"><div' in margin, "<image" in margin, "<image" in loss) == (False, True, False)
    assert 'class="gl-container"><div' in loss
    with Image.open(seen.screenshot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # Below its scale nothing of the lower section has a color but the surface, and the link to the numbers.
    below = pixels[1080:1420].reshape(-1, 3)
    assert ((below.max(1) - below.min(1)) > 60).sum() > 2_000


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
    with pytest.raises(
        InputError, match=r"matplotlib for static figures, got no such package\. Run pip install 'lowcurve\["
    ):
        static_figure(MARGIN)
