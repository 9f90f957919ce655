"""The classes of a slice: which share of it each holds, and in how many pieces.

decisions: the predicted class at every grid point, integers (batch, len(a), len(b)), such as
`surface(lambda x: model(x).argmax(1), plane, a, b)`. Both are numbers of a window and a spacing, which belong with them:
what is finer than the spacing is not seen.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lowcurve.errors import InputError

Decisions = Int[Tensor, "batch a b"]


def class_shares(decisions: Decisions, classes: int) -> Float[Tensor, "batch classes"]:
    """The share of the grid points at which each class is predicted, shape (batch, classes); a row sums to 1.

    Example:
        >>> class_shares(torch.tensor([[[0, 2], [2, 2]]]), 3)
        tensor([[0.2500, 0.0000, 0.7500]])

    Reference: bardusco_report, Figs. 3 and 4.
    """
    _require_decisions(decisions, classes)
    return _counted(decisions, torch.ones_like(decisions, dtype=torch.bool), classes) / decisions[:1].numel()


def class_components(decisions: Decisions, classes: int) -> Int[Tensor, "batch classes"]:
    """In how many connected pieces each class lies on the slice, shape (batch, classes): 0 where it is not predicted.

    Grid points are neighbors along a and along b, not across corners. A single point is a piece. Two pieces on a plane may be
    one region outside it: a count of the plane, not of the region. Their sum is the slice's fragmentation.
    Cost: a few passes over the grid, all slices at once.

    Example:
        >>> class_components(torch.tensor([[[0, 1], [1, 0]], [[0, 0], [1, 0]]]), 3)
        tensor([[2, 2, 0],
                [1, 1, 0]])

    Reference: bardusco_report, Fig. 3; Somepalli et al. 2022 (fragmentation).
    """
    _require_decisions(decisions, classes)
    place = torch.arange(decisions.numel(), device=decisions.device).view(decisions.shape)
    alike = decisions[:, 1:] == decisions[:, :-1], decisions[:, :, 1:] == decisions[:, :, :-1]
    one = torch.cat([place[:, 1:][alike[0]], place[:, :, 1:][alike[1]]])
    other = torch.cat([place[:, :-1][alike[0]], place[:, :, :-1][alike[1]]])
    # Each point names a point of its piece; the smallest of them comes to stand for all.
    named = place.flatten()
    while True:
        high, low = torch.maximum(named[one], named[other]), torch.minimum(named[one], named[other])
        apart = high > low
        if not bool(apart.any()):
            break
        named = named.scatter_reduce(0, high[apart], low[apart], "amin")
        while not torch.equal(nearer := named[named], named):
            named = nearer
    return _counted(decisions, named.view(decisions.shape) == place, classes)


def _counted(decisions: Decisions, counts: Tensor, classes: int) -> Tensor:
    """How many of the points that count each class has on each slice."""
    slice_ = torch.arange(len(decisions), device=decisions.device)[:, None, None]
    return torch.bincount((slice_ * classes + decisions)[counts], minlength=len(decisions) * classes).view(-1, classes)


def _require_decisions(decisions: Decisions, classes: int) -> None:
    if decisions.ndim != 3 or decisions.is_floating_point() or not decisions.numel():
        received = f"{decisions.dtype} of shape {tuple(decisions.shape)}"
        raise InputError(
            "predicted classes (batch, a, b)", received, "write surface(lambda x: model(x).argmax(1), ...)"
        )
    if int(decisions.min()) < 0 or int(decisions.max()) >= classes:
        found = f"{int(decisions.min())} to {int(decisions.max())}"
        raise InputError(
            f"predicted classes from 0 to {classes - 1}", found, "give the number of the network's classes"
        )
