"""The rows of a table of attacks: every attack by itself, as the papers have it, then the strong suite with its audit."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from lowcurve import evaluation
from lowcurve.papers.common.context import Context
from lowcurve.papers.common.lookup import read_cells
from lowcurve.papers.common.seed_tables import (
    TrainedRow,
    file_name,
    make_row_table,
    make_seed_table,
    train_row,
    training_conditions,
)
from lowcurve.papers.recipes import Recipe
from lowcurve.results import Claim, Column, Result, Table
from lowcurve.study.comparison import merged_by_kind
from lowcurve.study.robustness_results import attack_results
from lowcurve.study.settings import Study
from lowcurve.types import AttackFunction

Attacks = Callable[[Study], Mapping[str, AttackFunction]]
"""A study's attacks by the headings of their columns."""


def make_attack_table(context: Context, wanted: Mapping[str, Study], attacks: Attacks, kind: str = "attacked") -> Table:
    """Accuracy of each model on clean images and under each attack by itself, over the seeds.

    kind: how the parts are called, for a paper with several such tables.
    """
    return make_seed_table(
        context, wanted, kind, lambda study: dict(attacks(study)), partial(_attacked, attacks=attacks)
    )


def claim_printed_numbers(
    table: Table, of: Mapping[str, Recipe], headings: Mapping[str, str] = MappingProxyType({})
) -> list[Claim]:
    """Every number that the recipes of a table's rows have from the paper, with ours.

    headings: under which ours stands, of those numbers whose names are not headings.
    """
    found = read_cells(table)
    claims = []
    for row, recipe in of.items():
        for name, value in recipe.values.items():
            ours = found.get(row, {}).get(headings.get(name, name))
            claims.append(Claim(f"{row}: {name}", value, recipe.paper, ours, ".1%"))
    return claims


def run_strong_suite(context: Context, wanted: Mapping[str, Study]) -> dict[str, Result]:
    """The same models of the first seed under the suite `strong`, with the audit's verdict, accuracy against radius and
    perturbed images."""
    found: dict[str, list[Result]] = {}
    for row, study in context.select_rows(wanted).items():
        one = train_row(context, row, study)
        strongly = replace(one.study, suite="strong")
        results = context.load_or_compute(
            f"judged-{file_name(row)}", ("judged", strongly), partial(_judged, context, one, strongly)
        )
        for name, result in results.items():
            found.setdefault(name, []).append(result)
    return merged_by_kind(found)


def _attacked(one: TrainedRow, attacks: Attacks) -> Table:
    study = one.study
    examples = one.data.test.take(slice(study.evaluation.examples))
    cells = [
        (Column("clean", "On the whole test set.", ".1%"), float(evaluation.correct(one.model, one.data.test).mean()))
    ]
    for name, attack in attacks(study).items():
        left = evaluation.attack(
            one.model, examples, attack, seed=study.seed, progress=one.progress, heading=f"{name} on {one.row}"
        )
        cells.append((Column(name, "Accuracy under this attack alone.", ".1%"), float(left.robust.mean())))
    conditions = {
        "attacks": f"{len(examples)} of the test set, {study.norm} in pixel units",
        **training_conditions(one),
    }
    return make_row_table("Accuracy under attack", one, cells, conditions)


def _judged(context: Context, one: TrainedRow, study: Study) -> dict[str, Result]:
    run = context.networks_run(file_name(one.row), one.study)
    found = attack_results(study, one.data, one.row, one.model, one.progress, run)
    run.ledger(one.row, "").remove()
    return found
