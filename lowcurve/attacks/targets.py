"""Targets of attacks: away from the true label, or towards another class."""

from typing import Literal

import torch

from lowcurve.attacks.state import AttackBatch
from lowcurve.errors import InputError
from lowcurve.losses import evaluate_loss, least_likely
from lowcurve.types import Labels, Logits, Loss, PerExample

Target = int | Literal["least-likely"] | None
"""None: away from the true label. "least-likely": the class of smallest clean logit. k: the k-th likeliest other class."""


def require_target(target: object) -> None:
    """Check a target.

    Raises:
        InputError: If it is neither None nor "least-likely" nor a whole number of at least 1.
    """
    rank = isinstance(target, int) and not isinstance(target, bool) and target >= 1
    if target is not None and target != "least-likely" and not rank:
        raise InputError('a target None, "least-likely" or 1, 2, ...', repr(target), "write target=1 for the runner-up")


def target_class(target: Target, logits: Logits, y: Labels) -> Labels:
    """Return the class towards which each image is led, never its true one.

    A rank beyond the number of other classes means the last of them, so one attack fits any number of classes.

    Args:
        target: "least-likely" or a rank.
        logits: Logits at the clean images, (batch, classes).
        y: True labels, (batch,).

    Raises:
        InputError: If the target is None.

    Example:
        >>> logits, y = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])
        >>> target_class(1, logits, y), target_class("least-likely", logits, y)
        (tensor([2]), tensor([1]))
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    if target is None:
        raise InputError("a target to lead to", "None", "write target=1 for the runner-up")
    if target == "least-likely":
        return least_likely(logits.scatter(1, y[:, None], torch.inf))
    rank = min(int(target), logits.shape[1] - 1)
    return others.topk(rank, dim=1).indices[:, -1]


def attack_objective(loss: Loss, target: Target, batch: AttackBatch, logits: Logits) -> PerExample:
    """Return what an attack maximizes: the loss at the true label, or minus the loss at the target."""
    if target is None:
        return evaluate_loss(loss, logits, batch.y)
    towards = target_class(target, batch.clean_logits, batch.y) if batch.targets is None else batch.targets
    return -evaluate_loss(loss, logits, towards)
