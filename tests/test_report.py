"""The page is whole, safe, self-contained, and a real browser draws it."""

import base64
import functools
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import find_browser
from PIL import Image

from lowcurve.errors import InputError
from lowcurve.report import Group, Raised, Verdict, draw_curves, draw_gallery, draw_scatter, draw_table, page, styles
from lowcurve.report.axes import make_axis, with_margin
from lowcurve.report.page import SCRIPTS
from lowcurve.report.palette import DASHES
from lowcurve.report.templates import read
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


def without_scripts() -> str:
    text = example()
    for name in SCRIPTS:
        text = text.replace(read(name), "")
    return text


def grouped() -> str:
    verdict = Verdict("standard", "No masking found, 1 warning.", "passed 3, warned 1, failed 0, not applicable 2",
                      [Raised("9. restarts", "warned", "of 40 images 2 fall", "It is rugged.", "Add restarts.")])  # fmt: skip
    rows = tuple((f"{NAMES[0]} {i}", i / 40, "text") for i in range(40))
    groups = [
        Group("Robustness", "All is well.", [replace(TABLE, rows=rows, title="Long"), GALLERY]),
        Group("Audit", "6 tests.", [SECOND], [verdict]),
        Group(
            "Curvature", "It curves.", [SCALES, SCATTER], facts={"seed": "0"}, commands=("lowcurve draw surface RUN",)
        ),
    ]
    return page("Title", "Lead", [RADII, TABLE], {}, findings=["One sentence.", "Another."], groups=groups)


class Reader(HTMLParser):
    """Collects tags and texts, and checks that every tag is closed in its turn."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

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
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", without_scripts())
    order = ["Two networks", "Images", "Against the paper", "Over the radius", "Over the scale", "Two attacks"]
    assert headings == ["Warning", *order, "How this was made"]
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', without_scripts())
    assert [text for _, text in links] == order
    assert all(f'<section id="{name}"' in example() for name, _ in links)


def test_every_tag_is_closed_and_the_document_is_accessible():
    reader = Reader(without_scripts())
    names = [tag for tag, _ in reader.tags]
    assert ("html", {"lang": "en"}) in reader.tags
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert all(attributes["alt"] for tag, attributes in reader.tags if tag == "img")
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in reader.tags if tag == "th")


def test_captions_conditions_meanings_warnings_and_facts_are_visible():
    texts = Reader(without_scripts()).texts
    captions = [
        "The caption of the table.",
        "The caption of the curves.",
        "The caption of the points.",
        "Their caption.",
    ]
    shown = [*captions, "share still correct", "seed"]
    assert not [text for text in [*shown, f"Beware {HOSTILE}", HOSTILE] if text not in texts]
    assert any("loss: cross-entropy" in text for text in texts)
    assert sum("Measured with" in text for text in texts) == 4
    assert not re.search(r"<button[^>]*>Share|upload|plotly", example(), re.IGNORECASE)


def test_what_comes_from_outside_never_becomes_markup():
    text = without_scripts()
    assert "<b>" not in text
    assert HOSTILE not in text
    assert text.count("</script>") == text.count("<script")
    for figure in (figures(text), figures(draw_scatter(SCATTER, styles([SCATTER])))):
        assert {line["name"] for line in figure["lines"]} == {*NAMES}


def test_a_page_is_small_and_without_scripts_smaller():
    assert len(example().encode()) < 100_000
    still = page("t", "l", [SCATTER, TABLE], FACTS, interactive=False)
    assert ("<script" in still, "<template" in still, "<svg" in still) == (False, False, True)


def test_nothing_points_outside_the_page():
    text = without_scripts()
    assert re.findall(r"""(?:src|href|action)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", text) == []
    assert re.findall(r"url\((?!\s*['\"]?data:)|@import|https?://", text) == []
    assert "default-src 'none'" in text


def test_the_same_results_make_the_same_page():
    results = [GALLERY, TABLE, SECOND, RADII, SCALES, SCATTER]
    assert page(f"Title {HOSTILE}", f"Lead {HOSTILE}", results, FACTS, [f"Beware {HOSTILE}"]) == example()


def test_an_empty_page_is_still_a_page():
    Reader(page("t", "l", [], {}))


def test_a_name_looks_the_same_in_every_figure_and_no_two_names_alike():
    look = styles([TABLE, RADII, SCALES])
    assert list(look) == list(NAMES)
    for curves in (RADII, SCALES):
        drawn = re.findall(r'<path class="line" stroke="(#\w+)" stroke-dasharray="([^"]*)"', draw_curves(curves, look))
        assert drawn == [(look[name].color, DASHES[look[name].dash]) for name in curves.lines]
    assert styles([SCATTER, GALLERY]) == styles([SCATTER])
    filled = re.findall(r'<path class="points(?: round)?" fill="(#\w+)"', draw_scatter(SCATTER, look))
    assert filled == [look[name].color for name in SCATTER.points]
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
    assert [axis[2] for axis in figure["axes"]] == [True, True]
    assert figure["lines"][0]["y"] == [5.0, 0.0, 3.0, None]
    line, *_ = re.findall(r'class="line"[^>]* d="([^"]*)"', fragment)
    assert line.count("M") == 2
    assert "L" not in line
    # One stretch on each side of the gap, each forth along its top and back along its bottom.
    (band,) = re.findall(r'class="band"[^>]* d="([^"]*)"', fragment)
    assert [part.count("L") for part in band.split("Z")] == [1, 3, 0]
    assert "1 point at or below zero cannot stand on a logarithmic axis" in fragment


