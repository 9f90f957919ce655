"""Reproduce Tables 1 to 3, Theorem 1, footnote 5 and the cost of Moosavi-Dezfooli et al. 2019, and list all its items."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from lowcurve import evaluation
from lowcurve.attacks import FGSM, PGD, DeepFool
from lowcurve.attacks.within import Within
from lowcurve.papers.common.attack_tables import claim_printed_numbers, make_attack_table, run_strong_suite
from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.costs import compare_step_costs
from lowcurve.papers.common.epochs import keep_epochs, load_epochs
from lowcurve.papers.common.judging import claim_order
from lowcurve.papers.common.lookup import as_table, read_cells, read_value
from lowcurve.papers.common.matching import compare_at_equal_accuracy, find_nearest_epoch
from lowcurve.papers.common.seed_tables import train_row
from lowcurve.papers.cure import figures
from lowcurve.papers.cure import goals as beyond
from lowcurve.papers.cure.networks import (
    COUNTS,
    DIFFERS,
    IMAGES,
    RADII,
    TABLE_2,
    get_recipes,
    make_spsa,
    select_studies,
)
from lowcurve.papers.cure.theorem import (
    check_random_quadratics,
    compute_bracket,
    make_bound_curves,
    make_one_dimensional_curves,
)
from lowcurve.papers.recipes import get_recipe
from lowcurve.results import NOT_IN_PAPER, Claim, Result, holds
from lowcurve.study.methods import objective_of
from lowcurve.study.settings import Study
from lowcurve.types import AttackFunction


def table_1(context: Context) -> Reproduction:
    """Attack two networks with four attacks, each alone, at half the radius of Table 2.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Table 1.
    """
    radius = RADII.get(context.data, ("4/255",))[0]
    wanted = {
        row: replace(study, radius=radius) for row, study in select_studies(context, "original", "fine-tuned").items()
    }
    table = make_attack_table(context, wanted, _make_attacks_of_table_1, kind="table-1")
    found = read_cells(table)
    claims = claim_printed_numbers(table, get_recipes("table-1", {"original": "original", "fine-tuned": "fine-tuned"}))
    claims.append(claim_order(table, "PGD(20)", ("original", "fine-tuned"), "Table 1"))
    if found.keys() >= set(wanted):
        gaps = {row: read_value(cells["FGSM"]) - read_value(cells["PGD(20)"]) for row, cells in found.items()}
        said = "weak attacks come nearer to strong ones after fine-tuning (FGSM minus PGD(20))"
        evidence = f"{gaps['original']:.3g} and {gaps['fine-tuned']:.3g}"
        claims.append(holds(said, "section 2", gaps["fine-tuned"] < gaps["original"], evidence))
    said = (
        "l_inf-DF counts an image as robust if DeepFool does not fool it within the radius. DeepFool also makes the images of "
        "the fine-tuning."
    )
    return Reproduction({"attacked": table}, claims, (*DIFFERS, said))


def _make_attacks_of_table_1(study: Study) -> dict[str, AttackFunction]:
    ball = study.ball()
    near = Within(DeepFool(ball.norm), ball.radius)
    return {"FGSM": FGSM(ball), "l_inf-DF": near, "PGD(7)": PGD(ball, steps=7), "PGD(20)": PGD(ball, steps=20)}


def table_2(context: Context) -> Reproduction:
    """Attack three networks with PGD and SPSA, then with the strong suite, and compare them at equal clean accuracy.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Table 2.
    """
    wanted, recipes = select_studies(context, *TABLE_2), get_recipes("table-2", TABLE_2)
    if context.scale == "paper":
        wide = {f"wide {row}": f"{key}-wide" for row, key in TABLE_2.items()}
        recipes |= get_recipes("table-2", wide)
        wanted |= {row: get_recipe(f"moosavi2019cure/table-2/{key}").study() for row, key in wide.items()}
    else:  # the paper's text has more attacks, of the wide network only
        text = get_recipe("moosavi2019cure/table-2/cure-wide").values
        more = {name: value for name, value in text.items() if name not in recipes["CURE"].values}
        recipes["CURE"] = replace(recipes["CURE"], values={**recipes["CURE"].values, **more})
    table = make_attack_table(context, wanted, partial(_make_attacks_of_table_2, context.scale), kind="table-2")
    found, claims = read_cells(table), claim_printed_numbers(table, recipes)
    claims.append(claim_order(table, "PGD-20", ("normal", "CURE", "adversarial"), "Table 2"))
    if "CURE" in found:
        ours = {name: read_value(cell) for name, cell in found["CURE"].items() if name not in ("network", "clean")}
        said = "CURE is at most two points less accurate under PGD(100) than under PGD-20"
        claims.append(holds(said, "section 4", ours["PGD-20"] - ours["PGD(100)"] <= 0.02, f"{ours['PGD(100)']:.1%}"))
        said = "CURE is at least as accurate under SPSA as under PGD(100)"
        claims.append(holds(said, "section 4", ours["SPSA"] >= ours["PGD(100)"], f"{ours['SPSA']:.1%}"))
    matched = _compare_with_earlier_epoch(context)
    even = read_cells(matched["matched"])
    mine, theirs = (read_value(even[row]["PGD at 1 radii"]) for row in list(even)[:2])
    claims.append(
        holds("CURE is more robust at equal clean accuracy", NOT_IN_PAPER, mine > theirs, f"{mine:.1%}, {theirs:.1%}")
    )
    said = (
        "The paper prints PGD(40), PGD(100) and SPSA for the wide network only; our SPSA has fewer draws than is usual."
    )
    return Reproduction({"attacked": table, **matched, **run_strong_suite(context, wanted)}, claims, (*DIFFERS, said))


def _make_attacks_of_table_2(scale: str, study: Study) -> dict[str, AttackFunction]:
    ball = study.ball()
    return {
        "PGD-20": PGD(ball, steps=20),
        "PGD(40)": PGD(ball, steps=40),
        "PGD(100)": PGD(ball, steps=100),
        "SPSA": make_spsa(scale, ball),
    }


def _compare_with_earlier_epoch(context: Context) -> dict[str, Result]:
    """Compare CURE with the epoch of normal training that is as accurate on validation images."""
    cure, first = (train_row(context, row, study) for row, study in select_studies(context, "CURE", "normal").items())

    def make() -> dict[str, Result]:
        accuracy = float(evaluation.correct(cure.model, cure.data.validation).mean())
        epoch, model = find_nearest_epoch(load_epochs(context, "normal", first.study), accuracy, cure.data.validation)
        networks = {"CURE": cure.model, f"normal, epoch {epoch}": model, "normal": first.model}
        return {
            "matched": compare_at_equal_accuracy(cure.study, cure.data, networks, (0.25, 0.5, 1.0), context.progress)
        }

    return dict(context.load_or_compute("matched", ("matched", cure.study, first.study), make))


def table_3(context: Context) -> Reproduction:
    """Attack three networks of digits with PGD(10), then with the strong suite.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Table 3.
    """
    wanted = select_studies(context, *TABLE_2)
    table = make_attack_table(context, wanted, _make_pgd_10, kind="table-3")
    claims = claim_printed_numbers(table, get_recipes("table-3", TABLE_2))
    claims.append(claim_order(table, "PGD-10", ("normal", "CURE", "adversarial"), "Table 3"))
    said = "On MNIST and digits the radius is 0.1 and 0.125; the paper has SVHN."
    return Reproduction({"attacked": table, **run_strong_suite(context, wanted)}, claims, (*DIFFERS, said))


def _make_pgd_10(study: Study) -> dict[str, AttackFunction]:
    return {"PGD-10": PGD(study.ball(), steps=10)}


def footnote_5(context: Context) -> Reproduction:
    """Compare CURE along the gradient with CURE along the gradient's sign.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, footnote 5.
    """
    wanted = select_studies(context, "CURE", "CURE along the gradient")
    table = make_attack_table(context, wanted, _make_pgd_20, kind="footnote-5")
    found = read_cells(table)
    claims = []
    for heading in ("clean", "PGD-20"):
        ours = [read_value(found[row][heading]) for row in wanted if row in found]
        near = abs(ours[0] - ours[1]) <= 0.02 if len(ours) == len(wanted) else None
        evidence = ", ".join(f"{value:.1%}" for value in ours)
        claims.append(holds(f"{heading}: almost identical, within two points", "footnote 5", near, evidence))
    return Reproduction({"attacked": table}, claims, DIFFERS)


def _make_pgd_20(study: Study) -> dict[str, AttackFunction]:
    return {"PGD-20": PGD(study.ball(), steps=20)}


def _make_with_epochs(make: Callable[[Context], Reproduction], context: Context) -> Reproduction:
    return make(keep_epochs(context))


def theorem_1(context: Context) -> Reproduction:
    """Compare the bounds of the distance with curvature, in one dimension, and with exact distances of random quadratics.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Theorem 1, Figs. 4 and 5.
    """
    table = check_random_quadratics(40 if context.scale == "smoke" else 500)
    curves, across = make_one_dimensional_curves()
    at, found = compute_bracket(1.0), read_cells(table)
    claims = [
        Claim("lower bound at ν = 1, √3 − 1 by Eq. (2)", "0.7321", "Figure 4", float(at.lower), ".4f"),
        Claim("upper bound at ν = 1, 1 by Eq. (3)", "1.0000", "Figure 4", float(at.upper), ".4f"),
    ]
    against = make_bound_curves()
    for name, line in list(against.lines.items())[:2]:
        falls = bool((np.diff(np.array(line.y, dtype=float)) < 0).all())
        claims.append(holds(f"the {name} falls as curvature grows", "Figure 4", falls, told=True))
    nearer = list(across.values())
    evidence = ", ".join(f"{v:.3g}" for v in nearer)
    claims.append(
        holds(
            "the more curvature, the nearer the adversarial point",
            "Figure 5",
            bool((np.diff(nearer) < 0).all()),
            evidence,
            told=True,
        )
    )
    shallow, steep = (
        compute_bracket(1.0, gradient_norm=1.0, along=0.5),
        compute_bracket(1.0, gradient_norm=2.0, along=1.0),
    )
    falls = bool(steep.lower < shallow.lower) and bool(steep.upper < shallow.upper)
    claims.append(holds("both bounds fall as the gradient grows", "Remark 2", falls, told=True))
    for heading in ("within", "simply within"):
        shares = [read_value(cells[heading]) for cells in found.values()]
        bounds = "the bounds" if heading == "within" else "the simplified bounds"
        claims.append(
            holds(
                f"{bounds} hold for every random quadratic",
                "Theorem 1",
                min(shares) == 1,
                f"{min(shares):.1%}",
                told=True,
            )
        )
    ends = [read_value(found["g along u"][f"{which} / exact"]) for which in ("lower", "upper")]
    tight = max(abs(end - 1) for end in ends) < 1e-6
    claims.append(holds("the bounds are exact if g is along u", "Remark 3", tight, told=True))
    results = {"figure 4": replace(against, title=f"Figure 4: {against.title}")}
    return Reproduction(
        {**results, "figure 5": replace(curves, title=f"Figure 5: {curves.title}"), "quadratics": table}, claims
    )


def cost(context: Context) -> Reproduction:
    """Compare the cost of a training step of CURE with a plain step and with adversarial training.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, section 4.
    """
    wanted = select_studies(context, "normal", "CURE", "adversarial")
    trained = train_row(context, "normal", wanted["normal"])
    _, std = trained.data.statistics()
    ten = replace(wanted["adversarial"], training_attack=replace(wanted["adversarial"].training_attack, steps=10))
    seven = replace(ten, training_attack=replace(ten.training_attack, steps=7))
    studies = {
        "plain": ("standard", trained.study),
        "CURE": ("CURE", wanted["CURE"]),
        "PGD-7": ("PGD", seven),
        "PGD-10": ("PGD", ten),
    }
    steps = {
        name: (trained.model, objective_of(method, study.resolve(), std)) for name, (method, study) in studies.items()
    }
    few, rounds = trained.data.train.take(slice(trained.study.training.batch_size)), COUNTS[context.scale].rounds
    x = few.pixels(slice(None))
    results = context.load_or_compute(
        "cost", ("cost", trained.study, [study for _, study in studies.values()], rounds),
        lambda: {"cost": compare_step_costs(steps, x, few.y, rounds)},
    )  # fmt: skip
    table = as_table(results["cost"])
    found = read_cells(table)
    counted_, timed = (
        {name: read_value(cells[kind]) for name, cells in found.items()} for kind in ("operations", "time")
    )
    worth = 1.5 * (counted_["CURE"] - 1)
    said = "cost of the penalty in backward passes (each two thirds of a plain step), by operations"
    cheaper = timed["CURE"] < timed["PGD-10"]
    claims = [
        Claim(said, "2", "section 4", worth),
        Claim("cost of a step of CURE in plain steps, by time", "–", NOT_IN_PAPER, timed["CURE"]),
        holds(
            "a step of CURE takes less time than one of PGD-10",
            "section 4",
            cheaper,
            f"{timed['CURE']:.3g}, {timed['PGD-10']:.3g}",
        ),
    ]
    return Reproduction(
        {"cost": table}, claims, ("The cost is measured with one network and one batch on this machine.",)
    )


MODEL = ("quadratics",)
DIGITS = ("mnist", "svhn", "digits")
ITEMS = (
    *(
        Item(f"moosavi2019cure/{key}", title, where, partial(_make_with_epochs, make), data, paper_data)
        for key, title, where, make, data, paper_data in (
            (
                "figure-10", "Curvature and robustness during fine-tuning", "Figures 10 and 14, section 4", figures.figure_10,
                IMAGES, "cifar10",
            ),
            ("table-1", "Fine-tuned on DeepFool's images", "Table 1, section 2", table_1, IMAGES, "cifar10"),
            ("table-2", "CURE under attack", "Table 2, section 4", table_2, IMAGES, "cifar10"),
            ("table-3", "CURE on digits under attack", "Table 3, section A.1", table_3, DIGITS, "svhn"),
            ("figure-1", "Cross-sections of the boundary", "Figure 1, section 2", figures.figure_1, IMAGES, "cifar10"),
            ("figure-2", "Curvature profiles", "Figures 2, 9 and 12, section 2", figures.figure_2, IMAGES, "cifar10"),
            ("figure-3", "Surfaces of the loss", "Figures 3, 8 and 13, section 2", figures.figure_3, IMAGES, "cifar10"),
            (
                "theorem-1", "Bounds of the distance to the boundary", "Theorem 1, Figures 4 and 5, section 3", theorem_1,
                MODEL, MODEL[0],
            ),
            ("remark-3", "Alignment of gradient and curvature", "Remark 3, section 3", figures.remark_3, IMAGES, "cifar10"),
            ("figure-6", "Accuracy against radius", "Figures 6 and 15, section 4", figures.figure_6, IMAGES, "cifar10"),
            ("figure-7", "SPSA against PGD", "Figure 7, section 4", figures.figure_7, IMAGES, "cifar10"),
            ("figure-11", "Perturbed images", "Figure 11, section 4", figures.figure_11, DIGITS, "svhn"),
            ("footnote-5", "CURE along the gradient or its sign", "Footnote 5, section 4", footnote_5, IMAGES, "cifar10"),
            ("cost", "Cost of a training step", "Section 4, cost of the regularizer", cost, IMAGES, "cifar10"),
        )
    ),
    Item(
        "moosavi2019cure/goals", "Training without adversarial examples, and with one step", NOT_IN_PAPER, beyond.goals, IMAGES,
        "cifar10",
        beyond.make_claims,
    ),
)  # fmt: skip
