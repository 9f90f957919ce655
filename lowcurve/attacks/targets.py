"""Where an attack leads: away from the true label, or towards another class."""

from typing import Literal

import torch

from lowcurve.attacks.state import Images
from lowcurve.errors import InputError
from lowcurve.losses import least_likely
from lowcurve.types import Labels, Logits, Loss, PerExample

Target = int | Literal["least-likely"] | None
"""None: away from the true label. "least-likely": the class of smallest clean logit. k: the k-th likeliest other class."""


def require_target(target: object) -> None:
    """Refuse what is not a target."""
    rank = isinstance(target, int) and not isinstance(target, bool) and target >= 1
    if target is not None and target != "least-likely" and not rank:
        raise InputError('a target None, "least-likely" or 1, 2, ...', repr(target), "write target=1 for the runner-up")


def target_of(target: Target, logits: Logits, y: Labels) -> Labels:
    """The class that each image is led to, from its clean logits: never its true one.

    A rank beyond the number of other classes means the last of them, so the same attack serves two classes and ten.

    Example:
        >>> target_of(1, torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])), target_of("least-likely",
        ...     torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        (tensor([2]), tensor([1]))
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    if target is None:
        raise InputError("a target to lead to", "None", "write target=1 for the runner-up")
    if target == "least-likely":
        return least_likely(logits.scatter(1, y[:, None], torch.inf))
    rank = min(int(target), logits.shape[1] - 1)
    return others.topk(rank, dim=1).indices[:, -1]


def aim(loss: Loss, target: Target, images: Images, logits: Logits) -> PerExample:
    """What an attack ascends: the loss at the true label, or the loss at the target with its sign turned."""
    if target is None:
        return loss(logits, images.y)
    return -loss(logits, target_of(target, images.logits, images.y))
