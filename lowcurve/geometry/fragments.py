"""Describe the classes predicted on a slice: the share of each and its number of connected components.

Both depend on the window and the spacing of the grid; report these with the numbers.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lowcurve.errors import InputError

Decisions = Int[Tensor, "batch a b"]
"""The predicted class at every grid point, such as `surface(lambda x: model(x).argmax(1), plane, a, b)`."""


def class_shares(decisions: Decisions, classes: int) -> Float[Tensor, "batch classes"]:
    """Compute the share of grid points at which each class is predicted.

    Args:
        decisions: Predicted classes, integers of shape (batch, len(a), len(b)).
        classes: Number of the network's classes.

    Returns:
        Shares of shape (batch, classes); a row sums to 1.

    Raises:
        InputError: If `decisions` has another shape or holds other numbers than classes.

    Example:
        >>> class_shares(torch.tensor([[[0, 2], [2, 2]]]), 3)
        tensor([[0.2500, 0.0000, 0.7500]])

    Reference: bardusco_report, Figs. 3 and 4.
    """
    _require_decisions(decisions, classes)
    counts = torch.stack([torch.bincount(grid.flatten(), minlength=classes) for grid in decisions])
    return counts / decisions[0].numel()


def class_components(decisions: Decisions, classes: int) -> Int[Tensor, "batch classes"]:
    """Count the connected components of each class on a slice.

    Grid points are neighbors along a and along b, not diagonally. Two components on a plane may belong to one region of input
    space. The sum over classes is the slice's fragmentation.

    Args:
        decisions: Predicted classes, integers of shape (batch, len(a), len(b)).
        classes: Number of the network's classes.

    Returns:
        Counts of shape (batch, classes); 0 where a class is not predicted.

    Raises:
        InputError: If `decisions` has another shape or holds other numbers than classes.

    Cost: one pass over the grid for each class that is predicted, on the CPU.

    Example:
        >>> class_components(torch.tensor([[[0, 1], [1, 0]], [[0, 0], [1, 0]]]), 3)
        tensor([[2, 2, 0],
                [1, 1, 0]])

    Reference: bardusco_report, Fig. 3; Somepalli et al. 2022 (fragmentation).
    """
    _require_decisions(decisions, classes)
    from scipy import ndimage

    counts = torch.zeros(len(decisions), classes, dtype=torch.long)
    for row, grid in enumerate(decisions.cpu().numpy()):
        for label in np.unique(grid):
            counts[row, label] = ndimage.label(grid == label)[1]
    return counts.to(decisions.device)


def _require_decisions(decisions: Decisions, classes: int) -> None:
    if decisions.ndim != 3 or decisions.is_floating_point() or not decisions.numel():
        received = f"{decisions.dtype} of shape {tuple(decisions.shape)}"
        hint = "write surface(lambda x: model(x).argmax(1), ...)"
        raise InputError("predicted classes (batch, a, b)", received, hint)
    if int(decisions.min()) < 0 or int(decisions.max()) >= classes:
        received = f"{int(decisions.min())} to {int(decisions.max())}"
        hint = "give the number of the network's classes"
        raise InputError(f"predicted classes from 0 to {classes - 1}", received, hint)
