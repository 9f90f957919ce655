"""Reproduce Tables 1 and 2 of Bardusco's report: three networks with their geometry, and paths; list all its items."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, pixels
from lowcurve.attacks import DeepFool
from lowcurve.data import Examples
from lowcurve.figures.paths import ADVERSARIAL, NATURAL, path_results
from lowcurve.geometry import Curvature, FrobeniusNorm
from lowcurve.papers.bardusco import figures
from lowcurve.papers.bardusco.networks import (
    ADVERSARIAL_TRAINING,
    BASE,
    BASE_ON_A_TENTH,
    CURE,
    DIFFERS,
    TRAINED,
    Networks,
    make_study,
    train_networks,
)
from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.judging import as_interval, is_told
from lowcurve.papers.common.lookup import as_table, read_cells, read_records, read_value
from lowcurve.results import NOT_IN_PAPER, Cell, Claim, Column, Result, Table, holds, merge
from lowcurve.study.adversarial_set import adversarial_set
from lowcurve.types import Measure

PRINTED = {NATURAL: ("11 ± 9", "2.7e-4 ± 2.8e-4"), ADVERSARIAL: ("70 ± 15", "3.0e-3 ± 1.0e-3")}
"""Table 2: number of points and normalized distance, as mean ± standard deviation over 18 and 30 pairs."""
SHARE = 1e-3
"""Spacing of the points of a path over the distance of its ends. Fawzi et al. have 1e-4, which costs ten times as much."""
IMAGES = 1000
"""Test images from which the ends of paths are taken at the scale laptop."""
PRINTED_TABLE_1 = {BASE: ("5.5", "0.67"), ADVERSARIAL_TRAINING: ("1.1", "0.80"), CURE: ("6.4e-4", "5.6")}
"""Table 1: squared Frobenius norm of the Hessian, and size of the smallest perturbation."""
PRINTED_ACCURACY = {
    BASE: ("about 37 %", "about 10 %"),
    ADVERSARIAL_TRAINING: (None, "about 30 %"),
    CURE: ("7 %", "about 3 %"),
}
"""Sections 2.1.1 and 2.1.2: accuracy on the validation set and on the adversarial set."""


def table_1(context: Context) -> Reproduction:
    """Measure the squared Frobenius norm of the Hessian, the smallest perturbation and the accuracies of the networks.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Table 1.
    """
    networks, count = train_networks(context), {"smoke": 8}.get(context.scale, 100)
    rows = []
    for name, model in networks.models.items():
        make = partial(_measure_network, context, networks, name, model, count)
        result = context.load_or_compute(f"table-1-{name.replace(' ', '-')}", ("table-1", networks.study, count), make)[
            "numbers"
        ]
        rows.append(result)
    table = as_table(merge(rows))
    found = read_cells(table)
    claims = []
    for row, printed in PRINTED_TABLE_1.items():
        for column, text in zip(("‖H‖_F²", "perturbation"), printed, strict=True):
            claims.append(Claim(f"{row}: {column}", text, "Table 1", found[row][column]))
        for column, accuracy in zip(("clean", "adversarial set"), PRINTED_ACCURACY[row], strict=True):
            if accuracy is not None:
                claims.append(Claim(f"{row}: {column}", accuracy, "section 2.1", found[row][column], ".1%"))
    for column, falls in (("‖H‖_F²", True), ("perturbation", False)):
        values = [read_value(found[row][column]) for row in (BASE, ADVERSARIAL_TRAINING, CURE)]
        ordered = bool(np.all(np.diff(values) < 0) if falls else np.all(np.diff(values) > 0))
        evidence = ", ".join(f"{v:.3g}" for v in values)
        said = f"{column}: {'falls' if falls else 'rises'} from the base to adversarial training to CURE"
        claims.append(holds(said, "section 2.1.2", ordered, evidence))
    for column in ("C", "perturbation"):
        ours, plain = (read_value(found[row][column]) for row in (CURE, BASE_ON_A_TENTH))
        said = f"{column}: CURE is {'smaller' if column == 'C' else 'larger'} than the base on the same tenth"
        better = ours < plain if column == "C" else ours > plain
        claims.append(holds(said, NOT_IN_PAPER, better, f"{ours:.3g} and {plain:.3g}"))
    return Reproduction({"numbers": table}, claims, TRAINED)


def _measure_network(
    context: Context, networks: Networks, name: str, model: nn.Module, count: int
) -> dict[str, Result]:
    few, study = networks.data.test.take(slice(count)), networks.study
    progress = context.progress
    measures: dict[str, Measure] = {
        "norm": FrobeniusNorm(draws=100, deflated=0),
        "curvature": Curvature(study.evaluation.lanczos_steps),
    }
    found = evaluation.measure(model, few, measures, progress=progress, heading=f"measuring {name}")
    moved = evaluation.attack(
        model, few, DeepFool(L2), seed=study.seed, progress=progress, heading=f"DeepFool on {name}"
    )
    far = moved.distance[evaluation.correct(model, few) & ~moved.robust]
    base = networks.models[BASE]
    fooling = adversarial_set(
        base, networks.data.train, per_class=study.others.per_class, seed=study.seed, progress=progress
    )
    level = pixels(1)
    rounded = Examples((fooling.pixels(slice(None)) / level).round() * level, fooling.y, fooling.classes)
    cells = (
        (Column("‖H‖_F²", "Mean over images, estimated by 100 draws."), float((found["Frobenius norm"] ** 2).mean())),
        (
            Column("perturbation", "Mean l_2 length of DeepFool's perturbations of correctly classified images."),
            _mean(far),
        ),
        (Column("C", "Mean of ‖H‖ / ‖g‖."), float(found["normalized curvature"].mean())),
        (
            Column("clean", "Accuracy on the whole test set.", ".1%"),
            float(evaluation.correct(model, networks.data.test).mean()),
        ),
        (
            Column("adversarial set", "Accuracy on the base network's adversarial set.", ".1%"),
            _compute_accuracy(model, fooling),
        ),
        (Column("rounded", "Accuracy on that set rounded to grey levels.", ".1%"), _compute_accuracy(model, rounded)),
    )
    conditions = {"images": few.describe("test"), "units": "pixel range [0, 1]", "BatchNorm": "eval mode",
                  "adversarial set": f"{len(fooling)} training images"}  # fmt: skip
    headings, values = zip(*cells, strict=True)
    return {"numbers": Table("Three networks", (Column("network"), *headings), ((name, *values),), "", conditions)}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _compute_accuracy(model: nn.Module, examples: Examples) -> float:
    return float(evaluation.correct(model, examples).mean()) if len(examples) else float("nan")


def table_2(context: Context) -> Reproduction:
    """Measure the number of points and the deviation of paths between natural and between adversarial images.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Table 2.
    """
    made, data, models = context.load_or_train("base", make_study(context))
    pairs = {"smoke": 8}.get(context.scale, 200)
    # The limits of the study leave too few correctly classified test images.
    test = context.test_images(made, IMAGES) if context.scale == "laptop" else data.test
    results = context.load_or_compute(
        "table-2", ("paths", made, len(test), pairs, SHARE),
        lambda: path_results(models["standard"], test, pairs, share=SHARE, seed=made.seed, progress=context.progress),
    )  # fmt: skip
    return Reproduction(results, claim_table_2(results, context.data), DIFFERS)


def claim_table_2(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare Table 2 with our numbers.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    table = as_table(results["paths"])
    cells = {(row[0], row[1]): record for row, record in zip(table.rows, read_records(table), strict=True)}
    claims, kinds = [], {"Number of points": "anchors", "Normalized distance": "maximal deviation"}
    for how in ("as published", "beyond"):
        for family, printed in PRINTED.items():
            for (name, measure), text in zip(kinds.items(), printed, strict=True):
                row = cells.get((family, how))
                numbers = (read_value(row[heading]) for heading in (measure, f"{measure}, sd")) if row else ()
                ours = " ± ".join(f"{number:.2g}" for number in numbers) or None
                claims.append(Claim(f"{family}, {how}: {name}", text, "Table 2", ours))
        if not {(NATURAL, how), (ADVERSARIAL, how)} <= cells.keys():
            continue
        few, many = (cells[family, how]["anchors"] for family in (NATURAL, ADVERSARIAL))
        said = f"{how}: adversarial pairs need more points"
        claims.append(_claim_factor(said, few, many, 1))
        small, large = (cells[family, how]["maximal deviation"] for family in (NATURAL, ADVERSARIAL))
        said = f"{how}: adversarial pairs deviate by an order of magnitude more"
        claims.append(_claim_factor(said, small, large, 10))
    return claims


def _claim_factor(said: str, small: Cell, large: Cell, factor: float) -> Claim:
    """Claim that one number is more than a factor times another, by their 95 % intervals."""
    few, many, interval = read_value(small), read_value(large), as_interval(small)
    scaled = None if interval is None else (factor * interval[0], factor * interval[1])
    told = is_told(scaled, as_interval(large))
    return holds(said, "section 2.2.1", many > factor * few, f"{few:.2g} and {many:.2g}", told=told)


PLAIN = ("tiny-imagenet", "cifar10", "mnist", "digits")
PATHS = ("mnist", *PLAIN[:2], "digits")
CLAIMS = {"table-2": claim_table_2, "figure-9": figures.claim_figure_9}
ITEMS = tuple(
    Item(f"bardusco_report/{key}", title, where, make, data, "tiny-imagenet", CLAIMS.get(key))
    for key, title, where, make, data in (
        ("table-1", "Hessian and smallest perturbation of three networks", "Table 1, section 2.1", table_1, PLAIN),
        ("figure-2", "The boundary near an image", "Figures 2 and 4, section 2.1", figures.figure_2, PLAIN),
        ("figure-3", "Regions far around an image", "Figures 3 and 4, section 2.1", figures.figure_3, PLAIN),
        ("table-2", "Paths between images of one class", "Table 2, section 2.2.1", table_2, PATHS),
        ("figure-5", "The shape of paths", "Figures 5, 6, 7 and 8, section 2.2", figures.figure_5, PATHS),
        ("figure-9", "A change of color", "Figure 9, section 3", figures.figure_9, (*PLAIN[:2], "colored-digits")),
    )
)  # fmt: skip
