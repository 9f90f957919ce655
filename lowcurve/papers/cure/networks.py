"""Set up the networks of Moosavi-Dezfooli et al. 2019 at each scale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lowcurve.analysis.norms import Ball
from lowcurve.attacks import SPSA
from lowcurve.data import Limits
from lowcurve.papers.common.context import Context, Reduction
from lowcurve.papers.recipes import Recipe, get_recipe
from lowcurve.study.method_options import Cure, TrainingAttack
from lowcurve.study.presets import preset, shorten
from lowcurve.study.settings import Evaluation, Study
from lowcurve.training import Optimization, Schedule

RADII = {"mnist": ("0.05", "0.1"), "digits": ("0.0625", "0.125"), "svhn": ("4/255", "12/255")}
"""Radii of Table 1 and of the other tables. On CIFAR-10 they are 4/255 and 8/255."""


@dataclass(frozen=True)
class Counts:
    """The numbers of images, draws and rounds at a scale.

    Attributes:
        exact_profile: Images of the exact profile.
        profile_at_scale: Images of the profile by finite differences.
        figure_7: Images of Figure 7.
        draws: Normal draws of Figure 10.
        rounds: Rounds of a step's cost.
    """

    exact_profile: int
    profile_at_scale: int
    figure_7: int
    draws: int
    rounds: int


COUNTS = {
    "smoke": Counts(2, 2, 16, 8, 4),
    "laptop": Counts(100, 6, 100, 100, 10),
    "paper": Counts(100, 100, 1000, 100, 20),
}
IMAGES = ("cifar10", "svhn", "mnist", "digits")
DIFFERS = (
    Reduction(
        "At the scale laptop a small convolutional ReLU network without BatchNorm replaces ResNet-18. On CIFAR-10 it is "
        "trained on 20,000 images and fine-tuned for 5 epochs (3 on DeepFool's images) with ten times the learning rate. "
        "MNIST and digits use the settings of their presets and the squared penalty."
    ),
    "PGD starts at random and its step size is 2.5 times the radius over the number of steps; the paper states neither.",
)


def make_base_study(context: Context) -> Study:
    """Make the study that all rows share.

    Args:
        context: The context of the item. At the scale "paper" the settings are those of the recipes.
    """
    if context.scale == "paper":
        table = "table-3" if context.data == "svhn" else "table-2"
        return replace(get_recipe(f"moosavi2019cure/{table}/normal").study(), data=context.data)
    study = preset(context.data)
    study = replace(study, nonlinearity="relu", radius=RADII.get(context.data, ("", "8/255"))[1])
    settings = Evaluation(examples=200, audited=60, save_inputs=False, curvature_examples=100, gallery=5)
    if context.data in ("cifar10", "svhn"):
        training = replace(study.training, epochs=10, learning_rate=2e-3)
        tuning = Optimization(
            epochs=5, optimizer="adam", learning_rate=1e-3, learning_rate_schedule=Schedule(end=0.01), weight_decay=0.0
        )
        study = replace(
            study, width=16, limits=Limits(train=20_000, validation=1000, test=1000), training=training,
            fine_tuning=tuning, cure=Cure(weight=4.0, h=3.0, form="released"),
        )  # fmt: skip
    study = replace(study, training_attack=TrainingAttack(steps=7), evaluation=settings)
    return shorten(study, epochs=10) if context.scale == "smoke" else study


def make_studies(context: Context) -> dict[str, Study]:
    """Make the studies of all networks by row.

    The radius is that of Table 2, or that of Table 3 on SVHN.

    Args:
        context: The context of the item.
    """
    shared = make_base_study(context)
    methods = {"original": "standard", "fine-tuned": "DeepFool", "CURE": "CURE", "adversarial": "PGD"}
    if context.scale == "paper":
        table = "table-3" if context.data == "svhn" else "table-2"
        own = {row: get_recipe(f"moosavi2019cure/{table}/{key}").study() for row, key in TABLE_2.items()}
        longest = 10 if context.data == "svhn" else 20
        tuned = replace(shared, methods=("DeepFool",), fine_tuning=replace(own["CURE"].fine_tuning, epochs=longest))
        found = {"original": own["normal"], "fine-tuned": tuned, **own}
    else:
        found = {row: replace(shared, methods=(method,)) for row, method in methods.items()}
        found["normal"], tuned = found["original"], found["fine-tuned"]
        short = min(3, tuned.fine_tuning.epochs)  # an epoch on DeepFool's images takes long
        found["fine-tuned"] = replace(tuned, fine_tuning=replace(tuned.fine_tuning, epochs=short))
    found["CURE along the gradient"] = replace(found["CURE"], cure=replace(found["CURE"].cure, direction="gradient"))
    return found


TABLE_2 = {"normal": "normal", "CURE": "cure", "adversarial": "adversarial"}
"""The recipe of each row of Tables 2 and 3."""


def select_studies(context: Context, *names: str) -> dict[str, Study]:
    """Make the studies of the named rows.

    Args:
        context: The context of the item.
        names: Names of rows.
    """
    found = make_studies(context)
    return {name: found[name] for name in names}


def make_spsa(scale: str, ball: Ball) -> SPSA:
    """Make the attack SPSA with the steps and draws of a scale.

    Args:
        scale: "smoke", "laptop" or "paper".
        ball: The attack's ball.
    """
    steps, draws = {"smoke": (2, 4), "laptop": (20, 32), "paper": (100, 64)}[scale]
    return SPSA(ball, steps=steps, draws=draws)


def get_recipes(table: str, wanted: Mapping[str, str]) -> dict[str, Recipe]:
    """Return the recipes of a table's rows.

    Args:
        table: The table, such as "table-2".
        wanted: The recipe's name in the table by row.
    """
    return {row: get_recipe(f"moosavi2019cure/{table}/{key}") for row, key in wanted.items()}
