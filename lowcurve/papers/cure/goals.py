"""Go beyond Moosavi-Dezfooli et al. 2019: penalties on clean images alone, and curvature with a one-step attack.

The networks have a smooth nonlinearity, augmentation and averaged weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from lowcurve.analysis.norms import parse_radius
from lowcurve.attacks import PGD
from lowcurve.data import Augmentation
from lowcurve.papers.common.attack_tables import make_attack_table, run_strong_suite
from lowcurve.papers.common.context import Context, Reduction, Reproduction
from lowcurve.papers.common.costs import compare_step_costs
from lowcurve.papers.common.judging import claim_order
from lowcurve.papers.common.lookup import read_cells, read_value
from lowcurve.papers.common.seed_tables import train_row
from lowcurve.papers.cure.networks import COUNTS, make_base_study
from lowcurve.results import NOT_IN_PAPER, Cell, Claim, Result, holds
from lowcurve.study.method_options import GradientNorm
from lowcurve.study.methods import objective_of
from lowcurve.study.settings import Study
from lowcurve.types import AttackFunction

STANDARD, GRADIENT_NORM, CLEAN = "standard", "gradient norm", "CURE + gradient norm"
ONE_STEP, CURE_ONE_STEP = "N-FGSM", "CURE + N-FGSM"
METHODS = {
    STANDARD: "standard",
    GRADIENT_NORM: "gradient-norm",
    CLEAN: "CURE+gradient-norm",
    ONE_STEP: "N-FGSM",
    CURE_ONE_STEP: "CURE+N-FGSM",
}
"""The method of each row. The first row is the plain step to which costs are compared."""
GOALS = {
    CLEAN: {"clean": "81 % or more", "PGD-20": "45 % or more", "strong": "42 % or more"},
    CURE_ONE_STEP: {"strong": "46 % or more"},
}
"""The goals of this library for ResNet-18 on CIFAR-10 at 8/255: a few points above CURE's wide network and GradAlign."""
MOST_STEPS = 3
"""Goal for the cost of a step, in plain steps."""
EVERY = 4
"""CURE is computed at every fourth step, with four times the weight."""
DIFFERS = (
    Reduction(
        "The goals are for ResNet-18 on all of CIFAR-10, which needs a GPU. At the scale laptop a small convolutional network "
        "without BatchNorm replaces it, trained on 20,000 images for 10 epochs; other data use the settings of their presets."
    ),
    "Every network is trained from new weights for the same number of epochs. No setting was chosen by a result. GELU and the "
    "l_1 norm with a weight of 1.5 radii come from the literature on gradient norms; CURE's weight, h and form come from its "
    "code. CURE holds the clean gradient constant and is computed at every fourth step with four times the weight.",
)


def make_studies(context: Context) -> dict[str, Study]:
    """Make the studies by row.

    Args:
        context: The context of the item.
    """
    study = make_base_study(context)
    training = replace(
        study.training, gradient_clipping=1.0, average=0.999 if context.scale == "paper" else 0.99,
        augmentation=Augmentation(crop_padding=4, flip=True) if context.data == "cifar10" else Augmentation(),
    )  # fmt: skip
    shared = replace(
        study, nonlinearity="gelu", training=training,
        gradient=GradientNorm(weight=1.5 * parse_radius(study.radius), norm="l_1", squared=False, ramp=0.25),
        cure=replace(study.cure, differentiation="detached", every=EVERY),
    )  # fmt: skip
    return {row: replace(shared, methods=(method,)) for row, method in METHODS.items()}


def goals(context: Context) -> Reproduction:
    """Attack five networks with PGD-20 and with the strong suite, and compare the costs of their training steps.

    Args:
        context: The context of the item.
    """
    wanted = make_studies(context)
    results = {
        "attacked": make_attack_table(context, wanted, _make_pgd_20, kind="goals"),
        **run_strong_suite(context, wanted),
    }
    if not context.rows:  # costs are relative to the plain step, so they need all rows in one run
        results |= _compare_costs(context, wanted)
    return Reproduction(results, make_claims(results, context.data), DIFFERS)


def make_claims(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare the goals with our numbers, and claim that each penalty adds robustness.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    found = {name: read_cells(results[name]) for name in ("attacked", "robustness", "costs") if name in results}
    made = [
        Claim(f"{row}: {heading}", goal, NOT_IN_PAPER, _get_cell(found, row, heading), ".1%")
        for row, wanted in GOALS.items()
        for heading, goal in wanted.items()
    ]
    made += [
        claim_order(results["attacked"], "PGD-20", (STANDARD, GRADIENT_NORM, CLEAN), NOT_IN_PAPER),
        claim_order(results["robustness"], "strong", (STANDARD, GRADIENT_NORM, CLEAN), NOT_IN_PAPER),
        claim_order(results["robustness"], "strong", (ONE_STEP, CURE_ONE_STEP), NOT_IN_PAPER),
    ]
    costs_of_step = found.get("costs", {}).get(CURE_ONE_STEP)
    said, kinds = f"{CURE_ONE_STEP}: a step costs {MOST_STEPS} plain ones or less", ("operations", "time")
    costs = None if costs_of_step is None else [read_value(costs_of_step[kind]) for kind in kinds]
    evidence = "" if costs is None else f"{costs[0]:.3g} by operations, {costs[1]:.3g} by time"
    return [*made, holds(said, NOT_IN_PAPER, None if costs is None else max(costs) <= MOST_STEPS, evidence)]


def _get_cell(found: Mapping[str, Mapping[str, Mapping[str, Cell]]], row: str, heading: str) -> Cell:
    table = "robustness" if heading == "strong" else "attacked"
    return found[table].get(row, {}).get(heading)


def _make_pgd_20(study: Study) -> dict[str, AttackFunction]:
    return {"PGD-20": PGD(study.ball(), steps=20)}


def _compare_costs(context: Context, wanted: Mapping[str, Study]) -> dict[str, Result]:
    """Compare the costs of a step, averaged over one period of the penalty that is not computed at every step."""
    trained, rounds = train_row(context, STANDARD, wanted[STANDARD]), COUNTS[context.scale].rounds
    _, std = trained.data.statistics()
    steps = {row: (trained.model, objective_of(METHODS[row], study.resolve(), std)) for row, study in wanted.items()}
    few = trained.data.train.take(slice(trained.study.training.batch_size))
    key = ("costs", dict(wanted), rounds)
    make = partial(compare_step_costs, steps, few.pixels(slice(None)), few.y, rounds, EVERY)
    return dict(context.load_or_compute("goals-costs", key, lambda: {"costs": make()}))
