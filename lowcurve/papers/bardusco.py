"""Bardusco, Robustness and Curvature in Deep Learning: three networks with their geometry (Table 1, Figures 2 to 4), paths
between adversarial images (Table 2, Figures 5 to 8), and a change of color (Figure 9).
"""

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
from lowcurve.papers.common.lookup import as_curves, as_table, read_cells, read_value
from lowcurve.papers.recipes import get_recipe
from lowcurve.results import UNSAID, Claim, Column, Result, Table, holds, merge
from lowcurve.study.adversarial_set import adversarial_set
from lowcurve.study.method_options import Cure
from lowcurve.study.presets import preset, shorten
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Study
from lowcurve.types import Measure

PRINTED = {NATURAL: ("11 ± 9", "2.7e-4 ± 2.8e-4"), ADVERSARIAL: ("70 ± 15", "3.0e-3 ± 1.0e-3")}
"""Table 2: number of points, normalized distance; mean and standard deviation over 18 and 30 pairs."""
SHARE = 1e-3
"""The spacing over the distance of the ends. Fawzi et al. have 1e-4, which is ten times the work."""
IMAGES = 1000
"""Test images that the ends of paths are among, at a laptop's scale."""
BASE, ADVERSARIALLY, CURE, LESS = "base", "adversarial training", "CURE", "base on a tenth"
PRINTED_TABLE_1 = {BASE: ("5.5", "0.67"), ADVERSARIALLY: ("1.1", "0.80"), CURE: ("6.4e-4", "5.6")}
PRINTED_ACCURACY = {BASE: ("about 37 %", "about 10 %"), ADVERSARIALLY: (None, "about 30 %"), CURE: ("7 %", "about 3 %")}
"""Sections 2.1.1 and 2.1.2: on the validation set, and on the adversarial set."""
DIFFERS = (
    "The report has 18 natural and 30 adversarial pairs of one network on Tiny ImageNet; here each family has as many pairs as "
    "its count says, of one network trained by the study's settings.",
    "Its number of points is that of a projection which goes just across the boundary ('as published'). Both halves are then "
    "left outside until they are shorter than the spacing, so the number follows the spacing; 'beyond' goes on inwards.",
)
TRAINED = (
    "The report's network, its batches and the weight and h of CURE are not stated; the recipes say what is taken for them.",
    "CURE sees a tenth of the training images, as in the report; 'base on a tenth' is the standard network on the same.",
    "An adversarial set fools the network that it was made for at every image; 10 % is possible only where its pixels were "
    "rounded to grey levels, or BatchNorm was in another mode. Both are shown.",
)


@dataclass(frozen=True)
class Networks:
    """The report's networks by the rows of Table 1, with the study of the first and its data."""

    study: Study
    data: DataSet
    models: Mapping[str, nn.Module]

    def shared(self, context: Context, count: int, points: int, *rows: str) -> SameImages:
        """Some of them at the first test images that all of these are right about."""
        shown = {row: self.models[row] for row in rows}
        return same_images(self.study, self.data, shown, count, points, context.progress)


def make_study(context: Context) -> Study:
    """A standard network: of the paper, or on the data's preset."""
    if context.scale == "paper" and context.data == "tiny-imagenet":
        return get_recipe("bardusco_report/table-1/base").study()
    study = replace(preset(context.data), methods=("standard",), norm="l_2", radius="0.5")
    return shorten(study, epochs=10) if context.scale == "smoke" else study


def train_networks(context: Context) -> Networks:
    """The base network, the one that is fine-tuned on its adversarial set, and CURE and the base on a tenth of the images."""
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
    models = {BASE: first["standard"], ADVERSARIALLY: first["adversarial-set"]}
    return Networks(made, data, {**models, LESS: second["standard"], CURE: second["CURE"]})


