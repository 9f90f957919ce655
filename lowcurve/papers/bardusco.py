"""Reproduce Bardusco's report: three networks with their geometry, paths between adversarial images, a change of color."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, pixels
from lowcurve.attacks import DeepFool
from lowcurve.data import DataSet, Examples
from lowcurve.figures.colors import color_table, colors
from lowcurve.figures.cross_sections import cross_sections
from lowcurve.figures.path_figures import path_pictures
from lowcurve.figures.paths import ADVERSARIAL, NATURAL, path_results
from lowcurve.figures.regions import wide_sections
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import Curvature, FrobeniusNorm
from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.lookup import as_curves, as_table, read_cells, read_records, read_value
from lowcurve.papers.recipes import get_recipe
from lowcurve.results import UNSAID, Claim, Column, Result, Table, holds, merge
from lowcurve.study.adversarial_set import adversarial_set
from lowcurve.study.method_options import Cure
from lowcurve.study.presets import preset, shorten
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Study
from lowcurve.types import Measure

PRINTED = {NATURAL: ("11 ± 9", "2.7e-4 ± 2.8e-4"), ADVERSARIAL: ("70 ± 15", "3.0e-3 ± 1.0e-3")}
"""Table 2: number of points and normalized distance, as mean ± standard deviation over 18 and 30 pairs."""
SHARE = 1e-3
"""Spacing of the points of a path over the distance of its ends. Fawzi et al. have 1e-4, which costs ten times as much."""
IMAGES = 1000
"""Test images from which the ends of paths are taken at the scale laptop."""
BASE, ADVERSARIAL_TRAINING, CURE, BASE_ON_A_TENTH = "base", "adversarial training", "CURE", "base on a tenth"
PRINTED_TABLE_1 = {BASE: ("5.5", "0.67"), ADVERSARIAL_TRAINING: ("1.1", "0.80"), CURE: ("6.4e-4", "5.6")}
"""Table 1: squared Frobenius norm of the Hessian, and size of the smallest perturbation."""
PRINTED_ACCURACY = {
    BASE: ("about 37 %", "about 10 %"),
    ADVERSARIAL_TRAINING: (None, "about 30 %"),
    CURE: ("7 %", "about 3 %"),
}
"""Sections 2.1.1 and 2.1.2: accuracy on the validation set and on the adversarial set."""
DIFFERS = (
    "The report has 18 natural and 30 adversarial pairs of one network on Tiny ImageNet; here the table states the number of "
    "pairs of each family, for one network with the settings of its preset.",
    "The report's projection stops just across the boundary ('as published'). Both halves then stay outside the region until "
    "they are shorter than the spacing, so the number of points depends on the spacing; 'beyond' projects further inwards.",
)
TRAINED = (
    "The report does not state its network, its batch size, or the weight and h of CURE; the recipes say what we use.",
    "CURE is trained on a tenth of the training images, as in the report; 'base on a tenth' is a standard network on the same.",
    "Every image of an adversarial set fools the network for which it was made. The report's 10 % are possible only if pixels "
    "were rounded to grey levels or BatchNorm was in another mode. Accuracies on the exact and the rounded set are shown.",
)


@dataclass(frozen=True)
class Networks:
    """The networks of the report.

    Attributes:
        study: The resolved study of the base network.
        data: Its data.
        models: Networks in eval mode by row of Table 1.
    """

    study: Study
    data: DataSet
    models: Mapping[str, nn.Module]

    def select_images(self, context: Context, count: int, points: int, *rows: str) -> SameImages:
        """Select the first test images that the networks of these rows all classify correctly.

        Args:
            context: The context of the item.
            count: Number of images.
            points: Grid points along a side of a plane.
            rows: Rows of Table 1.
        """
        shown = {row: self.models[row] for row in rows}
        return same_images(self.study, self.data, shown, count, points, context.progress)


def make_study(context: Context) -> Study:
    """Make the study of the base network: the report's at the scale paper, otherwise that of the preset of the data.

    Args:
        context: The context of the item.
    """
    if context.scale == "paper" and context.data == "tiny-imagenet":
        return get_recipe("bardusco_report/table-1/base").study()
    study = replace(preset(context.data), methods=("standard",), norm="l_2", radius="0.5")
    return shorten(study, epochs=10) if context.scale == "smoke" else study


def train_networks(context: Context) -> Networks:
    """Load or train the four networks: base, fine-tuned on an adversarial set, CURE and base on a tenth of the images.

    Args:
        context: The context of the item.
    """
    study = make_study(context)
    own = context.scale == "paper" and context.data == "tiny-imagenet"
    tuned = get_recipe("bardusco_report/table-1/adversarial").study() if own else study
    both = replace(study, methods=("standard", "adversarial-set"), others=tuned.others, fine_tuning=tuned.fine_tuning)
    made, data, first = context.load_or_train("base", both)
    if own:
        few = get_recipe("bardusco_report/table-1/cure").study()
    else:
        images = max(len(data.train) // 10, 64)
        few = replace(
            study, methods=("CURE",), limits=replace(study.limits, train=images),
            cure=Cure(weight=1.0, h=1.5, ramp=0.0, form="published", from_scratch=True),
            training=replace(study.training, epochs=2 * study.training.epochs),
        )  # fmt: skip
    _, _, second = context.load_or_train("tenth", replace(few, methods=("standard", "CURE")))
    models = {BASE: first["standard"], ADVERSARIAL_TRAINING: first["adversarial-set"]}
    return Networks(made, data, {**models, BASE_ON_A_TENTH: second["standard"], CURE: second["CURE"]})


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
        claims.append(holds(said, UNSAID, better, f"{ours:.3g} and {plain:.3g}"))
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
    conditions = {"images": f"{count} of the test set", "units": "pixel range [0, 1]", "BatchNorm": "eval mode",
                  "adversarial set": f"{len(fooling)} training images"}  # fmt: skip
    headings, values = zip(*cells, strict=True)
    return {"numbers": Table("Three networks", (Column("network"), *headings), ((name, *values),), "", conditions)}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _compute_accuracy(model: nn.Module, examples: Examples) -> float:
    return float(evaluation.correct(model, examples).mean()) if len(examples) else float("nan")


def figure_2(context: Context) -> Reproduction:
    """Draw cross-sections of the decision boundary with the parabolas that fit them.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Figs. 2 and 4.
    """
    return _make_pictures(context, "figure-2", cross_sections, "cross-sections", "κ")


def figure_3(context: Context) -> Reproduction:
    """Draw the classes over wide planes of random directions.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Figs. 3 and 4.
    """
    return _make_pictures(context, "figure-3", wide_sections, "wide", "pieces")


def _make_pictures(
    context: Context, name: str, draw: Callable[[SameImages], dict[str, Result]], table: str, column: str
) -> Reproduction:
    """Draw three networks at two images, and claim that a number of a table is smaller than for the base network."""
    networks, rows = train_networks(context), (BASE, ADVERSARIAL_TRAINING, CURE)
    count, points = {"smoke": (2, 9)}.get(context.scale, (20, 101))
    key = (name, networks.study, count, points)
    results = context.load_or_compute(name, key, lambda: draw(networks.select_images(context, count, points, *rows)))
    values: dict[str, list[float]] = {row: [] for row in rows}
    for record in read_records(results[table]):
        if record[column] is not None:
            values[str(record["network"])].append(abs(read_value(record[column])))
    means = {row: float(np.mean(found)) if found else float("nan") for row, found in values.items()}
    claims = []
    for other in (ADVERSARIAL_TRAINING, CURE):
        evidence = f"mean |{column}| {means[other]:.3g}, {means[BASE]:.3g}"
        claims.append(holds(f"flatter than the base: {other}", "section 2.1", means[other] < means[BASE], evidence))
    shown = {key: value for key, value in results.items() if not key[-1].isdigit() or key.split()[-1] in ("1", "2")}
    return Reproduction(shown, claims, TRAINED[:2])


def table_2(context: Context) -> Reproduction:
    """Measure the number of points and the deviation of paths between natural and between adversarial images.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Table 2.
    """
    made, data, models = context.load_or_train("base", make_study(context))
    pairs = {"smoke": 8}.get(context.scale, 200)
    # The limits of the study leave too few correctly classified test images for so many pairs.
    test = context.test_images(made, IMAGES) if context.scale == "laptop" else data.test
    results = context.load_or_compute(
        "table-2", ("paths", made, len(test), pairs, SHARE),
        lambda: path_results(models["standard"], test, pairs, share=SHARE, seed=made.seed, progress=context.progress),
    )  # fmt: skip
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
        few, many = (read_value(cells[family, how]["anchors"]) for family in (NATURAL, ADVERSARIAL))
        said = f"{how}: adversarial pairs need more points"
        claims.append(holds(said, "section 2.2.1", many > few, f"{few:.3g} and {many:.3g}"))
        small, large = (read_value(cells[family, how]["maximal deviation"]) for family in (NATURAL, ADVERSARIAL))
        said = f"{how}: adversarial pairs deviate by an order of magnitude more"
        claims.append(holds(said, "section 2.2.1", large > 10 * small, f"{small:.2g} and {large:.2g}"))
    return Reproduction(results, claims, DIFFERS)


def figure_5(context: Context) -> Reproduction:
    """Draw paths in their principal components, with the share of the variance of the first components.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Figs. 5 to 8.
    """
    made, data, models = context.load_or_train("base", make_study(context))
    count = {"smoke": 30}.get(context.scale, 500)
    make = lambda: path_pictures(same_images(made, data, {BASE: models["standard"]}, count, progress=context.progress))  # noqa: E731
    results = context.load_or_compute("figure-5", ("figure-5", made, count), make)
    flat = as_curves(results["components"])
    first = {
        family: [line.y for key, line in flat.lines.items() if key.startswith(f"{BASE}, {family} (")]
        for family in PRINTED
    }
    # A straight path has all its variance in the first component.
    natural, adversarial = (lines[0][0] or 0.0 if lines else 1.0 for lines in first.values())
    ours = f"{natural:.4f} for curved paths" if first[NATURAL] else "1: every path is straight"
    claims = [
        Claim("natural: share of the first component", "almost all", "Figure 6", ours),
        holds("the variance falls more slowly for adversarial pairs", "Figure 8", adversarial < natural,
              f"first component {adversarial:.4f} and {natural:.4f}"),
    ]  # fmt: skip
    return Reproduction(results, claims, DIFFERS[:1])


def figure_9(context: Context) -> Reproduction:
    """Measure how changes of hue and of other colors fool the three networks.

    Args:
        context: The context of the item.

    Reference: bardusco_report, Fig. 9.
    """
    networks, count = train_networks(context), {"smoke": 8}.get(context.scale, 200)
    rows = (BASE, ADVERSARIAL_TRAINING, CURE)
    few = networks.data.test.take(slice(count))

    def make() -> dict[str, Result]:
        made = [
            color_table(row, networks.models[row], few, seed=networks.study.seed, progress=context.progress)
            for row in rows
        ]
        drawn = colors(networks.select_images(context, 3, 101, *rows))
        return {**drawn, "colors": merge(made)}

    results = context.load_or_compute("figure-9", ("figure-9", networks.study, count), make)
    table = as_table(results["colors"])
    claims = []
    for row, cells in read_cells(table).items():
        clean, kept, hue = (read_value(cells[name]) for name in ("clean", "pepper test", "hue"))
        said = f"{row}: a change of hue by at most 30 degrees fools it"
        claims.append(
            holds(said, "Figure 9", kept < clean, f"{clean:.1%} clean, {kept:.1%} then, {hue:.1%} at any hue")
        )
    differs = (
        "The report changes one picture of a pepper; here the whole sample of test images is changed, in hue and in color.",
    )
    return Reproduction(results, claims, (*differs, *TRAINED[:2]))


PLAIN = ("tiny-imagenet", "cifar10", "mnist", "digits")
ITEMS = tuple(
    Item(f"bardusco_report/{key}", title, where, make, data, "tiny-imagenet")
    for key, title, where, make, data in (
        ("table-1", "Hessian and smallest perturbation of three networks", "Table 1, section 2.1", table_1, PLAIN),
        ("figure-2", "The boundary near an image", "Figures 2 and 4, section 2.1", figure_2, PLAIN),
        ("figure-3", "Regions far around an image", "Figures 3 and 4, section 2.1", figure_3, PLAIN),
        ("table-2", "Paths between images of one class", "Table 2, section 2.2.1", table_2, ("mnist", *PLAIN[:2], "digits")),
        ("figure-5", "The shape of paths", "Figures 5, 6, 7 and 8, section 2.2", figure_5, ("mnist", *PLAIN[:2], "digits")),
        ("figure-9", "A change of color", "Figure 9, section 3", figure_9, (*PLAIN[:2], "colored-digits")),
    )
)  # fmt: skip
