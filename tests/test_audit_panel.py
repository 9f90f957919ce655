"""The panel of the audit: its split, its figures by hand, and its committed results."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from panel import again, figures  # noqa: E402
from panel.entries import PUBLIC, halves  # noqa: E402
from panel.fifth import fifth  # noqa: E402
from panel.fourth import fourth  # noqa: E402
from panel.fresh import fresh  # noqa: E402
from panel.honest import honest  # noqa: E402
from panel.masked import MASKED  # noqa: E402


def row(
    *,
    masked: bool,
    suite: float,
    adaptive: float,
    failed: tuple[int, ...] = (),
    naive: float = 0.5,
    level: str = "warnings",
):
    findings = [
        {
            "number": k,
            "name": str(k),
            "outcome": "fail" if k in failed else "passed",
            "measured": float(k in failed),
            "evidence": "",
        }
        for k in (1, 2)
    ]
    accuracies = {"clean": 1.0, "naive": naive, "suite": suite, "adaptive": adaptive, "audited": suite}
    return {
        "name": "a", "kind": "b", "half": "final", "masked": masked, "random": False, **accuracies,
        "level": "unreliable" if failed else level,
        "verdict": "", "findings": findings, "remedies": [], "suite seconds": 2.0, "audit seconds": 1.0,
    }  # fmt: skip


def test_both_halves_have_networks_of_both_sides_and_public_ones_serve_to_tune():
    entries = [*MASKED, *honest()]
    half = halves(entries)
    assert len({entry.title for entry in entries}) == len(entries)
    for masked in (True, False):
        names = {name: half[name] for name in (entry.name for entry in entries if entry.masked == masked)}
        assert len(names) >= 20
        assert abs(list(names.values()).count("tuning") - list(names.values()).count("final")) <= 4
    assert {half[entry.name] for entry in entries if entry.kind == PUBLIC} == {"tuning"}


def test_the_third_set_has_networks_of_its_own():
    old, third = [*MASKED, *honest()], list(fresh())
    assert not {entry.name for entry in old} & {entry.name for entry in third}
    assert len({entry.title for entry in third}) == len(third)
    assert set(halves([*old, *third]).values()) == {"tuning", "final", "third"}
    for masked in (True, False):
        assert sum(entry.masked == masked for entry in third) >= 25
        assert sum(entry.masked == masked and entry.full for entry in third) >= 8


def test_the_fourth_set_has_networks_of_its_own_mostly_in_l_1():
    old, found = [*MASKED, *honest(), *fresh()], list(fourth())
    assert not {entry.name for entry in old} & {entry.name for entry in found}
    assert len({entry.name for entry in found}) == len(found)
    assert set(halves([*old, *found]).values()) == {"tuning", "final", "third", "fourth"}
    sparse = [entry for entry in found if entry.ball.norm.name == "l_1"]
    assert [sum(entry.masked == masked for entry in sparse) for masked in (True, False)] == [8, 18]
    assert not any(entry.masked for entry in found if entry not in sparse)


def test_the_fifth_set_has_networks_of_its_own_in_three_norms():
    old, found = [*MASKED, *honest(), *fresh(), *fourth()], list(fifth())
    assert not {entry.name for entry in old} & {entry.name for entry in found}
    assert len({entry.name for entry in found}) == len(found)
    assert set(halves([*old, *found]).values()) == {"tuning", "final", "third", "fourth", "fifth"}
    assert [sum(entry.masked == masked for entry in found) for masked in (True, False)] == [12, 37]
    for masked, least in ((True, 2), (False, 8)):
        norms = Counter(entry.ball.norm.name for entry in found if entry.masked == masked)
        assert len(norms) == 3
        assert min(norms.values()) >= least


def test_only_an_evaluation_that_is_clearly_wrong_counts_as_masked():
    assert figures.misjudged(row(masked=True, suite=0.5, adaptive=0.45))
    assert not figures.misjudged(row(masked=True, suite=0.5, adaptive=0.46))
    assert figures.misjudged(row(masked=True, suite=0.5, adaptive=0.5, naive=0.65))
    assert not figures.misjudged(row(masked=True, suite=0.5, adaptive=0.5, naive=0.64))


def test_rates_and_areas_of_a_panel_by_hand():
    rows = [
        row(masked=True, suite=0.5, adaptive=0.1, failed=(1,)),
        row(masked=True, suite=0.5, adaptive=0.1),
        row(masked=True, suite=0.5, adaptive=0.5, failed=(2,)),
        row(masked=False, suite=0.5, adaptive=0.5),
        row(masked=False, suite=0.5, adaptive=0.5, failed=(2,)),
    ]
    found = figures.summarize_panel(rows)["summary"]["final"]
    assert (found["masked"], found["nothing to hide"], found["honest"]) == (2, 1, 2)
    assert (found["sensitivity"][0], found["false alarms"][0], found["alarms with nothing to hide"][0]) == (0.5, 0.5, 1)
    assert found["area under the ROC curve"] == pytest.approx(0.5)
    parts = figures.split(rows)
    assert figures.area(figures.score_of_test(1), parts["masked"], parts["honest"]) == 0.75
    assert figures.area(figures.score_of_test(2), parts["masked"], parts["honest"]) == 0.25


def test_a_repeated_run_stands_beside_the_first():
    rows = [
        row(masked=True, suite=0.5, adaptive=0.1, failed=(1,)),
        row(masked=True, suite=0.5, adaptive=0.1),
        row(masked=False, suite=0.5, adaptive=0.5, failed=(2,)),
        row(masked=False, suite=0.5, adaptive=0.5),
    ]
    later = [row(masked=r["masked"], suite=0.5, adaptive=0.1, failed=(2,) * r["masked"]) for r in rows]
    both = [first | {"again": again.brief({"version": "x", **now})} for first, now in zip(rows, later, strict=True)]
    assert again.verdicts(both).rows == (("final", 2, 1, 2, 2, 1, 0),)
    assert [cells[2:] for cells in again.changed(both).rows] == [("–", "2"), ("2", "–")]
    assert figures.summarize_panel(both)["summary"] == figures.summarize_panel(rows)["summary"]


def test_the_gains_of_the_audits_attacks_by_hand():
    named = [
        ("BPDA through Levels before '1'", 60, 50), ("BPDA through Levels", 50, 48), ("BPDA through round", 48, 48),
        ("transfer from '1' alone", 90, 60), ("transfer from a distilled student", 48, 47),
        ("BPDA through every intermediate image before '1'", 47, 46), ("Square with 3000 queries", 46, 45),
        ("PGD on the mean of 16 draws (EOT)", 45, 40), ("PGD on cross-entropy of rescaled logits", 90, 80),
    ]  # fmt: skip
    remedies = [{"attack": a, "before": b, "after": c, "of": 200} for a, b, c in named]
    rows = [row(masked=True, suite=0.5, adaptive=0.1) | {"remedies": remedies} for _ in range(2)]
    found = {cells[0]: cells[1:] for cells in figures.gains(rows).rows}
    assert len(found) == len(named)
    assert found["transfer from the classifier inside"] == (2, 2, 15.0, 15.0)
    assert found["BPDA through the stages before the classifier"] == (2, 2, 5.0, 5.0)
    assert found["BPDA through layers"] == (2, 2, 1.0, 1.0)
    assert found["BPDA through operations"] == (2, 0, 0.0, 0.0)


def test_the_committed_panel_has_its_halves_and_a_reason_for_each_wrong_verdict():
    content = json.loads((ROOT / "docs" / "results" / "benchmark-audit-panel.json").read_text())
    half = halves([*MASKED, *honest(), *fresh(), *fourth(), *fifth()])
    assert all(half[found["network"]] == found["half"] for found in content["rows"])
    found = again.summarize(content["rows"])
    assert json.loads(json.dumps(found["results"])) == content["results"]
    for cells in content["results"]["wrong"]["rows"]:
        assert cells[1] in figures.REASONS, cells
