"""Moosavi-Dezfooli et al. 2019, Robustness via curvature regularization, and vice versa: Tables 1 to 3, footnote 5, and the
list of all items; the figures are in `moosavi2019figures`, the settings in `moosavi2019rows`."""

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
from lowcurve.papers.common.lookup import as_table, read_cells, read_value
from lowcurve.papers.common.matching import compare_at_equal_accuracy, find_nearest_epoch
from lowcurve.papers.common.seed_tables import claim_order, train_row
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
from lowcurve.results import UNSAID, Claim, Result, holds
from lowcurve.study.methods import objective_of
from lowcurve.study.settings import Study
from lowcurve.types import AttackFunction


def table_1(context: Context) -> Reproduction:
    """Two networks under four attacks, each by itself, at half of the radius of Table 2."""
    radius = RADII.get(context.data, ("4/255",))[0]
    wanted = {
        row: replace(study, radius=radius) for row, study in select_studies(context, "original", "fine-tuned").items()
    }
    table = make_attack_table(context, wanted, _four, kind="table-1")
    found = read_cells(table)
    claims = claim_printed_numbers(table, get_recipes("table-1", {"original": "original", "fine-tuned": "fine-tuned"}))
    claims.append(claim_order(found, "PGD(20)", ("original", "fine-tuned"), "Table 1"))
    if found.keys() >= set(wanted):
        gaps = {row: read_value(cells["FGSM"]) - read_value(cells["PGD(20)"]) for row, cells in found.items()}
        said = "simple attacks come nearer to strong ones after fine-tuning (FGSM less PGD(20))"
        evidence = f"{gaps['original']:.3g} and {gaps['fine-tuned']:.3g}"
        claims.append(holds(said, "section 2", gaps["fine-tuned"] < gaps["original"], evidence))
    said = (
        "l_inf-DF: who stands is who was not moved across within the radius; the fine-tuning is on DeepFool's images."
    )
    return Reproduction({"attacked": table}, claims, (*DIFFERS, said))


def _four(study: Study) -> dict[str, AttackFunction]:
    ball = study.ball()
    near = Within(DeepFool(ball.norm), ball.radius)
    return {"FGSM": FGSM(ball), "l_inf-DF": near, "PGD(7)": PGD(ball, steps=7), "PGD(20)": PGD(ball, steps=20)}


def table_2(context: Context) -> Reproduction:
    """Three networks under PGD and SPSA, then under the strong suite with its audit, and at equal clean accuracy."""
    wanted, of = select_studies(context, *TABLE_2), get_recipes("table-2", TABLE_2)
    if context.scale == "paper":
        wide = {f"wide {row}": f"{key}-wide" for row, key in TABLE_2.items()}
        of |= get_recipes("table-2", wide)
        wanted |= {row: get_recipe(f"moosavi2019cure/table-2/{key}").study() for row, key in wide.items()}
    else:  # the text's other attacks, which the paper has of the wide network
        text = get_recipe("moosavi2019cure/table-2/cure-wide").values
        more = {name: value for name, value in text.items() if name not in of["CURE"].values}
        of["CURE"] = replace(of["CURE"], values={**of["CURE"].values, **more})
    table = make_attack_table(context, wanted, partial(_stronger, context.scale), kind="table-2")
    found, claims = read_cells(table), claim_printed_numbers(table, of)
    claims.append(claim_order(found, "PGD-20", ("normal", "CURE", "adversarial"), "Table 2"))
    if "CURE" in found:
        ours = {name: read_value(cell) for name, cell in found["CURE"].items() if name not in ("network", "clean")}
        said = "PGD(100) leaves CURE at most two points below PGD-20"
        claims.append(holds(said, "section 4", ours["PGD-20"] - ours["PGD(100)"] <= 0.02, f"{ours['PGD(100)']:.1%}"))
        said = "SPSA finds no more than PGD(100) on CURE"
        claims.append(holds(said, "section 4", ours["SPSA"] >= ours["PGD(100)"], f"{ours['SPSA']:.1%}"))
    matched = _matched(context)
    even = read_cells(matched["matched"])
    mine, theirs = (read_value(even[row]["PGD at 1 radii"]) for row in list(even)[:2])
    claims.append(holds("CURE stands more at equal clean accuracy", UNSAID, mine > theirs, f"{mine:.1%}, {theirs:.1%}"))
    said = "PGD(40), PGD(100) and SPSA are printed of the wide network; SPSA has fewer draws here than in other work."
    return Reproduction({"attacked": table, **matched, **run_strong_suite(context, wanted)}, claims, (*DIFFERS, said))


