"""The sentences of a report follow its numbers, whatever these are; runs side by side."""

import re
from dataclasses import replace

import made_study
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_study import NETWORKS, audit, comparison, results

from lowcurve.evaluation.audit import CHECKS
from lowcurve.evaluation.audit.verdict import WORDS
from lowcurve.report import styles
from lowcurve.results import Column, Curves, Gallery, Line, Table
from lowcurve.study import findings
from lowcurve.study.report_groups import Report
from lowcurve.study.side_by_side import beside, differences, incomparable

BALL, SUITE, TESTS = "l_inf radius 0.125", "strong", len(CHECKS)


def said(**changed) -> list[str]:
    found = {kind: result for kind, result in (results() | changed).items() if result is not None}
    return findings.opening(found, BALL, SUITE)


def test_the_example_of_four_networks():
    robust, clean, curved, audited = said()
    assert robust == (
        "At l_inf radius 0.125, PGD keeps 79 % [75, 83] of 360 test images under the strongest attack tried (suite strong); "
        "standard 28 % [24, 33] and CURE 68 % [62, 72]."
    )
    assert clean.startswith(
        "Without an attack, PGD is right on 99 % [97, 100] and standard on 98 % [96, 99]: no difference"
    )
    assert (
        "the loss of PGD curves 30 times less than that of standard: median 0.718 (10 to 90 %: 0.239 to 2.15)" in curved
    )
    assert audited == (
        "The audit found no masking in any network, with 3 warnings: loss saturation and logit scale (CURE); "
        "black box against white box, image by image (CURE and PGD)."
    )


COUNTS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 200), min_size=n, max_size=n) for _ in range(2)))
)


@settings(max_examples=40, deadline=None)
@given(COUNTS)
def test_any_numbers_are_told_as_they_are(counts):
    clean, robust = counts
    names = [f"n{i}" for i in range(len(clean))]
    rows = tuple(
        (n, made_study.share(a, 200), made_study.share(b, 200), "")
        for n, a, b in zip(names, clean, robust, strict=True)
    )
    table = replace(comparison(), rows=rows, conditions={"examples": "the first 200 of the test set"})
    sentences = said(comparison=table, audit=None, geometry=None)
    numbers = {row[0]: row for row in rows}
    first, *others = re.findall(r"(n\d+) (?:keeps )?(\S+ % \[\S+, [\d.]+\])", sentences[0])
    assert first[1] == findings.percent(numbers[first[0]][2])
    assert numbers[first[0]][2][0] == max(row[2][0] for row in rows)
    for name, text in others:
        assert text == findings.percent(numbers[name][2])
    best = numbers[first[0]][2]
    overlaps = [n for n in names if n != first[0] and numbers[n][2][2] >= best[1]]
    assert bool(re.search(r"intervals? of .* overlaps? that of", sentences[0])) == bool(overlaps)
    if len(names) > 1:
        (one, _), (other, _) = re.findall(r"(n\d+) (?:is right )?on (\S+)", sentences[1])
        a, b = numbers[one][1], numbers[other][1]
        apart = a[1] > b[2] or b[1] > a[2]
        assert ("no difference" in sentences[1]) == (not apart)
        assert ("points better" in sentences[1]) == (apart and a[0] > b[0])
    assert all(len(sentence) < 700 for sentence in sentences)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["passed", "flag", "fail", "not run"]), min_size=4 * TESTS, max_size=4 * TESTS))
