"""Reproduce Tables 1 and 2 and the training times of Yu et al. 2018, and list all its items."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lowcurve.papers.common.attack_tables import claim_printed_numbers, make_attack_table, run_strong_suite
from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.costs import compare_step_costs
from lowcurve.papers.common.judging import is_apart, read_interval
from lowcurve.papers.common.lookup import as_table, read_cells, read_value
from lowcurve.papers.common.seed_tables import train_row
from lowcurve.papers.yu2018 import figures, jacobians
from lowcurve.papers.yu2018.networks import (
    ADDED_EPOCHS,
    BOTH,
    CROSS_ENTROPY,
    DIFFERS,
    EPOCHS,
    MINMAX,
    NATURAL,
    OURS,
    RADII,
    RAMP,
    get_recipes,
    make_attacks,
    make_studies,
)
from lowcurve.results import NOT_IN_PAPER, Cell, Claim, Result, holds
from lowcurve.study.methods import objective_of

STRONG_ROWS: Mapping[str, tuple[str, ...]] = {"table-1": tuple(EPOCHS["table-1"]), "table-2": (OURS,)}
"""Rows that are also attacked by the suite `strong`, with its audit."""
STRONG_EXAMPLES = 200
"""Number of images for the suite, which costs a hundred times as much as an attack of the paper."""


def table_1(context: Context) -> Reproduction:
    """Attack six networks on MNIST with FGSM, BIM and C&W, each alone, then with the strong suite.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Table 1.
    """
    results = _make_results(context, "table-1")
    said = (
        "Two networks are not in the paper's Table 1. MinMax is a network of the MNIST challenge in its section 4.3, and ours "
        "with adversarial training is in Table 2 only. Here both are trained as well, at the scale paper for "
        f"{ADDED_EPOCHS[MINMAX]} and {ADDED_EPOCHS[BOTH]} epochs. Their steps take 41 and 13 times the passes of natural ones. "
        f"The radius grows from 0 over the first {RAMP:.0%} of training."
    )
    return Reproduction(results, claim_table_1(results, context.data), (*DIFFERS, said))


def claim_table_1(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare Table 1 with our numbers.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    found, claims = _compare_with_paper(results, "table-1")
    worst = {row: _worst(cells, "0.3") for row, cells in found.items()}
    claims.append(Claim("MinMax: under all attacks at 0.3", "~88", "section 4.3", worst.get(MINMAX), ".1%"))
    claims.append(Claim("its natural network: at 0.3", "0.0", "section 4.3", worst.get(NATURAL), ".1%"))
    ours, theirs = found.get(OURS), found.get(CROSS_ENTROPY)
    lowest = None if ours is None else _worst(ours, "0.1")
    said = "ours: about 90 % (at least 85) under every attack at 0.1"
    right, told = None if lowest is None else lowest >= 0.85, _is_worst_apart(results, OURS, "0.1", 0.85)
    claims.append(holds(said, "section 5.2", right, _format_percents(lowest), told=told))
    said = "CrossEntropy: as robust as ours at 0.1 (within 5 points), and less robust at 0.3"
    right, evidence = None, ""
    if ours is not None and theirs is not None:
        gaps = [_mean(ours, radius) - _mean(theirs, radius) for radius in RADII["table-1"]]
        right, evidence = gaps[0] <= 0.05 and gaps[2] > gaps[0], "ours ahead by " + _format_percents(*gaps)
    claims.append(holds(said, "section 5.2", right, evidence))
    return [*claims, *_claim_strong(results, "table-1")]


def table_2(context: Context) -> Reproduction:
    """Attack six networks on CIFAR-10 with the same attacks at 3, 6 and 9 grey levels, then ours with the strong suite.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Table 2.
    """
    results = _make_results(context, "table-2")
    return Reproduction(results, claim_table_2(results, context.data), DIFFERS)


def claim_table_2(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare Table 2 with our numbers.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    found, claims = _compare_with_paper(results, "table-2")
    ours, best = found.get(OURS), found.get(MINMAX)
    said = "MinMax: about 40 % (35 to 45) under the strongest attack"
    lowest = None if best is None else _worst(best, "9")
    right = None if lowest is None else 0.35 <= lowest <= 0.45
    told = _is_worst_apart(results, MINMAX, "9", 0.35, 0.45)
    claims.append(holds(said, "section 5.2", right, _format_percents(lowest), told=told))
    right, falls, evidence = None, None, ""
    if ours is not None and best is not None:
        gaps = [_mean(best, radius) - _mean(ours, radius) for radius in RADII["table-2"]]
        shares = [_mean(ours, radius) / max(_mean(best, radius), 1e-6) for radius in RADII["table-2"]]
        right, evidence = gaps[0] <= 0.1, "MinMax ahead by " + _format_percents(*gaps)
        falls = shares[0] > shares[2]
    claims.append(holds("ours: comparable to MinMax at 3 (within 10 points)", "section 5.2", right, evidence))
    claims.append(
        holds("ours: its share of MinMax's accuracy is smaller at 9 than at 3", "section 5.2", falls, evidence)
    )
    return [*claims, *_claim_strong(results, "table-2")]


def training_time(context: Context) -> Reproduction:
    """Compare the time of a training step of each method with that of a natural step.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, section 5.2.
    """
    paper = {name: recipe.study() for name, recipe in get_recipes("table-2").items()}
    made = make_studies(context, "table-2")
    wanted = {name: replace(study, training_attack=paper[name].training_attack) for name, study in made.items()}
    trained = train_row(context, NATURAL, made[NATURAL])
    batch = trained.data.train.take(slice(paper[NATURAL].training.batch_size))
    std = trained.data.statistics()[1]
    steps = {
        name: (trained.model, objective_of(study.methods[0], study.resolve(), std)) for name, study in wanted.items()
    }
    rounds = {"smoke": 1, "laptop": 7, "paper": 20}[context.scale]
    decided = (trained.study, {name: study.training_attack for name, study in wanted.items()}, len(batch), rounds)
    results = context.load_or_compute(
        "training-time", ("step times", decided),
        lambda: {"numbers": compare_step_costs(steps, batch.pixels(slice(None)), batch.y, rounds)},
    )  # fmt: skip
    table = as_table(results["numbers"])
    found = read_cells(table)
    times = {name: read_value(cells["time"]) for name, cells in found.items()}
    counted = {name: read_value(cells["operations"]) for name, cells in found.items()}
    epochs = {name: study.training.epochs for name, study in paper.items()}
    whole = times[MINMAX] * epochs[MINMAX] / epochs[NATURAL]
    said = "MinMax takes more than 10 times as long as natural training, over its 400 epochs and natural's 30"
    claims = [
        Claim("ours: seconds of an epoch, in natural ones", "2.1", "section 5.2", times[OURS]),
        Claim("ours: operations of an epoch, in natural ones", "2.1", "section 5.2", counted[OURS]),
        holds(said, "section 5.2", whole > 10, f"{whole:.3g} times; a step {times[MINMAX]:.3g}"),
        holds(
            "an epoch of MinMax takes longer than one of ours", "section 5.2", times[MINMAX] > times[OURS],
            f"{times[MINMAX]:.3g} and {times[OURS]:.3g} natural ones",
        ),
    ]  # fmt: skip
    said = (
        "A time is the fastest of several steps of the same network on the same batch, from the batch to the parameters' "
        "gradients. An epoch has as many steps whatever the method. Attacks are those of the recipes, not shortened."
    )
    return Reproduction(results, claims, (said,))


def _make_results(context: Context, table: str) -> dict[str, Result]:
    """Attack every row with the paper's attacks, and the rows of `STRONG_ROWS` with the suite strong."""
    wanted = make_studies(context, table)
    numbers = make_attack_table(context, wanted, lambda study: make_attacks(study, table), f"attacked-{table}")
    strong = {}
    for row, study in context.select_rows(wanted).items():
        if row in STRONG_ROWS[table]:
            settings = replace(study.evaluation, examples=min(study.evaluation.examples, STRONG_EXAMPLES))
            strong[row] = replace(study, evaluation=settings)
    # Selected rows may be missing in `strong`, and `run_strong_suite` would raise an error for them.
    return {"numbers": numbers, **run_strong_suite(replace(context, rows=()), strong)}


