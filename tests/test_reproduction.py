"""The papers' items: each runs at its smallest scale, keeps what is finished, and says what the paper has."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
from command import done, refused

from lowcurve.papers.common.judging import claim_order, judge_kept, read_interval
from lowcurve.papers.common.lookup import as_curves, as_surface, as_table, read_cells, read_value
from lowcurve.papers.items import ITEMS, get_item
from lowcurve.papers.yu2018.tables import STRONG_ROWS
from lowcurve.results import Claim, Column, Curves, Table, comparison_table, holds, load, proportion
from lowcurve.store import Run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where all items of these tests are made, so that they share their networks."""
    return tmp_path_factory.mktemp("reproduced")


def made(place: Path, key: str, *words: str) -> dict:
    paper, name = key.split("/")
    assert done("reproduce", key, "--scale", "smoke", "--seeds", "1", "--out", place / paper, *words) == 0
    return json.loads((place / paper / f"{name}.json").read_text())


LONG = (
    "bardusco_report/table-1", "moosavi2019cure/goals", "moosavi2019cure/table-2", "srinivas2022lcnn/ablation",
    "srinivas2022lcnn/table-1", "yu2018interpreting/table-1", "yu2018interpreting/table-2", "yu2018interpreting/figure-8",
)  # fmt: skip


@pytest.mark.parametrize("key", [pytest.param(key, marks=[pytest.mark.slow] * (key in LONG)) for key in ITEMS])
def test_every_item_runs_at_its_smallest_scale(key, place):
    content = made(place, key)
    claims = load(content["results"]["beside the paper"])
    assert claims.rows
    assert all(ours != "not run" for _, _, ours, _ in claims.rows)
    assert content["facts"]["item"] == key
    assert {"lowcurve", "torch", "machine", "took", "written"} <= set(content["facts"])
    assert all(used["data"] == content["facts"]["data"] for used in content["settings"].values())
    assert (place / key.split("/")[0] / f"{key.split('/')[1]}.html").read_text().startswith("<!doctype html>")


def test_what_is_finished_is_not_made_again(place):
    made(place, "srinivas2022lcnn/table-1")
    files = {path: path.stat().st_mtime_ns for path in (place / "srinivas2022lcnn").rglob("*.safetensors")}
    parts = {path: path.stat().st_mtime_ns for path in (place / "srinivas2022lcnn" / "parts").glob("*.json")}
    assert len(files) >= 7
    made(place, "srinivas2022lcnn/table-1")
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_what_other_code_made_is_made_again(place, monkeypatch):
    made(place, "srinivas2022lcnn/table-1", "--rows", "standard")
    part = place / "srinivas2022lcnn" / "parts" / "numbers-standard-0.json"
    before = json.loads(part.read_text())
    monkeypatch.setattr("lowcurve.papers.common.context.code_version", lambda: "0.1.0+edited")
    monkeypatch.setattr("lowcurve.store.run.training_version", lambda: "0.1.0+edited")
    made(place, "srinivas2022lcnn/table-1", "--rows", "standard")
    after = json.loads(part.read_text())
    assert before["key"] != after["key"]
    assert before["results"] == after["results"]
    assert (place / "srinivas2022lcnn" / "runs" / "0.1.0+edited" / "standard-0" / "networks").is_dir()


def test_some_rows_alone_leave_the_others_not_run(place):
    content = made(place, "srinivas2022lcnn/table-1", "--rows", "standard,LCNN + gradient norm")
    rows = {name: ours for name, _, ours, _ in load(content["results"]["beside the paper"]).rows}
    assert rows["standard: mean C"] != "not run"
    assert content["facts"]["rows"] == "standard,LCNN + gradient norm"
    assert set(content["settings"]) == {"standard-0", "lcnn-gradient-norm-0"}
    assert content["settings"]["standard-0"]["methods"] == ["standard"]
    assert rows["CURE: mean C"] == rows["C: LCNN + gradient norm < CURE"] == "not run"


def test_every_network_of_a_table_is_tried_under_the_suite_strong_and_no_other_is_asked_for(place):
    key, some = "yu2018interpreting/table-1", ("natural", "MinMax")
    content = made(place, key, "--rows", ",".join(some))
    rows = {name: ours for name, _, ours, _ in load(content["results"]["beside the paper"]).rows}
    found = read_cells(load(content["results"]["robustness"]))
    assert tuple(found) == some
    for row in STRONG_ROWS["table-1"]:
        strong = rows[f"{row}: under the suite strong at 0.2"]
        (told,) = (ours for name, ours in rows.items() if name.startswith(f"{row}: as robust to the suite strong"))
        assert (strong == "not run") == (told == "not run") == (row not in some)
        if row in some:
            assert read_value(found[row]["strong"]) <= read_value(found[row]["clean"])
            assert str(found[row]["audit"]) in told