def test_a_place_on_an_axis_is_where_its_value_is():
    axis = make_axis([0.01, 100.0], logarithmic=True)
    assert [axis.share(v) for v in (0.01, 1.0, 100.0, 0.0, None, float("nan"))] == [0.0, 0.5, 1.0, None, None, None]
    assert with_margin(make_axis([1.0, 3.0])).share(0.0) == 0.0
    assert make_axis([-1.0, 3.0]).share(1.0) == 0.5
    figure = figures(draw_curves(RADII, styles([RADII])))
    left, _, right, bottom = figure["frame"]
    assert (
        f"M{left:g} {bottom:g}"
        not in re.findall(r'class="line"[^>]* d="([^"]*)"', draw_curves(RADII, styles([RADII])))[0]
    )
    assert figure["axes"][0] == [0.0, 8.0, False]
    assert right > left


@pytest.mark.parametrize(
    ("values", "logarithmic", "labels"),
    [
        ([0, 1], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([0, 360], False, ["0", "100", "200", "300"]),
        ([-2.4, 2.4], False, ["-2", "-1", "0", "1", "2"]),
        ([2.0, 2.0], False, ["0", "0.5", "1", "1.5", "2"]),
        ([0, 3e-9], False, ["0", "5e-10", "1e-09", "1.5e-09", "2e-09", "2.5e-09", "3e-09"]),
        ([], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ([1, 5], True, ["1", "2", "5"]),
        ([1, 1e4], True, ["1", "10", "100", "1000", "10⁴"]),
        ([1e-20, 1], True, ["10⁻²⁰", "10⁻¹⁶", "10⁻¹²", "10⁻⁸", "10⁻⁴", "1"]),
        ([0.0], True, ["1", "2", "5", "10"]),
    ],
)
def test_ticks_are_round_numbers_and_few(values, logarithmic, labels):
    assert [label for _, label in make_axis(values, logarithmic=logarithmic).ticks] == labels


def test_points_keep_their_example_s_number_and_those_that_cannot_be_drawn_are_counted():
    fragment = draw_scatter(SCATTER, styles([SCATTER]))
    hostile, standard = figures(fragment)["lines"]
    assert (hostile["x"], hostile["y"]) == ([0.1, 2.0, 0.0, 3.0, 4.0], [1.0, 0.5, 5.0, None, -1.0])
    assert (standard["x"], standard["y"]) == ([30.0, 0.2, None], [0.3, 0.2, 1.0])
    assert "2 points without a finite number cannot be drawn." in fragment
    assert "2 points at or below zero cannot stand on a logarithmic axis" in fragment
    whole = Scatter("s", "x", "y", {"a": Points((0.0, -1.0), (0.0, 2.0))})
    assert 'class="note"' not in draw_scatter(whole, styles([whole]))


def test_the_diagonal_reaches_through_all_points_and_sets_off_those_below_it():
    fragment = draw_scatter(SCATTER, styles([SCATTER]))
    figure = figures(fragment)
    left, top, right, bottom = figure["frame"]
    assert f'class="diagonal" d="M{left:g} {bottom:g}L{right:g} {top:g}"' in fragment
    assert figure["axes"][0] == figure["axes"][1]
    marks = [re.findall(rf'class="{kind}[^>]* d="([^"]*)"', fragment) for kind in ("points", "hollow")]
    assert [[path.count("M") for path in paths] for paths in marks] == [[1, 1], [1, 1]]
    assert "Below the line y = x, with open markers: 2 of 4 (&lt;b&gt;" in fragment
    assert "1 of 2 (standard)." in fragment
    plain = Scatter("s", "x", "y", {"a": Points((2.0,), (1.0,))})
    assert not re.findall('class="(diagonal|hollow)"', draw_scatter(plain, styles([plain])))


def test_a_long_table_waits_in_a_template():
    text = grouped()
    assert re.findall(r"<summary>(All \d+ rows)</summary><template>", text) == ["All 40 rows"]
    assert "passed 3, warned 1, failed 0, not applicable 2" in text


def test_images_are_lossless_and_enlarged_by_a_whole_factor():
    fragment = draw_gallery(GALLERY, {})
    source = re.search(r'src="data:image/webp;base64,([^"]+)" alt="[^"]*" width="112" height="112"', fragment)
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.group(1)))) as image:
        pixels = np.asarray(image)
    np.testing.assert_array_equal(pixels, np.round(PIXELS[0, 0] * 255).astype(np.uint8).transpose(1, 2, 0))


def test_pixels_outside_the_box_are_clipped_and_gray_is_gray():
    gray = Gallery("g", ("a",), ("x",), np.array([-1.0, 0.0, 2.0, np.nan]).reshape(1, 1, 1, 2, 2), ())
    source = re.search(r"base64,([^\"]+)", draw_gallery(gray, {}))
    assert source is not None
    with Image.open(io.BytesIO(base64.b64decode(source.group(1)))) as image:
        assert np.asarray(image.convert("L")).tolist() == [[0, 0], [255, 0]]


def test_images_of_other_channels_are_refused():
    with pytest.raises(InputError) as caught:
        draw_gallery(Gallery("g", ("a",), ("x",), np.zeros((1, 1, 2, 4, 4)), ()), {})
    message = "Expected images of 1 or 3 channels, got 2 channels. Give gray or red-green-blue pixels."
    assert str(caught.value) == message


needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path")
