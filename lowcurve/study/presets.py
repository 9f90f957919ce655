"""Studies by data set and scale."""

from dataclasses import replace
from typing import Literal

from lowcurve.attacks import Effort
from lowcurve.data import Augmentation, Limits
from lowcurve.errors import InputError, nearest
from lowcurve.evaluation.audit import Budget
from lowcurve.study.method_options import Cure, GradientNorm, TrainingAttack
from lowcurve.study.settings import Evaluation, Study
from lowcurve.training import Optimization, Schedule

Scale = Literal["smoke", "laptop", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "laptop", "paper")
FEW = Limits(train=256, validation=64, test=64)
"""The images of the scale smoke."""


def preset(data: str, scale: str = "laptop") -> Study:
    """Return the study of a data set at a scale.

    Args:
        data: Name of a data set, or a path.
        scale: "smoke" (seconds, to see that it runs), "laptop" (minutes on two cores) or "paper".

    Raises:
        InputError: If the scale is unknown.

    Example:
        >>> preset("mnist").radius, preset("cifar10").radius
        ('0.1', '8/255')
    """
    if scale not in SCALES:
        raise InputError(
            f"a scale among {', '.join(SCALES)}", repr(scale), nearest(scale, SCALES, "write --scale laptop")
        )
    study = replace(_at_laptop(data), data=data)
    if scale == "smoke":
        return shorten(study)
    return _at_paper(study) if scale == "paper" else study


def _at_laptop(data: str) -> Study:
    if data in ("digits", "colored-digits"):
        return Study()
    if data == "two-moons":
        quick = Optimization(epochs=40, batch_size=64, learning_rate=5e-3)
        return Study(
            network="mlp",
            width=None,
            radius="0.05",
            training=quick,
            fine_tuning=quick,
            cure=Cure(weight=0.001, h=0.1),
            gradient=GradientNorm(weight=0.04),
            evaluation=Evaluation(certified=360),
        )
    if data == "mnist":
        return Study(
            limits=Limits(train=10_000, validation=1000, test=1000),
            radius="0.1",
            training=Optimization(epochs=6, batch_size=128, learning_rate=2e-3),
            fine_tuning=Optimization(epochs=5, batch_size=128, learning_rate=2e-3),
            cure=Cure(weight=0.1, h=3.0),
            evaluation=Evaluation(examples=200, curvature_examples=200, profile_examples=8),
        )
    augmentation = Augmentation(crop_padding=4, flip=data != "svhn")
    # With two hundred classes, softplus networks without normalization learn nothing in so few steps.
    many = data == "tiny-imagenet"
    return Study(
        limits=Limits(train=10_000, validation=1000, test=500),
        nonlinearity="relu" if many else "softplus",
        width=16 if many else 32,
        radius="8/255",
        training=Optimization(epochs=20 if many else 10, batch_size=128, learning_rate=2e-3, augmentation=augmentation),
        fine_tuning=Optimization(epochs=6, batch_size=128, learning_rate=2e-3, augmentation=augmentation),
        cure=Cure(weight=4.0, h=1.7),
        gradient=GradientNorm(weight=0.3),
        evaluation=Evaluation(examples=200, curvature_examples=100, profile_examples=0),
    )


def _at_paper(study: Study) -> Study:
    if study.data in ("digits", "colored-digits", "two-moons"):
        return study
    if study.data == "mnist":
        long = replace(study.training, epochs=30)
        whole = replace(study.evaluation, examples=10_000, curvature_examples=1000, profile_examples=100)
        return replace(
            study,
            limits=Limits(),
            network="yu2018-mnist",
            width=None,
            training=long,
            fine_tuning=long,
            evaluation=whole,
        )
    return replace(
        study,
        limits=Limits(),
        network="resnet18",
        nonlinearity="relu",
        width=None,
        training=Optimization(
            epochs=100, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, augmentation=study.training.augmentation
        ),
        fine_tuning=Optimization(
            epochs=20, optimizer="adam", learning_rate=1e-4, learning_rate_schedule=Schedule(end=0.01), weight_decay=0.0
        ),
        cure=Cure(weight=4.0, h=3.0, form="released"),
        training_attack=TrainingAttack(steps=10),
        evaluation=replace(study.evaluation, examples=10_000, curvature_examples=1000),
    )


def is_smoke(study: Study) -> bool:
    """Return whether a study has the few images of the scale smoke, from which nothing can be read."""
    return study.limits == FEW


def shorten(study: Study, epochs: int = 1) -> Study:
    """Shorten a study to a few images and an epoch, to see in seconds that it runs.

    Args:
        study: Settings.
        epochs: Number of epochs of training with new weights.
    """
    budget = Budget(
        steps=4, restarts=1, landscape_images=4, neighbors=8, apgd_steps=5, queries=20, noise_draws=20, spsa_steps=2,
        spsa_draws=2, long_steps=5,
    )  # fmt: skip
    evaluation = Evaluation(
        examples=32, steps=3, effort=Effort(3, 1, 20, 1, 1), audited=8, budget=budget, radii=(0.0, 1.0), curvature_examples=16,
        lanczos_steps=4, density_examples=2, boundary_examples=4, profile_examples=2, largest_profile=64, gallery=2,
        drawn_points=9,
    )  # fmt: skip
    return replace(
        study,
        limits=FEW,
        width=8,
        training=replace(study.training, epochs=epochs),
        fine_tuning=replace(study.fine_tuning, epochs=1),
        training_attack=replace(study.training_attack, steps=2),
        others=replace(study.others, per_class=4),
        evaluation=evaluation,
    )
