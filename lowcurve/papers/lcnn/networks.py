"""Set up the networks of Srinivas et al. 2022 at each scale."""

from dataclasses import replace

from lowcurve.data import Limits
from lowcurve.papers.common.context import Context
from lowcurve.papers.recipes import get_recipe
from lowcurve.study.method_options import Cure, GradientNorm, TrainingAttack
from lowcurve.study.presets import preset, shorten
from lowcurve.study.settings import Study
from lowcurve.training import Schedule

RADII = {"digits": (0.25, 0.5, 0.75, 1.0), "mnist": (0.5, 1.0, 1.5, 2.0)}
"""The four l_2 radii on these data; other data use those of the paper."""
PAPER_RADII = (0.05, 0.1, 0.15, 0.2)


def make_base_study(context: Context) -> Study:
    """Make the study that all rows share: the paper's at the scale paper, otherwise a preset with the paper's losses.

    Args:
        context: The context of the item.
    """
    if context.scale == "paper":
        return replace(get_recipe("srinivas2022lcnn/table-1/standard").study(), nonlinearity="softplus-1000")
    study = preset(context.data)
    radius = get_radii(context.data)[1]
    study = replace(
        study,
        nonlinearity="softplus-1000",
        norm="l_2",
        radius=str(radius),
        cure=replace(study.cure, from_scratch=True, form="published"),
        training_attack=TrainingAttack(steps=3, norm="l_2", step_size=0.5 * radius),
        evaluation=replace(study.evaluation, examples=200),
    )
    if context.data == "cifar10":
        training = replace(
            study.training, epochs=8, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, gradient_clipping=1.0,
            learning_rate_schedule=Schedule(end=0.0, warm_up=0.2),
        )  # fmt: skip
        study = replace(
            study, network="resnet20", width=8, limits=Limits(train=20_000, validation=1000, test=1000), training=training,
            gradient=GradientNorm(weight=0.0061), cure=Cure(weight=0.000061, h=1.0, ramp=0.0, from_scratch=True),
        )  # fmt: skip
    return shorten(study) if context.scale == "smoke" else study


def make_studies(context: Context) -> dict[str, Study]:
    """Make the studies of the seven models of Tables 1 and 2 by row.

    Args:
        context: The context of the item.
    """
    shared = make_base_study(context)
    paper = {"gradient": "gradreg", "cure": "cure", "training_attack": "adversarial"}
    if context.scale == "paper":
        own = {
            name: getattr(get_recipe(f"srinivas2022lcnn/table-1/{row}").study(), name) for name, row in paper.items()
        }
        shared = replace(shared, **own)
    converted = replace(shared, nonlinearity="relu")
    return {
        "standard": replace(shared, methods=("standard",)),
        "LCNN": replace(converted, methods=("LCNN",)),
        "gradient norm": replace(shared, methods=("gradient-norm",)),
        "LCNN + gradient norm": replace(converted, methods=("LCNN+gradient-norm",)),
        "CURE": replace(shared, methods=("CURE",)),
        "softplus": replace(shared, nonlinearity="softplus", methods=("standard",)),
        "adversarial training": replace(shared, methods=("PGD",)),
    }


def make_ablation_studies(context: Context) -> dict[str, Study]:
    """Make the studies of the ablation: four nonlinearities with no penalty, the gradient norm and CURE.

    Args:
        context: The context of the item.
    """
    kinds = {"ReLU": "relu", "softplus": "softplus", "centered softplus": "centered-softplus", "GELU": "gelu"}
    penalties = {"": "standard", " + gradient norm": "gradient-norm", " + CURE": "CURE"}
    shared = make_base_study(context)
    return {
        f"{kind}{penalty}": replace(shared, nonlinearity=name, methods=(method,))
        for kind, name in kinds.items()
        for penalty, method in penalties.items()
    }


def get_radii(data: str) -> tuple[float, ...]:
    """Return the four l_2 radii of Table 2 on these data.

    Args:
        data: Name of the data set.
    """
    return RADII.get(data, PAPER_RADII)