def table_1(context: Context) -> Reproduction:
    """Squared Frobenius norm of the Hessian, smallest perturbation and accuracies of the networks."""
    those, count = train_networks(context), {"smoke": 8}.get(context.scale, 100)
    rows = []
    for name, model in those.models.items():
        make = partial(_numbers, context, those, name, model, count)
        result = context.load_or_compute(f"table-1-{name.replace(' ', '-')}", ("table-1", those.study, count), make)[
            "numbers"
        ]
        rows.append(result)
    table = as_table(merge(rows))
    found = read_cells(table)
    claims = []
    for row, printed in PRINTED_TABLE_1.items():
        for column, text in zip(("‖H‖_F²", "perturbation"), printed, strict=True):
            claims.append(Claim(f"{row}: {column}", text, "Table 1", found[row][column]))
        for column, said in zip(("clean", "adversarial set"), PRINTED_ACCURACY[row], strict=True):
            if said is not None:
                claims.append(Claim(f"{row}: {column}", said, "section 2.1", found[row][column], ".1%"))
    for column, falls in (("‖H‖_F²", True), ("perturbation", False)):
        values = [read_value(found[row][column]) for row in (BASE, ADVERSARIALLY, CURE)]
        turned = bool(np.all(np.diff(values) < 0) if falls else np.all(np.diff(values) > 0))
        evidence = ", ".join(f"{v:.3g}" for v in values)
        said = f"{column}: {'falls' if falls else 'rises'} from the base over adversarial training to CURE"
        claims.append(holds(said, "section 2.1.2", turned, evidence))
    for column in ("C", "perturbation"):
        ours, plain = (read_value(found[row][column]) for row in (CURE, LESS))
        said = f"{column}: CURE is {'smaller' if column == 'C' else 'larger'} than the base on the same tenth"
        better = ours < plain if column == "C" else ours > plain
        claims.append(holds(said, UNSAID, better, f"{ours:.3g} and {plain:.3g}"))
    return Reproduction({"numbers": table}, claims, TRAINED)


def _numbers(context: Context, those: Networks, name: str, model: nn.Module, count: int) -> dict[str, Result]:
    few, study = those.data.test.take(slice(count)), those.study
    made = context.progress
    measures: dict[str, Measure] = {
        "norm": FrobeniusNorm(draws=100, deflated=0),
        "curvature": Curvature(study.evaluation.lanczos_steps),
    }
    found = evaluation.measure(model, few, measures, progress=made, heading=f"measuring {name}")
    moved = evaluation.attack(model, few, DeepFool(L2), seed=study.seed, progress=made, heading=f"DeepFool on {name}")
    far = moved.distance[evaluation.correct(model, few) & ~moved.robust]
    base = those.models[BASE]
    fooling = adversarial_set(base, those.data.train, per_class=study.others.per_class, seed=study.seed, progress=made)
    level = pixels(1)
    rounded = Examples((fooling.pixels(slice(None)) / level).round() * level, fooling.y, fooling.classes)
    cells = (
        (Column("‖H‖_F²", "Mean over images, by 100 draws."), float((found["Frobenius norm"] ** 2).mean())),
        (Column("perturbation", "Mean l_2 length of DeepFool's, of images that are right."), _mean(far)),
        (Column("C", "Mean of ‖H‖ / ‖g‖."), float(found["normalized curvature"].mean())),
        (Column("clean", "On the whole test set.", ".1%"), float(evaluation.correct(model, those.data.test).mean())),
        (Column("adversarial set", "On the base network's adversarial set.", ".1%"), _right(model, fooling)),
        (Column("rounded", "On that set in whole grey levels.", ".1%"), _right(model, rounded)),
    )
    conditions = {"images": f"{count} of the test set", "units": "pixel range [0, 1]", "BatchNorm": "eval mode",
                  "adversarial set": f"{len(fooling)} training images"}  # fmt: skip
    headings, values = zip(*cells, strict=True)
    return {"numbers": Table("Three networks", (Column("network"), *headings), ((name, *values),), "", conditions)}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _right(model: nn.Module, examples: Examples) -> float:
    return float(evaluation.correct(model, examples).mean()) if len(examples) else float("nan")


def figure_2(context: Context) -> Reproduction:
    """Cross-sections of the decision boundary with their parabolas."""
    return _drawn(context, "figure-2", cross_sections, "cross-sections", "κ")


def figure_3(context: Context) -> Reproduction:
    """Classes over wide planes of random directions."""
    return _drawn(context, "figure-3", wide_sections, "wide", "pieces")


def _drawn(
    context: Context, name: str, draw: Callable[[SameImages], dict[str, Result]], table: str, column: str
) -> Reproduction:
    """Pictures of three networks, and whether a number of theirs is less than the base's; two images are shown."""
    those, rows = train_networks(context), (BASE, ADVERSARIALLY, CURE)
    count, points = {"smoke": (2, 9)}.get(context.scale, (20, 101))
    key = (name, those.study, count, points)
    results = context.load_or_compute(name, key, lambda: draw(those.shared(context, count, points, *rows)))
    numbers = as_table(results[table])
    place = [c.heading for c in numbers.columns].index(column)
    values: dict[str, list[float]] = {row: [] for row in rows}
    for line in numbers.rows:
        if line[place] is not None:
            values[str(line[0])].append(abs(read_value(line[place])))
    means = {row: float(np.mean(found)) if found else float("nan") for row, found in values.items()}
    claims = []
    for other in (ADVERSARIALLY, CURE):
        evidence = f"mean |{column}| {means[other]:.3g}, {means[BASE]:.3g}"
        claims.append(holds(f"flatter than the base: {other}", "section 2.1", means[other] < means[BASE], evidence))
    shown = {key: value for key, value in results.items() if not key[-1].isdigit() or key.split()[-1] in ("1", "2")}
    return Reproduction(shown, claims, TRAINED[:2])


