"""The page of a study in a browser: what its first screen says, and what a reader can do with it."""

import functools
import json
import re

import numpy as np
import pytest
from browser import ask, count_printed_pages, find_browser, render
from made_study import NETWORKS, results

from lowcurve.evaluation.audit import CHECKS
from lowcurve.results import dump, load
from lowcurve.study.report_groups import Report

pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the path"),
    pytest.mark.timeout(200),
]


@functools.cache
def report() -> Report:
    settings = {"seed": 0} | {f"evaluation.option {i}": i for i in range(60)}
    facts = {"seed": "0", "lowcurve": "1.0", "written": "2026-01-01 10:00"}
    return Report(
        "Title", "Lead.", results(), "l_inf radius 0.125", "strong", facts, settings, commands=("lowcurve report RUN",)
    )


STEPS = """
const { all, svg, png } = window.lowcurve;
const wait = (time) => new Promise((done) => setTimeout(done, time));
const press = (key, target = document.body) => target.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const groups = all("details.group");
const open = () => groups.map((group) => group.open);
const first = () => all("table.numbers")[0];
const names = () => [...first().tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
const told = {};
told.sentences = all(".findings li").map((entry) => entry.textContent);
told.nodes = document.querySelectorAll("*").length;
told.folded = open();
told.conclusions = groups.map((group) => group.querySelector("summary p").textContent);
told.buttons = all("button").map((button) => button.textContent);
location.hash = all(".bar a")[1].hash;
await wait(50);
told.followed = open();
press("3");
told.third = open()[2];
press("o");
await wait(50);
told.all = open();
press("/");
const box = document.activeElement;
told.searching = box.type;
box.value = "osculating";
box.dispatchEvent(new Event("input"));
await wait(50);
told.found = all("main section").filter((section) => !section.hidden && section.checkVisibility()).map((section) => section.id);
press("Escape", box);
await wait(50);
told.again = [open(), all("main section[hidden]").length];
const head = all("thead th button", first()).find((button) => button.textContent === "strong");
head.click();
told.rising = [names(), head.closest("th").getAttribute("aria-sort")];
head.click();
told.falling = [names(), head.closest("th").getAttribute("aria-sort")];
told.sticky = [first().tHead.rows[0].cells[0], document.querySelector(".bar")].map((part) => getComputedStyle(part).position);
const chart = document.querySelector("section.curves");
const line = chart.querySelector('[data-line="1"].line, g[data-line="1"]');
chart.querySelector('.names [data-line="1"]').click();
told.hidden = line.style.display;
chart.scrollIntoView();
const drawing = chart.querySelector("svg.chart");
const at = drawing.getBoundingClientRect();
const pointed = { clientX: at.left + at.width * 0.99, clientY: at.top + 60, bubbles: true };
drawing.dispatchEvent(new PointerEvent("pointermove", pointed));
told.tip = chart.querySelector(".tip")?.textContent;
drawing.focus();
press("ArrowRight", drawing);
told.stepped = chart.querySelector(".tip")?.textContent;
await wait(50);
all(".tools button", chart).find((button) => button.textContent === "Numbers").click();
told.numbers = [...chart.querySelector(".high table").rows].map((row) => row.cells.length);
told.exported = [];
for (const section of all("section.figure")) {
  const text = svg(section);
  const parsed = new DOMParser().parseFromString(text, "image/svg+xml");
  const picture = await png(section);
  told.exported.push([section.id, parsed.querySelector("parsererror") === null, picture.type, picture.size,
    [...parsed.querySelectorAll("text")].map((one) => one.textContent).join(" "), text.includes("var(--")]);
}
const turn = document.querySelector("button.turn");
scrollTo(0, 0);
turn.click();
const canvases = all("canvas.space", turn.closest("section"));
await wait(100);
const drawn = (canvas) => {
  const blank = document.createElement("canvas");
  [blank.width, blank.height] = [canvas.width, canvas.height];
  return canvas.toDataURL() !== blank.toDataURL();
};
told.unseen = canvases.map(drawn);
turn.closest("section").scrollIntoView();
await wait(100);
told.space = canvases.map(drawn);
const view = () => canvases[1].toDataURL();
const before = view();
press("ArrowLeft", canvases[0]);
await wait(100);
told.turned = before !== view();
turn.click();
told.flat = all("canvas.space").length;
await wait(50);
all("details.more").forEach((details) => { details.open = true; });
await wait(100);
told.rows = all("details.more").map((details) => details.querySelectorAll("tbody tr").length);
return told;
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    return ask(report().write(), STEPS, tmp_path_factory.mktemp("page"))


def test_the_first_screen_says_what_the_numbers_say(told):
    """Each number of the sentences is recomputed from the file that a run keeps."""
    kept = {
        kind: load(value) for kind, value in json.loads(json.dumps({k: dump(v) for k, v in results().items()})).items()
    }
    assert told["sentences"] == Report("", "", kept, "l_inf radius 0.125", "strong").sentences()
    rows = {
        row[0]: dict(zip([c.heading for c in kept["comparison"].columns], row, strict=True))
        for row in kept["comparison"].rows
    }
    robust, clean, curved, audited = told["sentences"]
    for sentence, column in ((robust, "strong"), (clean, "clean")):
        found = re.findall(r"(\S+) (?:keeps |is right on |on )?([\d.]+) % \[([\d.]+), ([\d.]+)\]", sentence)
        assert len(found) >= 2
        for name, *numbers in found:
            assert [float(n) for n in numbers] == pytest.approx([100 * v for v in rows[name][column]], abs=0.51)
    best = max(rows, key=lambda name: rows[name]["strong"][0])
    assert robust.startswith(f"At l_inf radius 0.125, {best} keeps")
    scale = kept["against scale"]
    place = scale.x.index(1.0)
    ratio = scale.lines["standard"].y[place] / scale.lines[best].y[place]
    assert f"the loss of {best} curves {ratio:.0f} times less than that of standard" in curved
    outcomes = [row[2] for row in kept["audit"].rows]
    assert f"with {outcomes.count('flag')} warnings" in audited
    passed, missing = outcomes.count("passed"), outcomes.count("not run")
    counted = f"passed {passed}, warned {outcomes.count('flag')}, failed 0, not applicable {missing}"
    assert counted in told["conclusions"][1]


def test_groups_are_folded_and_opened_by_links_keys_and_search(told):
    assert len(told["folded"]) == 6
    assert not any(told["folded"])
    assert told["followed"] == [False, True, False, False, False, False]
    assert told["third"]
    assert all(told["all"])
    assert (told["searching"], told["found"]) == ("search", ["the-decision-boundary"])
    assert told["again"] == [[True] * 6, 0]
    assert told["nodes"] < 5000
    assert told["rows"] == [len(CHECKS), 4 * len(CHECKS), 61]
    assert not [text for text in told["buttons"] if re.search("share|upload|cloud", text, re.IGNORECASE)]


def test_tables_are_sorted_and_keep_their_first_column(told):
    robust = {row[0]: row[2][0] for row in results()["comparison"].rows}
    rising = sorted(robust, key=robust.__getitem__)
    assert told["rising"] == [rising, "ascending"]
    assert told["falling"] == [rising[::-1], "descending"]
    assert told["sticky"] == ["sticky", "sticky"]


def test_a_chart_tells_its_values_hides_lines_and_shows_its_numbers(told):
    assert told["hidden"] == "none"
    assert told["tip"].startswith("at 0.25\nstandard: 0 [0, 0.01]\ngradient-norm")
    assert told["stepped"].startswith("at 0\nstandard: 0.98")
    assert told["numbers"] == [5] * 4


def test_every_figure_is_saved_with_its_title_and_conditions(told):
    figures = {name: (valid, kind, size, text, colored) for name, valid, kind, size, text, colored in told["exported"]}
    assert {"accuracy-against-radius", "perturbed-images", "margin-along-r-and-v", "curvature-against-scale"} <= {
        *figures
    }
    for valid, kind, size, _, follows_the_scheme in figures.values():
        assert (valid, kind, follows_the_scheme) == (True, "image/png", False)
        assert size > 5000
    assert "CURE" not in figures["accuracy-against-radius"][3].split("Measured with")[0]  # its line is hidden
    margin = figures["margin-along-r-and-v"][3]
    assert all(words in margin for words in ("Margin along r and v", *NETWORKS, "grid: 21 x 21 points", "parabola"))


def test_surfaces_are_drawn_in_space_turned_together_and_flattened_again(told):
    assert (told["unseen"], told["space"]) == ([False] * 4, [True] * 4)
    assert told["turned"]
    assert told["flat"] == 0


PHONE = """
const frame = document.createElement("iframe");
frame.width = 390; frame.height = 800;
frame.srcdoc = document.getElementById("page").textContent;
document.body.append(frame);
await new Promise((done) => { frame.onload = done; });
const page = frame.contentDocument;
page.querySelectorAll("details").forEach((details) => { details.open = true; });
await new Promise((done) => setTimeout(done, 200));
const root = page.documentElement;
const wide = [...page.querySelectorAll("main *")]
  .filter((part) => !part.closest(".scroll, pre, .bar") && part.getBoundingClientRect().right > 391)
  .map((part) => part.outerHTML.slice(0, 80));
