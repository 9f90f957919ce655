"""Compare an attack that follows gradients with one that does not, to detect masked gradients."""

from collections.abc import Mapping

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.data import Examples
from lowcurve.losses import margin
from lowcurve.results import Cell, Column, Points, Result, Scatter, Table
from lowcurve.types import AttackFunction, Progress, silent


def compare_attacks(
    models: Mapping[str, nn.Module],
    examples: Examples,
    first: tuple[str, AttackFunction],
    second: tuple[str, AttackFunction],
    *,
    seed: int = 0,
    progress: Progress[int] = silent,
) -> dict[str, Result]:
    """Compare each image's margin z_y - max_{k != y} z_k after two attacks.

    An image lies below the diagonal if the second attack reached the lower margin. Many images far below it show that the
    gradients which the first attack follows mislead it. Both attacks run to their end on every image, misclassified ones too.

    Args:
        models: Networks by name.
        examples: Images with their labels.
        first: Name and attack on the horizontal axis. The attack follows gradients.
        second: Name and attack on the vertical axis.
        seed: Seed of the attacks.
        progress: Display of the progress.

    Returns:
        A scatter plot "both attacks" and a table "below" with one row per network.

    Reference: moosavi2019cure, Fig. 7.
    """
    points: dict[str, Points] = {}
    rows: list[tuple[Cell, ...]] = []
    for name, model in models.items():
        x, y = (
            evaluation.adversarial_loss(model, examples, attack, loss=margin, seed=seed, progress=progress).astype(
                float
            )
            for _, attack in (first, second)
        )
        points[name] = Points(tuple(x.tolist()), tuple(y.tolist()))
        distance = np.abs(y - x)
        correlation = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else None
        shares = (y < x, (x > 0) & (y <= 0), x > 0, y > 0)
        rows.append(
            (name, *(float(s.mean()) for s in shares), float(np.median(y - x)), float(distance.max()), correlation)
        )
    columns = (
        Column("network"),
        Column("below", f"Share of images at which {second[0]} reached the lower margin.", ".1%"),
        Column(f"fooled by {second[0]} only", f"Share robust to {first[0]} and fooled by {second[0]}.", ".1%"),
        Column(f"robust to {first[0]}", "Share of images with a positive margin.", ".1%"),
        Column(f"robust to {second[0]}", "Share of images with a positive margin.", ".1%"),
        Column("difference", "Median of the second margin minus the first."),
        Column("farthest", "Largest absolute difference of the two margins."),
        Column("correlation", "Correlation of the two margins over images."),
    )
    conditions = {
        "examples": examples.describe("test"),
        "loss": "margin z_y − max z_k of attack and comparison",
    }
    scatter = Scatter(
        f"Margin after {second[0]} against margin after {first[0]}", f"margin after {first[0]}",
        f"margin after {second[0]}", points, "Below 0 an image is misclassified. Below the diagonal the attack without "
        "gradients reached the lower margin.", conditions, diagonal=True,
    )  # fmt: skip
    return {
        "both attacks": scatter,
        "below": Table("Two attacks compared image by image", columns, tuple(rows), "", conditions),
    }