def test_rows_of_two_runs_are_judged_together_as_those_of_one(place, monkeypatch):
    key, others = "srinivas2022lcnn/table-1", "CURE,gradient norm"
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs")
    page = importlib.import_module("reproduction")
    whole = made(place, key)
    apart = [made(place, key, "--rows", rows) for rows in ("standard,LCNN,LCNN + gradient norm", others)]
    (put,) = page.together(apart)
    of_both = {row[0]: row for row in load(put["results"]["beside the paper"]).rows}
    of_one = {row[0]: row for row in load(whole["results"]["beside the paper"]).rows}
    assert of_both.keys() == of_one.keys()
    same = {name for name in of_one if of_both[name] == of_one[name]}
    assert {name for name in of_one if not name.startswith(("softplus", "adversarial training"))} <= same
    assert put["facts"]["runs"] == "2"
    assert page.together([whole]) == [whole]


def test_rows_that_were_made_elsewhere_are_taken_up_once_their_folders_are_copied(tmp_path):
    for name, row in (("here", "standard"), ("there", "LCNN")):
        made(tmp_path / name, "srinivas2022lcnn/table-1", "--rows", row)
    here, there = (tmp_path / name / "srinivas2022lcnn" for name in ("here", "there"))
    for folder in ("runs", "parts"):
        shutil.copytree(there / folder, here / folder, dirs_exist_ok=True)
    kept = {path: path.stat().st_mtime_ns for path in here.rglob("*.safetensors")}
    assert len(kept) == 2
    content = made(tmp_path / "here", "srinivas2022lcnn/table-1", "--rows", "standard,LCNN")
    rows = {name: ours for name, _, ours, _ in load(content["results"]["beside the paper"]).rows}
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*.safetensors")} == kept
    assert "not run" not in (rows["standard: mean C"], rows["LCNN: mean C"])


def test_it_stops_by_itself_and_goes_on_where_it_was(tmp_path):
    """In pieces, as a shared machine wants it: what the first piece finished is not done again."""
    words = ("reproduce", "srinivas2022lcnn/table-1", "--scale", "smoke", "--seeds", "1", "--out", tmp_path)
    assert done(*words, "--minutes", 0.02) == 130
    assert not (tmp_path / "table-1.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.json")}
    assert done(*words) == 0
    assert (tmp_path / "table-1.json").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_within_a_run_can_be_reported_by_itself(place):
    made(place, "srinivas2022lcnn/table-1", "--rows", "LCNN")
    (folder,) = (place / "srinivas2022lcnn" / "runs").glob("0*/lcnn-0")
    assert Run.open(folder).networks() == ("LCNN",)
    assert done("report", folder) == 0


def test_the_list_names_every_item(capsys):
    assert done("reproduce", "--list") == 0
    shown = capsys.readouterr().out
    assert [line.split("  ")[0] for line in shown.splitlines()] == list(ITEMS)  # one plain line an item
    assert all(one.title in shown for one in ITEMS.values())