def _stronger(scale: str, study: Study) -> dict[str, AttackFunction]:
    ball = study.ball()
    black = make_spsa(scale, ball)
    return {
        "PGD-20": PGD(ball, steps=20),
        "PGD(40)": PGD(ball, steps=40),
        "PGD(100)": PGD(ball, steps=100),
        "SPSA": black,
    }


def _matched(context: Context) -> dict[str, Result]:
    """CURE, and normal training after the epoch that is as accurate on validation images."""
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
    """Three networks of digits under PGD(10), then under the strong suite with its audit."""
    wanted = select_studies(context, *TABLE_2)
    table = make_attack_table(context, wanted, _ten, kind="table-3")
    claims = claim_printed_numbers(table, get_recipes("table-3", TABLE_2))
    claims.append(claim_order(read_cells(table), "PGD-10", ("normal", "CURE", "adversarial"), "Table 3"))
    said = "Here on MNIST or digits at their presets' radius, unless the data is svhn."
    return Reproduction({"attacked": table, **run_strong_suite(context, wanted)}, claims, (*DIFFERS, said))


def _ten(study: Study) -> dict[str, AttackFunction]:
    return {"PGD-10": PGD(study.ball(), steps=10)}


def footnote_5(context: Context) -> Reproduction:
    """CURE along the gradient in place of its sign."""
    wanted = select_studies(context, "CURE", "CURE along the gradient")
    table = make_attack_table(context, wanted, _twenty, kind="footnote-5")
    found = read_cells(table)
    claims = []
    for heading in ("clean", "PGD-20"):
        ours = [read_value(found[row][heading]) for row in wanted if row in found]
        near = abs(ours[0] - ours[1]) <= 0.02 if len(ours) == len(wanted) else None
        evidence = ", ".join(f"{value:.1%}" for value in ours)
        claims.append(holds(f"{heading}: almost identical, within two points", "footnote 5", near, evidence))
    return Reproduction({"attacked": table}, claims, DIFFERS)


def _twenty(study: Study) -> dict[str, AttackFunction]:
    return {"PGD-20": PGD(study.ball(), steps=20)}


def _remembered(make: Callable[[Context], Reproduction], context: Context) -> Reproduction:
    return make(keep_epochs(context))


def theorem_1(context: Context) -> Reproduction:
    """The bounds of the distance: against curvature, in one dimension, and against exact distances of random quadratics."""
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
        claims.append(holds(f"the {name} falls as curvature grows", "Figure 4", falls))
    nearer = list(across.values())
    evidence = ", ".join(f"{v:.3g}" for v in nearer)
    claims.append(
        holds("more curvature, nearer adversarial points", "Figure 5", bool((np.diff(nearer) < 0).all()), evidence)
    )
    shallow, steep = compute_bracket(1.0, slope=1.0, along=0.5), compute_bracket(1.0, slope=2.0, along=1.0)
    falls = bool(steep.lower < shallow.lower) and bool(steep.upper < shallow.upper)
    claims.append(holds("both bounds fall as the gradient grows", "Remark 2", falls))
    for heading in ("within", "simply within"):
        shares = [read_value(cells[heading]) for cells in found.values()]
        bounds = "the bounds" if heading == "within" else "the simplified bounds"
        claims.append(
            holds(f"{bounds} hold of every random quadratic", "Theorem 1", min(shares) == 1, f"{min(shares):.1%}")
        )
    ends = [read_value(found["g along u"][f"{which} / exact"]) for which in ("lower", "upper")]
    tight = max(abs(end - 1) for end in ends) < 1e-6
    claims.append(holds("the bounds are exact where g is along u", "Remark 3", tight))
    results = {"figure 4": replace(against, title=f"Figure 4: {against.title}")}
    return Reproduction(
        {**results, "figure 5": replace(curves, title=f"Figure 5: {curves.title}"), "quadratics": table}, claims
    )


