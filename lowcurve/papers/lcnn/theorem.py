"""Check Theorem 1 of srinivas2022lcnn on two networks with known derivatives: one with two units a layer, one with one."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from lowcurve.geometry import Curvature
from lowcurve.models.composition import curvature_summands
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.papers.common.context import Context, Reproduction
from lowcurve.randomness import temporary_seed
from lowcurve.results import Column, Table, holds

PLACES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Inputs beta x. The two numbers of `make_chain((1, -1))` are equal at asinh(1 / sqrt(8)) = 0.347."""


def make_chain(weights: Sequence[float], beta: float = 1.0) -> nn.Sequential:
    """Make the network sum_i s0(w_i x) of one input, in double precision.

    Args:
        weights: The weights w_i, one per unit.
        beta: The sharpness of s0.

    Example:
        >>> round(make_chain((1.0, -1.0))(torch.ones(1, 1).double()).item(), 4)  # 2 log cosh(1/2)
        0.2402
    """
    with temporary_seed(0, "weights"):
        widen, add = nn.Linear(1, len(weights), bias=False), nn.Linear(len(weights), 1, bias=False)
    widen.weight.data.copy_(torch.tensor(weights)[:, None])
    add.weight.data.fill_(1.0)
    return nn.Sequential(widen, CenteredSoftplus(beta, floor=0.0), add).double()


def compare_with_sum(name: str, weights: Sequence[float]) -> list[tuple[str, float, float, float]]:
    """Compute beta x, ||H|| / (beta ||g||) and the theorem's sum over beta at each of `PLACES`.

    Args:
        name: Name of the network.
        weights: As for `make_chain`.

    Example:
        >>> _, place, ratio, bound = compare_with_sum("two units", (1.0, -1.0))[2]
        >>> round(ratio * math.sinh(place), 6), round(bound, 4)  # 1 and 2 sqrt(2)
        (1.0, 2.8284)
    """
    model = make_chain(weights)
    x = torch.tensor(PLACES, dtype=torch.double)[:, None]
    ratios = Curvature(1)(lambda x: model(x)[:, 0], x)["normalized curvature"]
    total = math.fsum(one.value for one in curvature_summands(model, x))
    return [(name, place, float(ratio), total) for place, ratio in zip(PLACES, ratios, strict=True)]


def theorem_1(context: Context) -> Reproduction:  # noqa: ARG001 (the signature of an item)
    """Compare ||H|| / ||g|| with the sum that Theorem 1 says is its bound.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Lemma 1 and Theorem 1.
    """
    two = compare_with_sum("s₀(x) + s₀(−x)", (1.0, -1.0))
    one = compare_with_sum("s₀(x)", (1.0,))
    columns = (
        Column("network", "With one input and one output."),
        Column("βx", "The input, in units of 1/β."),
        Column("‖H‖ / β‖g‖", "1 / sinh(βx) for two units, 1 − s₀′ for one."),
        Column("sum / β", "The sum of Theorem 1."),
    )
    worst = max(two, key=lambda row: row[2])
    claims = [
        holds(
            "the sum bounds ‖H‖/‖g‖ of s₀(x) + s₀(−x)", "Theorem 1", all(row[2] <= row[3] for row in two),
            f"‖H‖/‖g‖ {worst[2]:.3g} β at βx = {worst[1]:g}, sum {worst[3]:.3g} β", told=True,
        ),
        holds("the sum bounds ‖H‖/‖g‖ of one unit", "Lemma 1", all(row[2] <= row[3] for row in one), told=True),
    ]  # fmt: skip
    return Reproduction({"numbers": Table("Theorem 1 where gradients cancel", columns, (*two, *one))}, claims)
