"""The panel of the audit: its split, its figures by hand, and its committed results."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from panel import figures  # noqa: E402
from panel.entries import PUBLIC, halves  # noqa: E402
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


def test_the_committed_panel_has_its_halves_and_a_reason_for_each_wrong_verdict():
    content = json.loads((ROOT / "docs" / "results" / "benchmark-audit-panel.json").read_text())
    half = halves([*MASKED, *honest()])
    assert all(half[found["network"]] == found["half"] for found in content["rows"])
    again = figures.summarize_panel(content["rows"])
    assert json.loads(json.dumps(again["results"])) == content["results"]
    for cells in content["results"]["wrong"]["rows"]:
        assert cells[1] in figures.REASONS, cells
