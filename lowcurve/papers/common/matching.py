"""Compare robustness at equal clean accuracy: a network with the epoch of another training that is as accurate."""

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
    """Find the epoch whose accuracy is nearest to a given accuracy. Of two equally near epochs the earlier is taken.

    Args:
        networks: Networks of a training with their epochs.
        accuracy: The accuracy to match, between 0 and 1.
        on: Examples on which accuracy is measured.

    Returns:
        The epoch and its network.

    Raises:
        InputError: If there are no networks.
    """
    found = [(abs(float(evaluation.correct(model, on).mean()) - accuracy), k, model) for k, model in networks]
    if not found:
        raise InputError("at least one epoch to match", "none", "give the networks of a training by epoch")
    _, epoch, model = min(found, key=lambda one: one[:2])
    return epoch, model


def compare_at_equal_accuracy(
    study: Study, data: DataSet, networks: dict[str, nn.Module], multiples: Sequence[float], progress: Progress[int]
) -> Table:
    """Make a table of clean accuracy and of accuracy under PGD at several radii, with 95 % intervals.

    Args:
        study: Sets ball, steps and number of images.
        data: Validation and test images.
        networks: Networks by name.
        multiples: The radii, in units of the study's.
        progress: Display of the progress.
    """
    examples = data.test.take(slice(study.evaluation.examples))
    rows: list[tuple[Cell, ...]] = []
    for name, model in networks.items():
        counted = [evaluation.correct(model, data.validation), evaluation.correct(model, data.test)]
        for multiple in multiples:
            attack = PGD(study.ball(multiple), steps=study.evaluation.steps)
            outcome = evaluation.attack(
                model, examples, attack, seed=study.seed, progress=progress,
                heading=f"attacking {name} at {multiple:g} radii",
            )  # fmt: skip
            counted.append(outcome.robust)
        rows.append((name, *(_compute_share(values) for values in counted)))
    columns = (
        NETWORK,
        Column("validation", "Clean accuracy on the validation split, which selects the epoch.", ".1%"),
        Column("clean", "Accuracy on the test set.", ".1%"),
        *(
            Column(f"PGD at {m:g} radii", "Accuracy under PGD at this multiple of the study's radius.", ".1%")
            for m in multiples
        ),
    )
    conditions = {
        "attacks": f"PGD-{study.evaluation.steps} on {examples.describe('test')}, {study.norm}, radius {study.radius}",
    }
    caption = "With 95 % intervals. The epoch of normal training is the one of nearest validation accuracy."
    return Table("At equal clean accuracy", columns, tuple(rows), caption, conditions)


def _compute_share(true: np.ndarray) -> Cell:
    share = proportion(int(true.sum()), len(true))
    return (share.value, share.low, share.high)