def _compare_with_paper(
    results: Mapping[str, Result], table: str
) -> tuple[Mapping[str, Mapping[str, Cell]], list[Claim]]:
    """Return the cells of our table, and their comparison with the printed numbers."""
    numbers = as_table(results["numbers"])
    return read_cells(numbers), claim_printed_numbers(numbers, get_recipes(table), {"natural": "clean"})


def _claim_strong(results: Mapping[str, Result], table: str) -> list[Claim]:
    """Claim that the paper's own attacks are as strong as the suite at the table's middle radius."""
    radius, claims = RADII[table][1], []
    found = read_cells(results["robustness"]) if "robustness" in results else {}
    for row in STRONG_ROWS[table]:
        cells, right, evidence = found.get(row, {}), None, ""
        if cells:
            strong, worst = read_value(cells["strong"]), _worst(read_cells(results["numbers"])[row], radius)
            right, evidence = worst - strong <= 0.05, f"{_format_percents(worst, strong)}; audit: {cells['audit']}"
        said = f"{row}: as robust to the suite strong as to the paper's attacks at {radius} (within 5 points)"
        claims.append(
            Claim(f"{row}: under the suite strong at {radius}", "not tried", NOT_IN_PAPER, cells.get("strong"), ".1%")
        )
        claims.append(holds(said, NOT_IN_PAPER, right, evidence))
    return claims


