"""Robustness at equal clean accuracy: a network beside an earlier epoch of another one that is no more accurate."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.attacks import PGD
from lowcurve.data import DataSet, Examples
from lowcurve.errors import InputError
from lowcurve.results import Cell, Column, Table, proportion
from lowcurve.results.cells import NETWORK
from lowcurve.study.settings import Study
from lowcurve.types import Progress


def find_nearest_epoch(
    networks: Iterable[tuple[int, nn.Module]], accuracy: float, on: Examples
) -> tuple[int, nn.Module]:
    """The epoch whose accuracy on these examples is nearest to that number, the earlier of two.

    Errors: InputError for no epoch.
    """
    found = [(abs(float(evaluation.correct(model, on).mean()) - accuracy), k, model) for k, model in networks]
    if not found:
        raise InputError("at least one epoch to match", "none", "give the networks of a training by epoch")
    _, epoch, model = min(found, key=lambda one: one[:2])
    return epoch, model


def compare_at_equal_accuracy(
    study: Study, data: DataSet, networks: dict[str, nn.Module], multiples: Sequence[float], progress: Progress[int]
) -> Table:
    """Clean accuracy on validation and test images, and accuracy under PGD at several multiples of the radius, with 95 %
    intervals."""
    examples = data.test.take(slice(study.evaluation.examples))
    rows: list[tuple[Cell, ...]] = []
    for name, model in networks.items():
        who = [evaluation.correct(model, data.validation), evaluation.correct(model, data.test)]
        for multiple in multiples:
            attack = PGD(study.ball(multiple), steps=study.evaluation.steps)
            left = evaluation.attack(
                model, examples, attack, seed=study.seed, progress=progress,
                heading=f"attacking {name} at {multiple:g} radii",
            )  # fmt: skip
            who.append(left.robust)
        rows.append((name, *(_share(values) for values in who)))
    columns = (
        NETWORK,
        Column("validation", "Clean accuracy on the validation split, by which the epoch was chosen.", ".1%"),
        Column("clean", "Accuracy on the test set.", ".1%"),
        *(Column(f"PGD at {m:g} radii", "Of the study's radius.", ".1%") for m in multiples),
    )
    conditions = {
        "attacks": f"PGD-{study.evaluation.steps} on {len(examples)} of the test set, {study.norm}, radius {study.radius}",
    }
    caption = "With 95 % intervals. The earlier epoch is that of normal training whose validation accuracy is nearest."
    return Table("At equal clean accuracy", columns, tuple(rows), caption, conditions)


def _share(who: np.ndarray) -> Cell:
    share = proportion(int(who.sum()), len(who))
    return (share.value, share.low, share.high)
