"""Whether gradients are masked: the loss that a search without gradients reaches, beside that of one with them."""

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
    """Each image's margin z_y - max z_k after two attacks, against one another; how many lie below the diagonal.

    Below it the second attack went lower. Where its margins are lower by more than the first's own scatter, the gradients
    that the first followed mislead it. Both go to their end on every image, wrong ones too.

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
        away = np.abs(y - x)
        correlation = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else None
        shares = (y < x, (x > 0) & (y <= 0), x > 0, y > 0)
        rows.append((name, *(float(s.mean()) for s in shares), float(np.median(y - x)), float(away.max()), correlation))
    columns = (
        Column("network"),
        Column("below", f"Share of images at which {second[0]} went lower.", ".1%"),
        Column("fooled by it alone", f"Share that stands under {first[0]} and falls to {second[0]}.", ".1%"),
        Column(f"stands under {first[0]}", "", ".1%"),
        Column(f"stands under {second[0]}", "", ".1%"),
        Column("difference", "Median of the second margin less the first."),
        Column("farthest", "Largest distance of the two margins."),
        Column("correlation", "Of the two margins over images."),
    )
    conditions = {"examples": f"{len(examples)} of the test set", "loss": "margin z_y − max z_k, of attack and judge"}
    scatter = Scatter(
        f"Margin after {second[0]} against margin after {first[0]}", f"margin after {first[0]}",
        f"margin after {second[0]}", points, "Below 0 an image is misclassified; below the diagonal the search without "
        "gradients went lower.", conditions, diagonal=True,
    )  # fmt: skip
    return {
        "both attacks": scatter,
        "below": Table("Two attacks, image by image", columns, tuple(rows), "", conditions),
    }
