"""The row of a network's accuracies, with the suite behind them."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from lowcurve import evaluation
from lowcurve.attacks import PGD, SUITES, Suite
from lowcurve.data import DataSet, Examples
from lowcurve.evaluation.audit import Audit
from lowcurve.results import Cell, Column, Table, proportion
from lowcurve.results.cells import NETWORK
from lowcurve.study.certified_results import verified_cell
from lowcurve.study.settings import Study

UNAUDITED = "not audited"


def suite_of(study: Study) -> Suite:
    """Return the study's suite of attacks at its radius and effort."""
    return SUITES[study.suite](study.ball(), study.evaluation.effort)


def tried_suite(study: Study) -> Suite:
    """Return the study's suite, begun by PGD with the study's number of steps."""
    first, members = f"PGD-{study.evaluation.steps}", suite_of(study).members
    if first not in dict(members):  # one of the papers' suites contains it
        members = ((first, PGD(study.ball(), steps=study.evaluation.steps)), *members)
    return Suite(members)


def first_results(study: Study, data: DataSet, name: str, model: nn.Module) -> Table:
    """Return the row of a network's accuracies as far as it is known within a second: clean, and under the first attack.

    Args:
        study: Settings.
        data: Data set.
        name: Name of the network.
        model: The network.
    """
    examples, suite = data.test.take(slice(study.evaluation.examples)), tried_suite(study)
    attacked = evaluation.attack(model, examples, Suite(suite.members[:1]), seed=study.seed, progress=False)
    row = robustness_row(study, name, attacked, suite, None, conditions_of(study, examples, suite))
    return replace(row, rows=((*row.rows[0][:3], *[None] * (len(row.columns) - 3)),))


def conditions_of(study: Study, examples: Examples, suite: Suite) -> dict[str, str]:
    """Return the conditions of accuracies under a suite."""
    return {
        "ball": f"{study.norm}, radius {study.radius} in pixel units",
        "examples": examples.describe("test"),
        "suite": f"{study.attacks}: " + ", then ".join(key for key, _ in suite.members),
        "meaning": "robust accuracy is an upper bound: a stronger attack may exist",
    }


def robustness_row(
    study: Study,
    name: str,
    attacked: evaluation.AttackResult,
    suite: Suite,
    verdict: Audit | None,
    conditions: Mapping[str, str],
    certified: evaluation.Certified | None = None,
) -> Table:
    """Return the row of a network's accuracies.

    Args:
        study: Settings.
        name: Name of the network.
        attacked: Result of the suite.
        suite: The suite.
        verdict: The audit, if there is one.
        conditions: Conditions of the accuracies.
        certified: Certified radii of the first examples, if there are any.
    """
    first = suite.members[0][0]
    worst = attacked.robust if verdict is None else verdict.worst_case_with(attacked.robust)
    shares = [
        proportion(int(column.sum()), len(column))
        for column in (attacked.robust_to(), attacked.robust_to(first), worst)
    ]
    headings = (
        NETWORK,
        Column("clean", "Accuracy on unperturbed test examples.", ".1%"),
        Column(first, f"Accuracy after {first} on cross-entropy from a random start.", ".1%"),
        Column(study.suite, "Accuracy after the whole suite, each example at its worst.", ".1%"),
        Column("verified", "Share of the first images that are proved robust at this radius.", ".1%"),
        Column("audit", "Verdict of the tests for gradient masking on these accuracies."),
    )
    summary = UNAUDITED if verdict is None else verdict.summary
    row: tuple[Cell, ...] = (
        name,
        *((s.value, s.low, s.high) for s in shares),
        verified_cell(study, certified),
        summary,
    )
    said = {} if certified is None else {"verified": certified.proof}
    conditions = {**conditions, **said}
    return Table("Robustness", headings, (row,), conditions=conditions)