def test_a_smoke_run_gives_no_verdict(place, capsys):
    made(place, "srinivas2022lcnn/table-1")
    shown = " ".join(capsys.readouterr().out.split())
    assert "A smoke run shows only that the item runs: its numbers mean nothing." in shown
    assert "hold" not in shown
    assert "A smoke run shows only" in (place / "srinivas2022lcnn" / "table-1.html").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("srinivas2022lcnn/table-9",), "the key of an item, got .*. Write srinivas2022lcnn/table-"),
        (("nothing",), "the key of an item, got 'nothing'. See lowcurve reproduce --list"),
        (("srinivas2022lcnn/table-1", "--scale", "huge"), "a scale among smoke, laptop, paper"),
        (
            ("srinivas2022lcnn/table-1", "--data", "svhn"),
            "data of srinivas2022lcnn/table-1 among cifar10, mnist, digits",
        ),
        (("srinivas2022lcnn/table-1", "--seeds", "0"), "at least one seed, got 0"),
        (
            ("srinivas2022lcnn/table-1", "--minutes", "0"),
            "a number of minutes above 0, got 0.0. Write --minutes 8",
        ),
        (("srinivas2022lcnn/table-1", "--seed", "x"), "Unknown option --seed. Did you mean --seeds"),
        (("srinivas2022lcnn/table-1", "more"), "only options after lowcurve reproduce, got 'more'"),
        (("srinivas2022lcnn/table-1", "--rows", "LCMM"), "rows among standard, LCNN, .*. Leave out --rows for all"),
    ],
)
def test_what_cannot_be_reproduced(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(sentence, refused(capsys, "reproduce", *words))


def test_a_claim_is_shown_as_it_is_printed_and_ours_with_its_spread():
    assert Claim("LCNN: C", "25.30", "Table 1", (20.0, 18.0, 22.0)).shown == "20 [18, 22]"
    assert holds("a < b", "Table 1", False, "3, 2", told=True).shown == "does not hold (3, 2)"
    table = comparison_table("t", [Claim("clean", "81.2", "Table 2")], "caption", {"scale": "smoke"})
    assert table.rows == (("clean", "81.2", "not run", "Table 2"),)
    assert table.conditions == {"scale": "smoke"}


def test_a_result_of_another_kind_is_an_error():
    table, curves = Table("t", (Column("network"),), ()), Curves("c", "x", "y", (0.0,), {})
    assert as_table(table) is table
    assert as_curves(curves) is curves
    with pytest.raises(TypeError, match="the result 'c' is Curves, not Table"):
        as_table(curves)
    with pytest.raises(TypeError, match="the result 't' is Table, not Surface"):
        as_surface(table)


def order_table(*cells, form: str = ".3g", conditions: dict[str, str] | None = None) -> Table:
    """Return a table of one number, with models a, b, c."""
    return Table(
        "t", (Column("network"), Column("C", form=form)), tuple(zip("abc", cells, strict=False)), "", conditions or {}
    )


@pytest.mark.parametrize(
    ("cells", "ours"),
    [
        (((1, 0.9, 1.1), (2, 1.9, 2.1)), "holds (1, 2)"),
        (((2, 1.9, 2.1), (1, 0.9, 1.1)), "does not hold (2, 1)"),
        (((2.5, 2.3, 2.7), (2.55, 2.4, 2.7)), "cannot be told (2.5, 2.55; intervals overlap)"),
        (((2.55, 2.4, 2.7), (2.5, 2.3, 2.7)), "cannot be told (2.55, 2.5; intervals overlap)"),
        ((2.5, 2.55), "cannot be told (2.5, 2.55; no interval)"),
        ((2.5, float("nan")), "cannot be told (2.5, nan; no interval)"),
        (((1, 0.9, 1.1), (2, 1.9, 2.1), (2.05, 1.9, 2.2)), "cannot be told (1, 2, 2.05; intervals overlap)"),
        (((1, 0.9, 1.1), (2, 1.9, 2.1), (0.5, 0.4, 0.6)), "does not hold (1, 2, 0.5)"),
        (((1, 0.9, 1.1),), None),
    ],
)
def test_an_order_of_models_holds_does_not_or_cannot_be_told(cells, ours):
    models = ("a", "b", "c")[: max(2, len(cells))]
    assert claim_order(order_table(*cells), "C", models, "T").ours == ours
    assert (
        claim_order({"other": Table("o", (Column("network"),), ()), "it": order_table(*cells)}, "C", models, "T").ours
        == ours
    )


def test_a_share_of_images_has_its_wilson_interval_and_seeds_two_deviations():
    told = {"attacks": "200 of the test set, l_2 in pixel units", "clean": "1000 of the test set"}
    shares = order_table(0.3, 0.4, form=".1%", conditions=told)
    assert read_interval(shares, "a", "C") == (proportion(60, 200).low, proportion(60, 200).high)
    assert claim_order(shares, "C", ("a", "b"), "T").ours == "cannot be told (0.3, 0.4; intervals overlap)"
    assert (
        claim_order(order_table(0.3, 0.5, form=".1%", conditions=told), "C", ("a", "b"), "T").ours == "holds (0.3, 0.5)"
    )
    seeds = order_table((1.0, 0.9, 1.1), (1.3, 1.2, 1.4), conditions={"seeds": "2"})
    assert read_interval(seeds, "a", "C") == pytest.approx((0.8, 1.2))
    assert claim_order(seeds, "C", ("a", "b"), "T").ours == "cannot be told (1, 1.3; intervals overlap)"
    assert read_interval(order_table(0.3, form=".1%"), "a", "C") is None
    fewest = {"examples": "76 classified rightly, of the first 100 (a); 71 classified rightly, of the first 100 (b)"}
    assert read_interval(order_table(0.5, form=".1%", conditions=fewest), "a", "C")[0] < 0.41


def test_what_was_judged_by_points_is_judged_again():
    """Only orders of models whose table was kept can be told."""
    results = {"numbers": order_table((1, 0.9, 1.1), (2, 1.9, 2.1))}
    assert judge_kept(("C: a < b", "holds", "holds (1, 2)", "T"), results) == "holds (1, 2)"
    assert judge_kept(("C: a < d", "holds", "holds (1, 2)", "T"), results) == "cannot be told (1, 2; no interval)"
    assert judge_kept(("it falls", "holds", "does not hold", "T"), results) == "cannot be told (no interval)"
    assert judge_kept(("C", "81.2", "0.8", "T"), results) == "0.8"


def test_nothing_is_told_without_an_interval():
    assert holds("a < b", "T", True, "1, 2").shown == "cannot be told (1, 2; no interval)"
    assert holds("a < b", "T", False, told=False).shown == "cannot be told (intervals overlap)"
    assert holds("a < b", "T", None, "1, 2", told=True).shown == "not run"


def test_data_is_that_of_the_scale_unless_another_is_asked_for():
    table = get_item("srinivas2022lcnn/table-1")
    assert [table.data_at(scale, None) for scale in ("smoke", "laptop", "paper")] == ["digits", "cifar10", "cifar100"]
    assert table.data_at("laptop", "mnist") == "mnist"
    assert isinstance(comparison_table("t", []), Table)
    assert comparison_table("t", []).columns[0] == Column("number", "The number or statement.")
