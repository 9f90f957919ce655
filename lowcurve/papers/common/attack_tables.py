"""Evaluate the rows of a table under each of the paper's attacks, and under the strong suite with its audit."""

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
from lowcurve.study.comparison import merge_by_kind
from lowcurve.study.robustness_results import attack_results
from lowcurve.study.settings import Study
from lowcurve.types import AttackFunction

Attacks = Callable[[Study], Mapping[str, AttackFunction]]
"""Takes a study and returns its attacks by column heading."""


def make_attack_table(context: Context, wanted: Mapping[str, Study], attacks: Attacks, kind: str = "attacked") -> Table:
    """Make a table of each network's accuracy on clean images and under each attack alone, over the seeds.

    Args:
        context: The context of the item.
        wanted: The studies by row.
        attacks: The attacks of a study by column heading.
        kind: Prefix of the names of stored parts. It differs for each such table of a paper.
    """
    return make_seed_table(
        context, wanted, kind, lambda study: dict(attacks(study)), partial(_make_attack_row, attacks=attacks)
    )


def claim_printed_numbers(
    table: Table, recipes: Mapping[str, Recipe], headings: Mapping[str, str] = MappingProxyType({})
) -> list[Claim]:
    """Compare every number that the paper prints for the rows of a table with ours.

    Args:
        table: Our table.
        recipes: The recipe of each row, which has the paper's numbers.
        headings: The column heading of each number that the paper calls by another name.
    """
    found = read_cells(table)
    claims = []
    for row, recipe in recipes.items():
        for name, value in recipe.values.items():
            ours = found.get(row, {}).get(headings.get(name, name))
            claims.append(Claim(f"{row}: {name}", value, recipe.paper, ours, ".1%"))
    return claims


def run_strong_suite(context: Context, wanted: Mapping[str, Study]) -> dict[str, Result]:
    """Attack the networks of the first seed with the suite `strong`.

    Args:
        context: The context of the item.
        wanted: The studies by row.

    Returns:
        The audit's verdicts, accuracy against radius and perturbed images, by name.
    """
    found: dict[str, list[Result]] = {}
    for row, study in context.select_rows(wanted).items():
        trained = train_row(context, row, study)
        strong = replace(trained.study, suite="strong")
        results = context.load_or_compute(
            f"judged-{file_name(row)}", ("judged", strong), partial(_attack_strongly, context, trained, strong)
        )
        for name, result in results.items():
            found.setdefault(name, []).append(result)
    return merge_by_kind(found)


def _make_attack_row(trained: TrainedRow, attacks: Attacks) -> Table:
    study = trained.study
    examples = trained.data.test.take(slice(study.evaluation.examples))
    cells = [
        (
            Column("clean", "Accuracy on the whole test set.", ".1%"),
            float(evaluation.correct(trained.model, trained.data.test).mean()),
        )
    ]
    for name, attack in attacks(study).items():
        outcome = evaluation.attack(
            trained.model,
            examples,
            attack,
            seed=study.seed,
            progress=trained.progress,
            heading=f"{name} on {trained.row}",
        )
        cells.append((Column(name, "Accuracy under this attack alone.", ".1%"), float(outcome.robust.mean())))
    conditions = {
        "attacks": f"{examples.describe('test')}, {study.norm} in pixel units",
        **training_conditions(trained),
    }
    return make_row_table("Accuracy under attack", trained, cells, conditions)


def _attack_strongly(context: Context, trained: TrainedRow, study: Study) -> dict[str, Result]:
    run = context.networks_run(file_name(trained.row), trained.study)
    found = attack_results(study, trained.data, trained.row, trained.model, trained.progress, run)
    run.ledger(trained.row, "").remove()
    return found
