"""Set up the networks of Yu et al. 2018 at each scale: the rows of Tables 1 and 2, which the figures share."""

from collections.abc import Mapping
from dataclasses import replace

from lowcurve.analysis.norms import parse_radius, pixels
from lowcurve.attacks.suites import yu2018
from lowcurve.data import Augmentation, Limits
from lowcurve.figures.same_images import SameImages
from lowcurve.papers.common.context import Context, Reduction
from lowcurve.papers.common.seed_tables import train_row
from lowcurve.papers.recipes import Recipe, get_recipe
from lowcurve.results import Result, Table
from lowcurve.study.method_options import TrainingAttack
from lowcurve.study.presets import shorten
from lowcurve.study.report_figures import same_images
from lowcurve.study.settings import Evaluation, Study
from lowcurve.training import Schedule
from lowcurve.types import AttackFunction

NATURAL, OURS, MINMAX, CROSS_ENTROPY = "natural", "ours", "MinMax", "CrossEntropy"
ADVTRAIN, BOTH = "AdvTrain", "ours + AdvTrain"
_FOUR = {NATURAL: "natural", ADVTRAIN: "advtrain", CROSS_ENTROPY: "crossentropy", OURS: "ours"}
FILES: Mapping[str, Mapping[str, str]] = {
    "table-1": _FOUR,
    "table-2": {**_FOUR, BOTH: "ours-advtrain", MINMAX: "minmax"},
}
"""The recipe of each row by table, in the paper's order."""
RADII = {"table-1": ("0.1", "0.2", "0.3"), "table-2": ("3", "6", "9")}
"""Radii as printed: of pixels in [0, 1] in Table 1, in grey levels of 255 in Table 2."""
EPOCHS = {
    "table-1": {NATURAL: 4, ADVTRAIN: 8, CROSS_ENTROPY: 6, OURS: 6, BOTH: 8, MINMAX: 8},
    "table-2": {NATURAL: 8, ADVTRAIN: 4, CROSS_ENTROPY: 4, OURS: 4, BOTH: 3, MINMAX: 4},
}
"""Epochs of training at the scale laptop."""
ADDED_EPOCHS = {BOTH: 5, MINMAX: 4}
"""Epochs at the scale paper of the two networks that Table 1 lacks. A step takes the passes of 13 and 41 natural ones."""
RAMP = 0.15
"""Share of training over which their radius rises. With radius 0.3 from the start a network may stay at chance for an epoch."""
DIFFERS = (
    Reduction(
        "At the scale laptop networks are trained on 10,000 images of MNIST for 4 to 8 epochs (batches of 64) and on 20,000 of "
        "CIFAR-10 for 3 to 8 epochs (batches of 32, no augmentation), with AdamW from 3e-3 and 4e-3 after a warm-up. "
        "Adversarial training takes two long steps instead of ten short ones. The network on CIFAR-10 is a quarter as wide as "
        "the recipe's."
    ),
    "The paper states neither the norm of its penalty nor how images are averaged; the recipes say how we read c = 500.",
)


def choose_table(context: Context) -> str:
    """Return the table whose networks a figure uses: "table-2" on CIFAR-10, "table-1" on digits.

    Args:
        context: The context of the item.
    """
    return "table-2" if context.data == "cifar10" else "table-1"


def get_recipes(table: str) -> dict[str, Recipe]:
    """Return the recipes of a table by row.

    Args:
        table: "table-1" or "table-2".
    """
    return {row: get_recipe(f"yu2018interpreting/{table}/{file}") for row, file in FILES[table].items()}


def make_studies(context: Context, table: str) -> dict[str, Study]:
    """Make the studies of a table by row.

    On MNIST there are two more than in the paper's Table 1: MinMax of section 4.3, and ours with adversarial training.

    Args:
        context: The context of the item.
        table: "table-1" or "table-2".
    """
    found = {row: recipe.study() for row, recipe in get_recipes(table).items()}
    if table == "table-1":
        found |= _make_added_studies(found)
    if context.scale == "paper":
        return found
    return {row: _reduce(context, table, row, study) for row, study in found.items()}


