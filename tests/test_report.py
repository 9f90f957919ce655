"""The page is whole, safe, self-contained, and a real browser draws it."""

import base64
import functools
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import find_browser, render
from PIL import Image
from plotly.offline import get_plotlyjs

from lowcurve.errors import InputError
from lowcurve.report import draw_curves, draw_gallery, draw_numbers, draw_scatter, draw_table, page, styles
from lowcurve.results import Column, Curves, Gallery, Line, Points, Scatter, Table

HOSTILE = "<b>&\"</script>'"
NAMES = ("standard", HOSTILE)
CONDITIONS = {"loss": "cross-entropy", HOSTILE: HOSTILE}
TABLE = Table(
    "Two networks",
    (Column("network"), Column("PGD-20 accuracy", "share still correct", ".1%"), Column("verdict")),
    ((NAMES[0], (0.5, 0.4, 0.6), "weak"), (NAMES[1], None, "strong")),
    "The caption of the table.",
    CONDITIONS,
)
SECOND = Table("Against the paper", (Column("quantity"),), (("nu",),))
RADII = Curves(
    "Over the radius", "radius (pixels)", "accuracy", (0.0, 4.0, 8.0), {n: Line((0.9, 0.5, 0.1)) for n in NAMES}
)
SCALES = Curves(
    "Over the scale",
    "scale h",
    "curvature (1 / pixel)",
    (0.01, 0.1, 1.0, 10.0),
    {
        NAMES[1]: Line((5.0, 0.0, 3.0, None), (1.0, 0.0, 2.0, 2.0), (9.0, 5.0, 4.0, 3.0)),
        NAMES[0]: Line((8.0, 7.0, 6.0, 900.0)),
    },
    "The caption of the curves.",
    CONDITIONS,
    x_logarithmic=True,
    y_logarithmic=True,
)
SCATTER = Scatter(
    "Two attacks",
    "loss (PGD)",
    f"loss {HOSTILE}",
    {
        NAMES[1]: Points((0.1, 2.0, 0.0, 3.0, 4.0), (1.0, 0.5, 5.0, float("inf"), -1.0)),
        NAMES[0]: Points((30.0, 0.2, None), (0.3, 0.2, 1.0)),
    },
    "The caption of the points.",
    CONDITIONS,
    x_logarithmic=True,
    y_logarithmic=True,
    diagonal=True,
)
PIXELS = np.linspace(0, 1, 2 * 2 * 3 * 8 * 8).reshape(2, 2, 3, 8, 8)
GALLERY = Gallery(
    "Images", NAMES, ("clean", HOSTILE), PIXELS, ((HOSTILE, "b"), ("c", "d")), "Their caption.", CONDITIONS
)
FACTS = {"seed": "0", HOSTILE: HOSTILE}


@functools.cache
def example() -> str:
    results = [GALLERY, TABLE, SECOND, RADII, SCALES, SCATTER]
    return page(f"Title {HOSTILE}", f"Lead {HOSTILE}", results, FACTS, [f"Beware {HOSTILE}"])


def without_plotly() -> str:
    return example().replace(get_plotlyjs(), "")