def table_2(context: Context) -> Reproduction:
    """Number of points and normalized distance of paths between natural and between adversarial images; two families more."""
    made, data, models = context.load_or_train("base", make_study(context))
    pairs = {"smoke": 8}.get(context.scale, 200)
    # A network on few images is right about few of a laptop's test images: there are not as many pairs among them.
    test = context.test_images(made, IMAGES) if context.scale == "laptop" else data.test
    results = context.load_or_compute(
        "table-2", ("paths", made, len(test), pairs, SHARE),
        lambda: path_results(models["standard"], test, pairs, share=SHARE, seed=made.seed, progress=context.progress),
    )  # fmt: skip
    table = as_table(results["paths"])
    headings = [column.heading for column in table.columns]
    cells = {
        (row[0], row[1]): {name: read_value(cell) for name, cell in zip(headings[2:], row[2:], strict=True)}
        for row in table.rows
    }
    claims, kinds = [], {"Number of points": "anchors", "Normalized distance": "maximal deviation"}
    for how in ("as published", "beyond"):
        for family, printed in PRINTED.items():
            for (name, measure), text in zip(kinds.items(), printed, strict=True):
                there = cells.get((family, how))
                ours = f"{there[measure]:.2g} ± {there[f'{measure}, sd']:.2g}" if there else None
                claims.append(Claim(f"{family}, {how}: {name}", text, "Table 2", ours))
        if not {(NATURAL, how), (ADVERSARIAL, how)} <= cells.keys():
            continue
        few, many = (cells[family, how]["anchors"] for family in (NATURAL, ADVERSARIAL))
        near, far = (cells[family, how]["maximal deviation"] for family in (NATURAL, ADVERSARIAL))
        more = f"{how}: adversarial pairs need more points", many > few, f"{few:.3g} and {many:.3g}"
        bent = f"{how}: they deviate by an order of magnitude more", far > 10 * near, f"{near:.2g} and {far:.2g}"
        claims += [holds(said, "section 2.2.1", found, evidence) for said, found, evidence in (more, bent)]
    return Reproduction(results, claims, DIFFERS)


def figure_5(context: Context) -> Reproduction:
    """Paths in their principal components, and how much of the variance the first components have."""
    made, data, models = context.load_or_train("base", make_study(context))
    count = {"smoke": 30}.get(context.scale, 500)
    make = lambda: path_pictures(same_images(made, data, {BASE: models["standard"]}, count, progress=context.progress))  # noqa: E731
    results = context.load_or_compute("figure-5", ("figure-5", made, count), make)
    flat = as_curves(results["components"])
    first = {
        family: [line.y for key, line in flat.lines.items() if key.startswith(f"{BASE}, {family} (")]
        for family in PRINTED
    }
    # Straight paths have all of it in the first.
    natural, adversarial = (lines[0][0] or 0.0 if lines else 1.0 for lines in first.values())
    ours = f"{natural:.4f} of bent paths" if first[NATURAL] else "1: every path is straight"
    claims = [
        Claim("natural: share of the first component", "almost all", "Figure 6", ours),
        holds("the variance falls more slowly for adversarial pairs", "Figure 8", adversarial < natural,
              f"first component {adversarial:.4f} and {natural:.4f}"),
    ]  # fmt: skip
    return Reproduction(results, claims, DIFFERS[:1])


def figure_9(context: Context) -> Reproduction:
    """Changes of color: whether networks that are smooth or robust in pixels withstand them."""
    those, count = train_networks(context), {"smoke": 8}.get(context.scale, 200)
    rows = (BASE, ADVERSARIALLY, CURE)
    few = those.data.test.take(slice(count))

    def make() -> dict[str, Result]:
        made = [
            color_table(row, those.models[row], few, seed=those.study.seed, progress=context.progress) for row in rows
        ]
        drawn = colors(those.shared(context, 3, 101, *rows))
        return {**drawn, "colors": merge(made)}

    results = context.load_or_compute("figure-9", ("figure-9", those.study, count), make)
    table = as_table(results["colors"])
    claims = []
    for row, cells in read_cells(table).items():
        clean, kept, hue = (read_value(cells[name]) for name in ("clean", "pepper test", "hue"))
        said = f"{row}: a hue changed by 30 degrees at most fools it"
        claims.append(
            holds(said, "Figure 9", kept < clean, f"{clean:.1%} clean, {kept:.1%} then, {hue:.1%} at any hue")
        )
    differs = (
        "The report changes one picture of a pepper; here the whole test sample, by the hue alone and by other colors.",
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