def cost(context: Context) -> Reproduction:
    """What a step of CURE costs beside a plain one and beside adversarial training."""
    wanted = select_studies(context, "normal", "CURE", "adversarial")
    one = train_row(context, "normal", wanted["normal"])
    _, std = one.data.statistics()
    ten = replace(wanted["adversarial"], training_attack=replace(wanted["adversarial"].training_attack, steps=10))
    seven = replace(ten, training_attack=replace(ten.training_attack, steps=7))
    studies = {
        "plain": ("standard", one.study),
        "CURE": ("CURE", wanted["CURE"]),
        "PGD-7": ("PGD", seven),
        "PGD-10": ("PGD", ten),
    }
    steps = {
        name: (one.model, objective_of(method, study.resolved(), std)) for name, (method, study) in studies.items()
    }
    few, rounds = one.data.train.take(slice(one.study.training.batch_size)), COUNTS[context.scale][4]
    x = few.pixels(slice(None))
    results = context.load_or_compute(
        "cost", ("cost", one.study, [study for _, study in studies.values()], rounds),
        lambda: {"cost": compare_step_costs(steps, x, few.y, rounds)},
    )  # fmt: skip
    table = as_table(results["cost"])
    found = read_cells(table)
    counted_, timed = (
        {name: read_value(cells[kind]) for name, cells in found.items()} for kind in ("operations", "time")
    )
    worth = 1.5 * (counted_["CURE"] - 1)
    said = "the penalty in backward passes (two thirds of a plain step each), by operations"
    cheaper = timed["CURE"] < timed["PGD-10"]
    claims = [
        Claim(said, "2", "section 4", worth),
        Claim("a step of CURE in plain steps, by time", "–", UNSAID, timed["CURE"]),
        holds(
            "a step of CURE takes less than one of PGD-10",
            "section 4",
            cheaper,
            f"{timed['CURE']:.3g}, {timed['PGD-10']:.3g}",
        ),
    ]
    return Reproduction({"cost": table}, claims, ("One network, one batch, this machine.",))


MODEL = ("quadratics",)
DIGITS = ("mnist", "svhn", "digits")
ITEMS = (
    *(
        Item(f"moosavi2019cure/{key}", title, where, partial(_remembered, make), data, paper_data)
        for key, title, where, make, data, paper_data in (
            ("figure-10", "Through fine-tuning", "Figures 10 and 14, section 4", figures.figure_10, IMAGES, "cifar10"),
            ("table-1", "Fine-tuned on DeepFool's images", "Table 1, section 2", table_1, IMAGES, "cifar10"),
            ("table-2", "CURE under attack", "Table 2, section 4", table_2, IMAGES, "cifar10"),
            ("table-3", "CURE on digits under attack", "Table 3, section A.1", table_3, DIGITS, "svhn"),
            ("figure-1", "Cross-sections of the boundary", "Figure 1, section 2", figures.figure_1, IMAGES, "cifar10"),
            ("figure-2", "Curvature profiles", "Figures 2, 9 and 12, section 2", figures.figure_2, IMAGES, "cifar10"),
            ("figure-3", "Surfaces of the loss", "Figures 3, 8 and 13, section 2", figures.figure_3, IMAGES, "cifar10"),
            ("theorem-1", "Bounds of the distance", "Theorem 1, Figures 4 and 5, section 3", theorem_1, MODEL, MODEL[0]),
            ("remark-3", "Gradient and curvature", "Remark 3, section 3", figures.remark_3, IMAGES, "cifar10"),
            ("figure-6", "Accuracy against radius", "Figures 6 and 15, section 4", figures.figure_6, IMAGES, "cifar10"),
            ("figure-7", "SPSA against PGD", "Figure 7, section 4", figures.figure_7, IMAGES, "cifar10"),
            ("figure-11", "Perturbed images", "Figure 11, section 4", figures.figure_11, DIGITS, "svhn"),
            ("footnote-5", "Along the gradient or its sign", "Footnote 5, section 4", footnote_5, IMAGES, "cifar10"),
            ("cost", "The cost of a step", "Section 4, cost of the regularizer", cost, IMAGES, "cifar10"),
        )
    ),
    Item(
        "moosavi2019cure/goals", "Without adversarial examples, and with one step", UNSAID, beyond.goals, IMAGES, "cifar10",
        beyond.make_claims,
    ),
)  # fmt: skip
