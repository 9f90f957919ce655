"""Yu et al. 2018, Interpreting Adversarial Robustness: the networks of Tables 1 and 2 and of the figures, at every scale."""

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
from lowcurve.study.presets import ON_A_LAPTOP, shortened
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
"""The rows of each table by their recipes' files, in the paper's order."""
RADII = {"table-1": ("0.1", "0.2", "0.3"), "table-2": ("3", "6", "9")}
"""As the tables have them: of 1, and of 255 grey levels."""
EPOCHS = {
    "table-1": {NATURAL: 4, ADVTRAIN: 8, CROSS_ENTROPY: 6, OURS: 6, BOTH: 8, MINMAX: 8},
    "table-2": {NATURAL: 8, ADVTRAIN: 4, CROSS_ENTROPY: 4, OURS: 4, BOTH: 3, MINMAX: 4},
}
"""At a laptop's scale."""
ADDED_EPOCHS = {BOTH: 5, MINMAX: 4}
"""On MNIST at the paper's scale, of the two that its Table 1 lacks: a step has the passes of 13 and of 41 natural ones."""
RAMP = 0.15
"""With 0.3 from the first step on a network may stay at chance for an epoch and more."""
DIFFERS = (
    Reduction(
        "At a laptop's scale networks see 10,000 training images of MNIST for 4 to 8 epochs (batches of 64) and 20,000 of "
        "CIFAR-10 for 3 to 8 (batches of 32, not augmented) with AdamW from 3e-3 and 4e-3 after a warm-up; adversarial "
        "training takes two long steps in place of ten short ones, and the network on CIFAR-10 is a quarter as wide as the "
        "recipe's."
    ),
    "The paper states neither the norm of its penalty nor how images are averaged; the recipes say how c = 500 was read.",
)


def choose_table(context: Context) -> str:
    """Whose networks a figure takes: those of Table 2 on CIFAR-10, of Table 1 on digits."""
    return "table-2" if context.data == "cifar10" else "table-1"


def get_recipes(table: str) -> dict[str, Recipe]:
    """The table's rows with the paper's numbers."""
    return {row: get_recipe(f"yu2018interpreting/{table}/{file}") for row, file in FILES[table].items()}


def make_studies(context: Context, table: str) -> dict[str, Study]:
    """The table's models, and on MNIST the two that only Table 2 has; MinMax stands in section 4.3, too."""
    found = {row: one.study() for row, one in get_recipes(table).items()}
    if table == "table-1":
        found |= _added(found)
    if context.scale == "paper":
        return found
    return {row: _reduced(context, table, row, study) for row, study in found.items()}


def _added(found: Mapping[str, Study]) -> dict[str, Study]:
    """Both at once, ours with the attack of AdvTrain, and MinMax with the attack of its own paper."""
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


def _reduced(context: Context, table: str, row: str, study: Study) -> Study:
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
        evaluation=Evaluation(
            examples=500, effort=ON_A_LAPTOP, audited=60, save_inputs=False, radii=study.evaluation.radii
        ),
    )
    if context.scale != "smoke":
        return study
    quick = shortened(study)
    return replace(quick, training=replace(training, epochs=5, batch_size=32))  # a network of chance has no images


def make_attacks(study: Study, table: str) -> dict[str, AttackFunction]:
    """FGSM, BIM and C&W at each of the table's radii, by the names that the recipes have."""
    found: dict[str, AttackFunction] = {}
    for text in RADII[table]:
        radius, step = (parse_radius(text), 0.1) if table == "table-1" else (pixels(float(text)), pixels(1))
        found |= {f"{name} at {text}": attack for name, attack in yu2018(study.norm, radius, step_size=step).members}
    order = ("FGSM", "BIM", "C&W")
    return dict(sorted(found.items(), key=lambda one: order.index(one[0].split(" ")[0])))


def select_studies(context: Context, *names: str) -> dict[str, Study]:
    """Some of the models of a figure."""
    found = make_studies(context, choose_table(context))
    return {name: found[name] for name in names}


def select_shared_images(context: Context, wanted: Mapping[str, Study], count: int, points: int = 51) -> SameImages:
    """The first seed's networks at test images that all of them classify rightly."""
    ones = [train_row(context, row, study) for row, study in wanted.items()]
    models = {one.row: one.model for one in ones}
    points = 11 if context.scale == "smoke" else points
    return same_images(ones[0].study, ones[0].data, models, count, points, context.progress)


def limit_count(context: Context, count: int) -> int:
    """So many images, or four to see that it runs."""
    return min(count, 4) if context.scale == "smoke" else count


def add_figure_numbers(figures: Mapping[str, str], results: Mapping[str, Result]) -> dict[str, Result]:
    """The results that are pictures with the figure's number before their title: that of the first beginning of their name."""
    found = {}
    for key, result in results.items():
        number = next(figure for beginning, figure in figures.items() if key.startswith(beginning))
        found[key] = result if isinstance(result, Table) else replace(result, title=f"{number}: {result.title}")
    return found