def test_any_outcomes_are_counted_as_they_are(outcomes):
    table = audit()
    rows = tuple((*row[:2], outcome, *row[3:]) for row, outcome in zip(table.rows, outcomes, strict=True))
    found = results() | {"audit": replace(table, rows=rows)}
    for verdict, begin in zip(findings.verdicts(found), range(0, 4 * TESTS, TESTS), strict=True):
        own = outcomes[begin : begin + TESTS]
        counts = dict(re.findall(r"(passed|warned|failed|not applicable) (\d+)", verdict.counted))
        assert counts == {word: str(own.count(outcome)) for outcome, word in WORDS.items()}
        assert [one.outcome for one in verdict.raised] == [WORDS[o] for o in own if o in ("flag", "fail")]
    groups = {group.title: group for group in Report("", "", found, BALL, SUITE).groups()}
    assert f"passed {outcomes.count('passed')}, " in groups["Audit"].conclusion
    sentence = findings.opening(found, BALL, SUITE)[-1]
    failed = {NETWORKS[i // TESTS] for i, outcome in enumerate(outcomes) if outcome == "fail"}
    assert ("is not reliable" in sentence) == bool(failed)
    assert all(name in sentence for name in failed)


def test_what_the_audit_could_not_do_is_no_praise():
    columns = [column.heading for column in comparison().columns]
    weak = tuple((*row[:3], "too weak to judge: 1 of 8 images") for row in comparison().rows)
    none = tuple((*row[:3], "not audited") for row in comparison().rows)
    assert "cannot judge standard, CURE, gradient-norm and PGD" in said(comparison=replace(comparison(), rows=weak))[-1]
    assert said(comparison=replace(comparison(), rows=none), audit=None)[-1].startswith("No audit was run")
    assert columns[-1] == "audit"


def test_few_images_are_called_too_few():
    few = comparison((1, 2, 3, 4), (8, 8, 8, 8), of=8)
    (caution,) = findings.cautions({"comparison": few}, SUITE)
    assert caution.startswith("Nothing can be read from 8 test images. Their intervals are up to")
    assert findings.cautions({"comparison": comparison()}, SUITE) == []


def test_what_was_not_evaluated_is_not_told():
    measured = said(comparison=None, audit=None)
    assert len(measured) == 1
    assert measured[0].startswith(
        "At the scale of the attack (h = 1 in l_2), the loss of PGD curves 30 times less than that of"
    )
    one = {"standard": results()["against scale"].lines["standard"]}
    alone = replace(results()["against scale"], lines=one)
    table = replace(comparison(), rows=comparison().rows[:1])
    robust, curved, _ = said(**{"comparison": table, "against scale": alone})
    assert robust.endswith("; without an attack it is right on 98 % [96, 99].")
    assert "the curvature of its loss has the median 21.4" in curved
    assert said(**{"comparison": None, "audit": None, "against scale": None}) == []
    assert "No network was attacked or measured yet." in Report("t", "l", {}, BALL, SUITE).write()
    bare = Report("t", "l", {"geometry": results()["geometry"]}, BALL, SUITE).write()
    assert "No robust accuracy and no curvature at the scale of the attack could be computed." in bare
    gone = replace(comparison(), rows=tuple((row[0], None, None, None) for row in comparison().rows))
    assert len(said(comparison=gone, audit=None)) == 1


def test_every_result_is_in_exactly_one_place():
    report = Report("t", "l", results(), BALL, SUITE, settings={"seed": 0})
    groups = {
        group.title: [result.title for result in group.results]
        for group in report.groups(["against radius", "comparison"])
    }
    assert list(groups) == [
        "Robustness",
        "Audit",
        "Curvature",
        "Boundaries and surfaces",
        "Training",
        "Settings and commands",
    ]
    shown = [title for titles in groups.values() for title in titles]
    assert len(shown) == len({*shown})
    hidden = {"Audit", "Accuracy against radius", "Robustness and curvature"}
    assert {*shown} >= {result.title for result in results().values()} - hidden
    assert all(group.conclusion.endswith(".") for group in report.groups())


def test_a_page_of_thirty_networks_is_small_and_whole():
    many = {f"run{i}": results() for i in range(8)}
    text = Report("t", "l", beside(many), BALL, SUITE).write()
    assert len(text.encode()) < 5_000_000
    assert text.count("run7: CURE") > 5


def test_runs_stand_side_by_side_and_their_differences_are_told():
    other = results()
    other["against radius"] = replace(other["against radius"], x=(0.0, 0.2, 0.4))
    found = beside({"a": results(), "b": other})
    assert [row[0] for row in found["comparison"].rows] == [f"{run}: {name}" for run in "ab" for name in NETWORKS]
    assert {"against radius, a", "against radius, b"} <= {*found}
    assert isinstance(found["against radius, a"], Curves)
    assert found["against radius, b"].title == "Accuracy against radius (b)"
    assert found["training b: CURE"].title == "Training CURE (b)"
    gallery = found["gallery"]
    assert isinstance(gallery, Gallery)
    assert len(gallery.row_labels) == 8
    settings = {
        "a": {"seed": 0, "radius": "0.1", "data": "digits"},
        "b": {"seed": 0, "radius": "0.2", "data": "digits"},
    }
    table = differences(settings)
    assert table.rows == (("seed", "0", "0"), ("radius", "0.1", "0.2"))
    assert incomparable(settings) == ["radius"]
    assert incomparable({run: {"evaluation.effort.steps": run} for run in "ab"}) == ["evaluation.effort.steps"]
    report = Report("t", "l", found, BALL, SUITE, comparable=False)
    assert report.sentences() == []
    assert "under different conditions" in report.write()
    bare = Table("Transfer", (Column("images"),), (("from CURE",),))
    assert {*beside({"a": {"transfer": bare}, "b": {"transfer": replace(bare, columns=(Column("on"),))}})} == {
        "transfer, a",
        "transfer, b",
    }


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        ((0.675, 0.625, 0.721), "68 % [63, 72]"),
        ((0.0, 0.0, 0.01), "0.0 % [0.0, 1.0]"),
        ((0.998, 0.97, 1.0), "99.8 % [97.0, 100.0]"),
        ((1.0, 0.9, 1.0), "100 % [90, 100]"),
        ((0.503, 0.498, 0.508), "50.3 % [49.8, 50.8]"),
    ],
)
def test_a_share_has_as_many_digits_as_its_interval_allows(spread, text):
    assert findings.percent(spread) == text


def test_a_number_that_the_audit_doubts_is_no_winner():
    told = "upper bound, evaluation unreliable: zero gradient"
    rows = tuple((*row[:3], told) if row[0] == "PGD" else row for row in comparison().rows)
    table = audit()
    outcomes = tuple(
        (*row[:2], "fail", *row[3:]) if row[:2] == ("PGD", "5. zero gradient") else row for row in table.rows
    )
    sentences = said(comparison=replace(comparison(), rows=rows), audit=replace(table, rows=outcomes))
    assert sentences[0].startswith("At l_inf radius 0.125, CURE keeps 68 %")
    assert sentences[0].endswith("Higher numbers of PGD are not reliable, as the audit found.")
    assert "79 %" not in sentences[0]
    assert sentences[-1].startswith(
        "The audit says that the robust accuracy of PGD is not reliable: failed 5. zero gradient."
    )
    alone = said(comparison=replace(comparison(), rows=rows[3:]), audit=replace(table, rows=outcomes))
    assert alone[0].startswith("At l_inf radius 0.125, PGD keeps at most 79 % [75, 83]")


def test_a_remark_in_brackets_keeps_the_style():
    lines = {"PGD": Line((1.0,)), "PGD (upper bound)": Line((1.0,)), "PGD, estimate": Line((1.0,))}
    look = styles([Curves("c", "x", "y", (0.0,), lines)])
    assert look["PGD (upper bound)"] == look["PGD"] != look["PGD, estimate"]