return { inner: frame.contentWindow.innerWidth, width: root.scrollWidth, wide,
  cards: frame.contentWindow.getComputedStyle(page.querySelector(".cards tbody tr")).display,
  letters: parseFloat(frame.contentWindow.getComputedStyle(page.querySelector(".chart text")).fontSize)
    * page.querySelector(".chart").clientWidth / 640 };
"""


def test_a_phone_needs_no_sideways_scrolling(tmp_path):
    still = report().write(interactive=False)
    holder = f'<body><script type="text/plain" id="page">{still}</script></body>'
    seen = ask(holder, PHONE, tmp_path)
    assert (seen["inner"], seen["width"], seen["wide"]) == (390, 390, [])
    assert seen["cards"] == "block"
    assert seen["letters"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_first_screen_has_the_scheme_of_the_reader_and_every_network_s_color(tmp_path, dark):
    from PIL import Image

    path = tmp_path / "page.html"
    path.write_text(report().write(), encoding="utf-8")
    seen = render(path, tmp_path, width=1400, height=900, dark=dark)
    assert (seen.console, seen.requests) == ((), ())
    with Image.open(seen.screenshot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels[0].mean() < 60) == dark
    for color in ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)):
        assert (pixels == color).all(1).sum() > 150


@pytest.mark.slow
def test_a_folded_page_prints_on_few_pages(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(report().write(), encoding="utf-8")
    assert 1 <= count_printed_pages(path, tmp_path) <= 3
    path.write_text(
        path.read_text(encoding="utf-8").replace('<details class="group"', '<details open class="group"'),
        encoding="utf-8",
    )
    assert count_printed_pages(path, tmp_path) < 10


def test_the_browser_would_have_told_of_errors_and_requests(tmp_path):
    """The control of the tests above: a page with both faults is caught."""
    path = tmp_path / "faulty.html"
    path.write_text(
        '<img src="http://127.0.0.1:9/a.png"><script>setTimeout(() => { throw new Error("torn") })</script>'
    )
    seen = render(path, tmp_path)
    assert any("torn" in line for line in seen.console)
    assert seen.requests == ("http://127.0.0.1:9/a.png",)