class Reader(HTMLParser):
    """Collects tags and texts, and checks that every tag is closed in its turn."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in {"path"}:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def figures(fragment: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', fragment)
    assert found is not None
    return json.loads(found.group(1))


def test_the_first_table_opens_the_page_and_the_rest_keeps_its_order():
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", without_plotly())
    order = [
        "Two networks",
        "Further down",
        "Images",
        "Against the paper",
        "Over the radius",
        "Over the scale",
        "Two attacks",
    ]
    assert headings == ["Warning", *order, "How this was made"]


def test_every_tag_is_closed_and_the_document_is_accessible():
    reader = Reader(without_plotly())
    names = [tag for tag, _ in reader.tags]
    assert ("html", {"lang": "en"}) in reader.tags
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert all(attributes["alt"] for tag, attributes in reader.tags if tag == "img")
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in reader.tags if tag == "th")


def test_captions_conditions_meanings_warnings_and_facts_are_visible():
    texts = Reader(without_plotly()).texts
    captions = [
        "The caption of the table.",
        "The caption of the curves.",
        "The caption of the points.",
        "Their caption.",
    ]
    shown = [*captions, "share still correct", "seed"]
    assert not [text for text in [*shown, f"Beware {HOSTILE}", HOSTILE, "cross-entropy"] if text not in texts]
    assert sum("Measured with" in text for text in texts) == 4


def test_what_comes_from_outside_never_becomes_markup():
    text = without_plotly()
    assert "<b>" not in text
    assert HOSTILE not in text
    assert text.count("</script>") == text.count("<script")
    assert "</script>" not in json.dumps(figures(draw_curves(SCALES, styles([SCALES])))["data"][0]["name"])
    for figure in (figures(text), figures(draw_scatter(SCATTER, styles([SCATTER])))):
        assert {trace["name"] for trace in figure["data"]} == {"standard", "&lt;b&gt;&amp;\"&lt;/script&gt;'"}


def test_plotly_is_inlined_once_and_only_where_there_are_plots():
    assert example().count(get_plotlyjs()) == 1
    assert page("t", "l", [SCATTER], FACTS).count(get_plotlyjs()) == 1
    assert len(page("t", "l", [TABLE, GALLERY], FACTS)) < 50_000


def test_nothing_points_outside_the_page():
    text = without_plotly()
    assert re.findall(r"""(?:src|href|action)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", text) == []
    assert re.findall(r"url\((?!\s*['\"]?data:)|@import|https?://", text) == []
    assert "default-src 'none'" in text


def test_the_page_is_small_enough_to_send():
    assert len(example().encode()) < 6_000_000


def test_the_same_results_make_the_same_page():
    results = [GALLERY, TABLE, SECOND, RADII, SCALES, SCATTER]
    assert page(f"Title {HOSTILE}", f"Lead {HOSTILE}", results, FACTS, [f"Beware {HOSTILE}"]) == example()


def test_an_empty_page_is_still_a_page():
    Reader(page("t", "l", [], {}))


def test_a_name_looks_the_same_in_every_figure_and_no_two_names_alike():
    look = styles([TABLE, RADII, SCALES])
    assert list(look) == list(NAMES)
    for curves in (RADII, SCALES):
        drawn = [trace for trace in figures(draw_curves(curves, look))["data"] if "marker" in trace]
        for trace, name in zip(drawn, curves.lines, strict=True):
            assert trace["line"]["color"] == trace["marker"]["color"] == look[name].color
            assert trace["marker"]["symbol"] == look[name].marker
    assert styles([SCATTER, GALLERY]) == styles([SCATTER])
    for trace, name in zip(figures(draw_scatter(SCATTER, look))["data"], SCATTER.points, strict=True):
        assert trace["marker"]["color"] == look[name].color
        assert set(trace["marker"]["symbol"]) == {look[name].marker, f"{look[name].marker}-open"}
    many = Curves("c", "x", "y", (0.0,), {str(i): Line((0.0,)) for i in range(140)})
    assert len(set(styles([many]).values())) == 140


def test_names_that_no_plot_bears_take_no_color():
    assert styles([TABLE, GALLERY]) == {}


def test_numbers_stand_right_and_texts_left():
    head = re.findall(r'<th scope="col"([^>]*)>', draw_table(TABLE, {}))
    assert ['class="number"' in attributes for attributes in head] == [False, True, False]


def test_the_table_marks_no_winner_and_writes_the_interval():
    assert '50.0% <span class="interval">[40.0%, 60.0%]</span>' in draw_table(TABLE, {})


def test_a_logarithmic_axis_leaves_gaps_and_says_so():
    fragment = draw_curves(SCALES, styles([SCALES]))
    figure = figures(fragment)
    assert figure["layout"]["xaxis"]["type"] == figure["layout"]["yaxis"]["type"] == "log"
    band, *lines = figure["data"]
    assert lines[0]["y"] == [5.0, None, 3.0, None]
    # One stretch on each side of the gap, each forth along its top and back along its bottom.
    assert band["x"] == [0.01, 0.01, None, 1.0, 10.0, 10.0, 1.0, None]
    assert band["y"] == [9.0, 1.0, None, 4.0, 3.0, 2.0, 2.0, None]
    assert "1 point at or below zero cannot stand on a logarithmic axis" in fragment


def test_a_linear_axis_keeps_zero_and_starts_there():
    figure = figures(draw_curves(RADII, styles([RADII])))
    assert figure["data"][0]["x"] == [0.0, 4.0, 8.0]
    assert figure["layout"]["yaxis"] == {"type": "linear", "rangemode": "nonnegative"}
    below = Curves("c", "x", "y", (0.0,), {"a": Line((-1.0,))})
    assert figures(draw_curves(below, styles([below])))["layout"]["yaxis"]["rangemode"] == "normal"


