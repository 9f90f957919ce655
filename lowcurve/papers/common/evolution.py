"""Measure curvature and robustness after each epoch of a training."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.attacks import PGD
from lowcurve.data import DataSet
from lowcurve.geometry import FrobeniusNorm, SecantCurvature
from lowcurve.results import Curves, Line
from lowcurve.results.cells import count_examples
from lowcurve.study.measured_network import MeasuredNetwork
from lowcurve.study.settings import Study
from lowcurve.types import Measure, Progress


def h_in_pixels(study: Study, data: DataSet) -> float:
    """Return the step h of CURE's penalty as an l_2 length in pixel units.

    The released forms count h in normalized inputs, so its h is multiplied by the channels' mean standard deviation.

    Args:
        study: The study with CURE's settings.
        data: The data with the channels' standard deviations.
    """
    if study.cure.form == "published":
        return study.cure.h
    _, deviations = data.statistics()
    return study.cure.h * float(np.mean(deviations))


def measure_epochs(
    study: Study,
    data: DataSet,
    row: str,
    networks: Iterable[tuple[int, nn.Module]],
    draws: int,
    progress: Progress[int],
) -> dict[str, Curves]:
    """Measure ||H||_F, ||Hz|| along z = sign(g) and accuracy under PGD after each epoch.

    The curves are means over images; their bands reach two standard errors to either side. Both curvatures are gradient
    differences at the step h of CURE's penalty.

    Args:
        study: The study with its evaluation settings.
        data: The data with its test images.
        row: Name of the curves.
        networks: Networks with their epochs.
        draws: Normal draws of the estimate of ||H||_F, without deflation as in the paper.
        progress: Receives the progress of long computations.

    Returns:
        Curves by name: "Frobenius norm", "along the sign" and "robust".

    Reference: moosavi2019cure, Fig. 10.
    """
    h, settings = h_in_pixels(study, data), study.evaluation
    few = data.test.take(slice(settings.curvature_examples))
    attacked = data.test.take(slice(settings.examples))
    measures: dict[str, Measure] = {
        "norm": FrobeniusNorm(draws=draws, deflated=0, h=h),
        "along the sign": SecantCurvature(h),
    }
    epochs: list[int] = []
    found: dict[str, list[np.ndarray]] = {"Frobenius norm": [], "along the sign": [], "robust": []}
    for epoch, model in networks:
        epochs.append(epoch)
        network = MeasuredNetwork(study, f"{row}, epoch {epoch}", model, few, progress, {})
        columns = network.columns(measures)
        attack = PGD(study.ball(), steps=settings.steps)
        outcome = evaluation.attack(
            model, attacked, attack, seed=study.seed, progress=progress,
            heading=f"attacking {network.name}",
        )  # fmt: skip
        for kind, values in (
            *((k, columns[k]) for k in ("Frobenius norm", "along the sign")),
            ("robust", outcome.robust),
        ):
            found[kind].append(values.astype(np.float64))
    conditions = {**count_examples(few, "test"), "h": f"{h:.3g} in l_2", "draws": str(draws), "BatchNorm": "eval mode"}
    attack_conditions = {
        **count_examples(attacked, "test"),
        "attack": f"PGD-{settings.steps}, {study.norm}, radius {study.radius}",
    }
    shared = Curves("", "epoch, 0 before fine-tuning", "", tuple(map(float, epochs)), {})

    def curves(kind: str, title: str, label: str, conditions: dict[str, str]) -> Curves:
        return replace(shared, title=title, y_label=label, lines={row: _make_line(found[kind])}, conditions=conditions)

    return {
        "Frobenius norm": curves("Frobenius norm", "Frobenius norm of the Hessian, by epoch", "mean ‖H‖_F", conditions),
        "along the sign": curves(
            "along the sign", "Curvature along the sign of the gradient, by epoch", "mean ‖Hz‖", conditions
        ),
        "robust": curves("robust", "Accuracy under attack, by epoch", "share of robust examples", attack_conditions),
    }


def _make_line(values: Sequence[np.ndarray]) -> Line:
    means = [float(v.mean()) for v in values]
    errors = [2 * float(v.std(ddof=1)) / len(v) ** 0.5 for v in values]
    pairs = list(zip(means, errors, strict=True))
    return Line(tuple(means), tuple(m - e for m, e in pairs), tuple(m + e for m, e in pairs))
