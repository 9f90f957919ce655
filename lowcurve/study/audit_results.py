"""The audit of a network in a study: the suite whose accuracy it judges, its certificates, and its table."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.attacks import Square, Suite
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.audit import THOROUGH, Audit, Budget, audit
from lowcurve.results import Cell, Column, Result, Table
from lowcurve.results.cells import NETWORK
from lowcurve.study.certified_results import global_radii
from lowcurve.study.measured_network import launch_fabric
from lowcurve.study.robustness_row import conditions_of, robustness_row, suite_of
from lowcurve.study.settings import Study
from lowcurve.types import Progress

log = logging.getLogger("lowcurve")

log = logging.getLogger("lowcurve")


def audit_attacked(
    study: Study,
    name: str,
    model: nn.Module,
    examples: Examples,
    attacked: evaluation.AttackResult,
    progress: Progress[int],
    certified: evaluation.Certified | None = None,
) -> Audit:
    """Audit a network on the first of the images that the study's suite attacked.

    Args:
        study: Settings.
        name: Name of the network.
        model: The network.
        examples: The attacked images.
        attacked: Result of the suite.
        progress: Progress display.
        certified: Certified radii of the first images. By default they come from global bounds, which cost little.
    """
    few, fabric = examples.take(slice(study.evaluation.audited)), launch_fabric(study.hardware)
    if certified is None:
        radii = global_radii(model, few, study.ball().norm, fabric=fabric)
    else:
        radii = np.zeros(len(few))
        some = min(len(few), len(certified.radius))
        radii[:some] = certified.radius[:some]
    return audit(
        model, few, study.ball(), seed=study.seed, certified=radii, attacked=attacked,
        budget=budget_of(study), progress=progress, heading=f"auditing {name}", fabric=fabric,
    )  # fmt: skip


def budget_of(study: Study) -> Budget:
    """Return the cost of the study's audits."""
    budget = study.evaluation.budget
    return budget.at_least(THOROUGH) if study.evaluation.audit == "thorough" else budget


def audit_alone(
    study: Study, name: str, model: nn.Module, examples: Examples, progress: Progress[int]
) -> tuple[Audit, Mapping[str, Result]]:
    """Attack some images with the study's suite and audit the result, without the other results of a study.

    Args:
        study: Settings. The first `evaluation.audited` images are attacked.
        name: Name of the network.
        model: The network.
        examples: Test images.
        progress: Progress display.

    Returns:
        The audit, and its results by kind: "robustness" and "audit".
    """
    few, suite = examples.take(slice(study.evaluation.audited)), suite_of(study)
    shared: dict[str, Any] = {"seed": study.seed, "progress": progress, "fabric": launch_fabric(study.hardware)}
    try:
        attacked = evaluation.attack(model, few, suite, heading=f"attacking {name}", **shared)
    except InputError as error:
        log.warning("%s cannot be attacked by the suite %s, so only by Square. %s", name, study.suite, error)
        suite = Suite((("Square", Square(study.ball(), queries=study.evaluation.effort.queries)),))
        attacked = evaluation.attack(model, few, suite, heading=f"attacking {name} by Square", **shared)
    verdict = audit_attacked(study, name, model, few, attacked, progress)
    row = robustness_row(study, name, attacked, suite, verdict, conditions_of(study, few, suite))
    return verdict, {"robustness": row, "audit": audit_table(name, verdict)}


def audit_table(name: str, verdict: Audit) -> Table:
    """Return the tests of an audit as a table.

    Args:
        name: Name of the network.
        verdict: Its audit.
    """
    headings = (
        NETWORK,
        Column("test", "The test."),
        Column("outcome", "passed, flag (worth knowing), fail (the accuracy is not reliable), not run."),
        Column("found", "The numbers."),
        Column("meaning", "Meaning of a flag or failure."),
        Column("to do", "Advice for a flag or failure."),
    )
    rows: list[tuple[Cell, ...]] = [
        (name, f"{one.number}. {one.name}", one.outcome, one.evidence, one.means, one.hint) for one in verdict.findings
    ]
    caption = "Tests for gradient masking, in order of cost."
    return Table("Audit", headings, tuple(rows), caption, conditions=verdict.conditions)