def _make_added_studies(found: Mapping[str, Study]) -> dict[str, Study]:
    """Make the studies of ours with the attack of AdvTrain, and of MinMax with the attack of its own paper."""
    of_both = replace(found[ADVTRAIN].training_attack, ramp=RAMP)
    of_minmax = TrainingAttack(steps=40, norm="l_inf", radius="0.3", step_size=0.01, ramp=RAMP)
    training = {row: replace(found[NATURAL].training, epochs=epochs) for row, epochs in ADDED_EPOCHS.items()}
    return {
        BOTH: replace(found[OURS], methods=("gradient-norm+PGD",), training=training[BOTH], training_attack=of_both),
        MINMAX: replace(
            found[NATURAL],
            methods=("PGD",),
            training=replace(training[MINMAX], batch_size=64),
            training_attack=of_minmax,
        ),
    }


def _reduce(context: Context, table: str, row: str, study: Study) -> Study:
    digits = table == "table-1"
    training = replace(
        study.training, epochs=EPOCHS[table][row], batch_size=64 if digits else 32, augmentation=Augmentation(),
        learning_rate=3e-3 if digits else 4e-3, learning_rate_schedule=Schedule(end=0.0, warm_up=0.2),
    )  # fmt: skip
    against = study.training_attack
    if row in (ADVTRAIN, BOTH, MINMAX):
        against = replace(against, steps=2, step_size=0.2 if digits else pixels(6), ramp=0.0)
    study = replace(
        study,
        limits=Limits(train=10_000 if digits else 20_000, validation=1000, test=1000),
        width=16,
        training=training,
        training_attack=against,
        evaluation=Evaluation(examples=500, audited=60, save_inputs=False, radii=study.evaluation.radii),
    )
    if context.scale != "smoke":
        return study
    quick = shorten(study)
    return replace(
        quick, training=replace(training, epochs=5, batch_size=32)
    )  # figures need correctly classified images


def make_attacks(study: Study, table: str) -> dict[str, AttackFunction]:
    """Make FGSM, BIM and C&W at each of the table's radii, by the names of the recipes' numbers.

    Args:
        study: Sets the norm.
        table: "table-1" or "table-2".
    """
    found: dict[str, AttackFunction] = {}
    for text in RADII[table]:
        radius, step = (parse_radius(text), 0.1) if table == "table-1" else (pixels(float(text)), pixels(1))
        found |= {f"{name} at {text}": attack for name, attack in yu2018(study.norm, radius, step_size=step).members}
    order = ("FGSM", "BIM", "C&W")
    return dict(sorted(found.items(), key=lambda item: order.index(item[0].split(" ")[0])))


def select_studies(context: Context, *names: str) -> dict[str, Study]:
    """Make the studies of the named networks of a figure.

    Args:
        context: The context of the item.
        names: Names of rows.
    """
    found = make_studies(context, choose_table(context))
    return {name: found[name] for name in names}


def select_shared_images(context: Context, wanted: Mapping[str, Study], count: int, points: int = 51) -> SameImages:
    """Select test images that all networks of the first seed classify correctly.

    Args:
        context: The context of the item.
        wanted: The studies by row.
        count: Number of images.
        points: Grid points along a side of a plane.
    """
    networks = [train_row(context, row, study) for row, study in wanted.items()]
    models = {trained.row: trained.model for trained in networks}
    points = 11 if context.scale == "smoke" else points
    return same_images(networks[0].study, networks[0].data, models, count, points, context.progress)


def limit_count(context: Context, count: int) -> int:
    """Return `count`, or at most four at the scale smoke.

    Args:
        context: The context of the item.
        count: A number of images.
    """
    return min(count, 4) if context.scale == "smoke" else count


def add_figure_numbers(figures: Mapping[str, str], results: Mapping[str, Result]) -> dict[str, Result]:
    """Put the paper's figure number before the title of each result that is not a table.

    Args:
        figures: Figure numbers by prefix of a result's name. The first prefix that matches is used.
        results: Results by name.
    """
    found = {}
    for key, result in results.items():
        number = next(figure for prefix, figure in figures.items() if key.startswith(prefix))
        found[key] = result if isinstance(result, Table) else replace(result, title=f"{number}: {result.title}")
    return found