def test_powers_of_ten_are_thinned_on_a_long_axis():
    def axis(*y: float) -> dict:
        curves = Curves("c", "x", "y", tuple(map(float, range(len(y)))), {"a": Line(y)}, y_logarithmic=True)
        return figures(draw_curves(curves, styles([curves])))["layout"]["yaxis"]

    assert [axis(1, 5)["dtick"], axis(1, 1e4)["dtick"], axis(1e-20, 1)["dtick"], axis(0.0)["dtick"]] == [
        "D2",
        1,
        3,
        "D2",
    ]


def test_points_keep_their_example_s_number_and_those_that_cannot_be_drawn_are_counted():
    fragment = draw_scatter(SCATTER, styles([SCATTER]))
    figure = figures(fragment)
    hostile, standard = figure["data"]
    assert (hostile["x"], hostile["y"]) == ([0.1, 2.0, None, 3.0, 4.0], [1.0, 0.5, 5.0, None, None])
    assert (standard["x"], standard["y"]) == ([30.0, 0.2, None], [0.3, 0.2, 1.0])
    assert {trace["mode"] for trace in figure["data"]} == {"markers"}
    assert "2 points without a finite number cannot be drawn." in fragment
    assert "2 points at or below zero cannot stand on a logarithmic axis" in fragment
    whole = Scatter("s", "x", "y", {"a": Points((0.0, -1.0), (0.0, 2.0))})
    fragment = draw_scatter(whole, styles([whole]))
    assert (figures(fragment)["data"][0]["x"], 'class="note"' in fragment) == ([0.0, -1.0], False)
    assert figures(fragment)["layout"]["xaxis"] == {"type": "linear", "rangemode": "normal"}


def test_the_diagonal_reaches_through_all_points_and_sets_off_those_below_it():
    fragment = draw_scatter(SCATTER, styles([SCATTER]))
    figure = figures(fragment)
    (line,) = figure["layout"]["shapes"]
    assert [line[end] for end in ("x0", "y0", "x1", "y1")] == [0.1, 0.1, 30.0, 30.0]
    assert figure["layout"]["xaxis"] == figure["layout"]["yaxis"]
    assert [symbol.endswith("-open") for symbol in figure["data"][0]["marker"]["symbol"]] == [False, True, *[False] * 3]
    assert [symbol.endswith("-open") for symbol in figure["data"][1]["marker"]["symbol"]] == [True, False, False]
    assert "Below the line y = x, with open markers: 2 of 4 (&lt;b&gt;" in fragment
    assert "1 of 2 (standard)." in fragment
    plain = Scatter("s", "x", "y", {"a": Points((2.0,), (1.0,))})
    figure = figures(draw_scatter(plain, styles([plain])))
    assert (figure["layout"]["shapes"], figure["data"][0]["marker"]["symbol"]) == ([], "circle")
    empty = Scatter("s", "x", "y", {"a": Points((), ())}, diagonal=True)
    assert figures(draw_scatter(empty, styles([empty])))["layout"]["shapes"] == []


def test_the_numbers_of_points_are_thinned_to_the_same_examples_of_each_network():
    count = 1500
    numbers = tuple(map(float, range(count)))
    scatter = Scatter("s", "x", "y", {"a": Points(numbers, numbers), "b": Points(numbers, numbers)})
    table = draw_numbers(scatter, {})
    assert "200 of 3000 points" in table
    assert table.count("<tr>") == 201
    examples = re.findall(r'<tr><th scope="row">(a|b)</th><td class="number">(\d+)</td>', table)
    assert [int(i) for name, i in examples if name == "a"] == [int(i) for name, i in examples if name == "b"]
    assert (examples[0], examples[-1]) == (("a", "0"), ("b", "1499"))
    few = draw_numbers(SCATTER, {})
    assert "points)" not in few
    assert few.count("<tr>") == 9
    assert ">–</td>" in few


def test_the_numbers_hold_what_the_axis_cannot_show():
    numbers = draw_numbers(SCALES, {})
    assert '0 <span class="interval">[0, 5]</span>' in numbers
    assert numbers.count("<tr>") == 5