def _worst(cells: Mapping[str, Cell], radius: str) -> float:
    """Return the lowest accuracy under the three attacks at a radius."""
    return min(_get_accuracies(cells, radius))


def _is_worst_apart(results: Mapping[str, Result], row: str, radius: str, *thresholds: float) -> bool | None:
    """Return True if the interval of the lowest accuracy at a radius contains no threshold."""
    table = as_table(results["numbers"])
    cells = read_cells(table).get(row, {})
    accuracies = {heading: read_value(cell) for heading, cell in cells.items() if heading.endswith(f" at {radius}")}
    if not accuracies:
        return None
    return is_apart(read_interval(table, row, min(accuracies, key=accuracies.__getitem__)), *thresholds)


def _mean(cells: Mapping[str, Cell], radius: str) -> float:
    """Return the mean accuracy under the three attacks at a radius."""
    return float(np.mean(_get_accuracies(cells, radius)))


def _get_accuracies(cells: Mapping[str, Cell], radius: str) -> list[float]:
    return [read_value(cell) for heading, cell in cells.items() if heading.endswith(f" at {radius}")]


def _format_percents(*values: float | None) -> str:
    return ", ".join(f"{value:.1%}" for value in values if value is not None)


DIGITS, WHERE = ("mnist", "digits"), ("cifar10", "mnist", "digits")
CLAIMS = {"table-1": claim_table_1, "table-2": claim_table_2, "figure-8": jacobians.claim_figure_8}
ITEMS = tuple(
    Item(f"yu2018interpreting/{key}", title, where, make, data, data[0], CLAIMS.get(key))
    for key, title, where, make, data in (
        ("table-1", "Attacks on MNIST", "Table 1, section 5.2", table_1, DIGITS),
        ("table-2", "Attacks on CIFAR-10", "Table 2, section 5.2", table_2, ("cifar10", "digits")),
        ("training-time", "Cost of training", "section 5.2", training_time, ("cifar10", "digits")),
        (
            "figures-1-3", "Loss in parameter space and in input space", "Figures 1, 2, 3, section 2.2",
            figures.figures_1_to_3, ("cifar10", "digits"),
        ),
        (
            "figure-4", "Loss and decision surfaces along attacks", "Figures 4, 11, 13, sections 3.2 and 8.1",
            figures.figure_4, WHERE,
        ),
        (
            "figures-6-7", "Decision surfaces of the natural and the MinMax network", "Figures 6, 7, 12, section 4.3",
            figures.figures_6_7, WHERE,
        ),
        (
            "figure-8", "Statistics of Jacobian and Hessian", "Figures 5, 8, sections 4.1 to 4.3 and 5.3",
            jacobians.figure_8, DIGITS,
        ),
        (
            "figure-9", "Decision surfaces of the natural and of our network", "Figures 9, 14, section 5.3",
            figures.figure_9, WHERE,
        ),
        (
            "figure-10", "Jacobians as pictures", "Figures 10, 15, sections 5.3 and 8.4", jacobians.figure_10, WHERE,
        ),
    )
)  # fmt: skip