def test_very_many_points_are_thinned_in_the_numbers_and_the_reader_is_told():
    count = 3072
    curves = Curves("c", "x", "y", tuple(map(float, range(count))), {"a": Line((1.0,) * count)})
    numbers = draw_numbers(curves, {})
    assert "200 of 3072 points" in numbers
    assert numbers.count("<tr>") == 201
    assert ">0</th>" in numbers
    assert ">3071</th>" in numbers


def test_images_are_lossless_and_enlarged_by_a_whole_factor():
    fragment = draw_gallery(GALLERY, {})
    source = re.search(r'src="data:image/png;base64,([^"]+)" alt="[^"]*" width="112" height="112"', fragment)
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.group(1)))) as image:
        pixels = np.asarray(image)
    np.testing.assert_array_equal(pixels, np.round(PIXELS[0, 0] * 255).astype(np.uint8).transpose(1, 2, 0))


def test_pixels_outside_the_box_are_clipped_and_gray_is_gray():
    gray = Gallery("g", ("a",), ("x",), np.array([-1.0, 0.0, 2.0, np.nan]).reshape(1, 1, 1, 2, 2), ())
    source = re.search(r"base64,([^\"]+)", draw_gallery(gray, {}))
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.group(1)))) as image:
        assert (image.mode, np.asarray(image).tolist()) == ("L", [[0, 0], [255, 0]])


def test_images_of_other_channels_are_refused():
    with pytest.raises(InputError) as caught:
        draw_gallery(Gallery("g", ("a",), ("x",), np.zeros((1, 1, 2, 4, 4)), ()), {})
    message = "Expected images of 1 or 3 channels, got 2 channels. Give gray or red-green-blue pixels."
    assert str(caught.value) == message


def drawn_plots(dom: str) -> list[str]:
    return dom.replace(get_plotlyjs(), "").split('js-plotly-plot" role="group"')[1:]


needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")


@needs_browser
@pytest.mark.timeout(200)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.slow
def test_a_browser_draws_every_plot_and_asks_the_network_for_nothing(tmp_path, dark):
    path = tmp_path / "page.html"
    path.write_text(example(), encoding="utf-8")
    seen = render(path, tmp_path, dark=dark)
    assert seen.console == ()
    assert seen.requests == ()
    plots = drawn_plots(seen.dom)
    assert len(plots) == 3
    for plot in plots[:2]:
        assert plot.count('class="js-line"') >= len(NAMES)
        assert len(re.findall(r'class="point"', plot)) >= 4
    assert len(re.findall(r'class="point"', plots[2])) == 4
    # The diagonal, in the page's color of the moment.
    muted = "rgb(163, 173, 183)" if dark else "rgb(89, 98, 107)"
    (line,) = re.findall(r'<path data-index="0"[^>]*>', plots[2])
    assert f"stroke: {muted}" in line
    with Image.open(seen.screenshot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels[0].mean() < 60) == dark
    for style in styles([TABLE, RADII]).values():
        color = [int(style.color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == color).all(axis=1).sum() > 500
    assert len(np.unique(pixels, axis=0)) > 100


@needs_browser
@pytest.mark.timeout(200)
def test_an_entry_of_the_legend_hides_its_line_and_its_band_or_its_points(tmp_path):
    path = tmp_path / "clicked.html"
    click = (
        "<script>for (const i of [1, 2]) "
        "document.querySelectorAll('.names')[i].querySelector('button').click()</script>"
    )
    path.write_text(example().replace("</body>", f"{click}</body>"), encoding="utf-8")
    seen = render(path, tmp_path)
    assert seen.console == ()
    assert len(re.findall('<button[^>]*aria-pressed="false"', seen.dom)) == 2
    assert [plot.count('class="trace scatter') for plot in drawn_plots(seen.dom)] == [2, 1, 1]


@needs_browser
@pytest.mark.timeout(200)
def test_the_browser_would_have_told_of_errors_and_requests(tmp_path):
    """The control of the test above: a page with both faults is caught."""
    path = tmp_path / "faulty.html"
    path.write_text(
        '<img src="http://127.0.0.1:9/a.png"><script>setTimeout(() => { throw new Error("torn") })</script>'
    )
    seen = render(path, tmp_path)
    assert any("torn" in line for line in seen.console)
    assert seen.requests == ("http://127.0.0.1:9/a.png",)
